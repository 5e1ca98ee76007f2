// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator, the vCPU programs, the command line and the control API.
pub mod machine;
mod probe;
pub mod vcpu;
