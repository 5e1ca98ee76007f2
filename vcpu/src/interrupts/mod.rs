// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts on their way to the interrupt controller, from devices in this process and in others.
//!
//! ```text
//!   controller   the seam: KVM's GIC or the software one; the SPI of a device in this process
//!   intx         pins of PCI functions, and the level-triggered lines that they share
//!   vectors      MSI-X vectors that the controller listens to by itself (KVM: irqfds)
//!   board        MSIs that a function's process brings over its board
//!   end_kicks    kicks of vCPUs for a KVM that loses the end of a level interrupt
//!   thread       one thread polls the doorbells of all devices in other processes
//! ```
//!
//! Each file uses only those above it, and nothing else of this crate but `gate` and `waker`: controllers, devices and
//! the function link use these, and these use none of them. `cargo xtask check` looks that no file here is in a circle.

pub mod board;
pub mod controller;
mod end_kicks;
pub mod intx;
pub mod thread;
pub mod vectors;
