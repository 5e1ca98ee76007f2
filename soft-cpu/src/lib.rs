// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Empty until its first module lands.

pub mod gic;
