// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator of a VM, and its command line.
//!
//! There are three parties. The *launcher* (`bulkhead run`) is an ordinary program: it reads the configuration, opens
//! files, owns the terminal and the control socket. The *coordinator* is sealed before it reads anything a user or
//! guest wrote: it owns every shared object and every process of the VM. The *client* commands (`ps`, `status`, ...)
//! speak to the coordinator through the socket. `DESIGN.md` says why.

pub mod api;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod launcher;
pub mod launcher_channel;
pub mod lifecycle;
pub mod migration;
pub mod printable;
pub mod problem;
mod readiness;
pub mod system;
