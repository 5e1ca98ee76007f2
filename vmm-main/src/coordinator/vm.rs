// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life cycle of a VM: its phases, who may change them, what may fail, and the consequence.
//!
//! ```text
//!             every process is started and configured, then the    pause: CPUs, devices, vSMMU
//!             way in: load, arm, replay, go                       ┌────────────────────────────┐
//!   Created ────────────────────────────────────────► Running ──┤                            ├─► Paused
//!      ▲                                               │ │  ▲    └────────────────────────────┘     │
//!      │  guest resets: every process ends,            │ │  └── resume: vSMMU, devices, CPUs ◄──────┘
//!      └───────── servers are connected to anew ◄──────┘ │
//!                                                        └─► save/restore: stays Running
//!   from everywhere:  stop, power-off, launcher gone, a loss that ends the VM
//!                     ─► Stopping: CPUs' process ends, then all others ─► Stopped, which is final
//! ```
//!
//! **Three parts.** [`state_machine`] decides: events in, actions out, no I/O. [`driver`] carries out its actions and
//! passes it events. Each process has a task ([`super::process`]) that owns its channel and notices its end. So no
//! process, whatever it does, delays the events of another; and a stop waits for nothing.
//!
//! **What may fail.**
//! - *A boot.* The guest does not load, or a process cannot be started or configured: the VM ends, before a guest has
//!   run.
//! - *A device*, at its start or later: the guest goes on without it; if the device is required, the VM ends.
//! - *A process*: it dies, is silent past a deadline, breaks the contract, or another process names it. Whatever is
//!   under way, its failure policy applies at once ([`plan::FailurePolicy`]): the VM ends, or goes on without the
//!   device.
//! - *A pause or a resume* that a process refuses is undone, and the phase stays what it was. A process that refuses
//!   this too is lost.
//! - *A save/restore*, up to its commit, which ends the old processes: the new ones are discarded, and the guest goes
//!   on in the old ones. From the commit on a loss is as in a running VM.
//! - *The end.* A process that a kill does not end is named in the answer to `stop`.
//!
//! **Lives.** A process belongs to an instance of the system table and to a generation; both are in its
//! [`event::LifeId`], and events of an older life are ignored. Two lives of an instance exist only in a save/restore,
//! and the new one begins when the old one is reaped. Generations are the VM's own count today; that one instance
//! begins a new life alone is a transition of its life, not of the VM's phase.

pub mod action;
mod dirty_logs;
mod dirty_rate;
pub mod driver;
pub mod event;
mod execution;
mod launches;
mod loading;
mod migration;
mod notices;
mod plan;
mod programs;
mod saved_state;
mod snapshot;
mod state_machine;

pub use driver::{Given, Moved, Vm};
pub use programs::Opened;
