// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contract between the processes of one VM: messages, shared memory, addresses, saved state.

pub mod addr;
pub mod channel;
pub mod deadline;
pub mod error;
pub mod frame;
pub mod hello;
pub mod protocol;
pub mod saved;
pub mod service;
