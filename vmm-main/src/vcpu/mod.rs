// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process: the guest's CPUs, its interrupt controller, and the few devices that live with them.
//!
//! ```text
//!   main thread      control requests (ipc::service)          -> process.rs
//!   vCPU threads     guest code; accesses outside RAM         -> cpu_thread.rs, bus.rs, remote.rs
//!   console thread   UART <-> coordinator                     -> console.rs
//!   irq thread       eventfds of other processes -> GIC       -> irq.rs
//!   bus threads      what of a function's BARs is memory      -> windows.rs
//! ```
//!
//! All but the main thread and the bus threads obey one switch, the [`gate`]. What is written here for software vCPUs holds for
//! KVM ones: the same control requests, the same bus, the same state units where the unit is the same thing.

mod bus;
mod console;
mod cpu_thread;
mod dirty;
mod doorbell;
mod gate;
mod intx;
mod irq;
mod machine;
mod pci_host;
mod process;
mod remote;
mod rtc;
mod saved;
mod uart;
mod windows;

pub use process::{VcpuProcess, run};
