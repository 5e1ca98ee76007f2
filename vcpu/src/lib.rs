// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process: the guest's CPUs, its interrupt controller, and the few devices that live with them.
//!
//! ```text
//!   main thread      control requests (process)               -> program.rs
//!   vCPU threads     guest code; accesses outside RAM         -> cpu_thread.rs, bus.rs, remote.rs
//!   console thread   UART <-> coordinator                     -> console.rs
//!   irq thread       doorbells of other processes -> engine   -> interrupts/thread.rs
//!   commands thread  commands that the SMMU is late with     -> command_hold.rs
//!   function links   a function's memory and its vectors      -> function_link.rs
//! ```
//!
//! All but the main thread, that of commands and those of function links park at one [`gate`]. What executes guest code
//! is an [`engine`]: software CPUs ([`soft`]) in one program, those of the host in another. Control requests, bus,
//! devices and their state units are the same under both.

mod bus;
mod command_hold;
mod command_wait;
mod console;
mod cpu_hold;
mod cpu_thread;
mod engine;
mod function_link;
mod gate;
mod guest;
mod health;
mod interrupts;
mod kvm;
mod pci_host;
mod program;
mod remote;
mod rtc;
mod saved;
mod soft;
mod throttle;
mod uart;
mod waker;
mod window_memory;
mod windows;

#[cfg(target_arch = "aarch64")]
pub use kvm::{Kvm, install_kick_handler};
pub use program::VcpuProgram;
pub use soft::Soft;
