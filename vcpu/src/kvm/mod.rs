// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine of the host's CPUs: KVM on arm64 with its GICv3, ITS, PSCI and timers.
//!
//! ```text
//!   vm.rs     the VM: memory, counter, interrupts in, pause and resume    needs.rs      what KVM must be able to do
//!   cpu.rs    one vCPU: its loop, its registers                           memslots.rs   what memory it sees
//!   gic.rs    interrupt controller and ITS                                registers.rs  which registers are its state
//!   sys.rs    the ioctls that take addresses                              routes.rs     what an irqfd's number is
//!             windows of devices' memory, while the guest runs            window_slots.rs
//!                                                                         saved.rs      state units
//!                                                                         stats.rs      the kernel's count of exits
//!                                                                         held_time.rs  time that vCPUs are held
//! ```
//!
//! KVM accepts ioctls only from the address space that made the VM, so this process makes it: after sealing, from the
//! inherited descriptor of /dev/kvm. Pure modules are compiled and tested on every host.

#[cfg(any(target_arch = "aarch64", test))]
mod held_time;
#[cfg(any(target_arch = "aarch64", test))]
mod memslots;
#[cfg(any(target_arch = "aarch64", test))]
mod needs;
#[cfg(any(target_arch = "aarch64", test))]
mod registers;
#[cfg(any(target_arch = "aarch64", test))]
mod routes;
#[cfg(any(target_arch = "aarch64", test))]
mod saved;
#[cfg(any(target_arch = "aarch64", test))]
mod stats;

#[cfg(target_arch = "aarch64")]
mod cpu;
#[cfg(target_arch = "aarch64")]
mod engine;
#[cfg(target_arch = "aarch64")]
mod gic;
#[cfg(target_arch = "aarch64")]
mod level_ends;
#[cfg(target_arch = "aarch64")]
mod sys;
#[cfg(target_arch = "aarch64")]
mod vm;
#[cfg(target_arch = "aarch64")]
mod window_slots;

#[cfg(target_arch = "aarch64")]
pub use engine::Kvm;
#[cfg(target_arch = "aarch64")]
pub use sys::install_kick_handler;
