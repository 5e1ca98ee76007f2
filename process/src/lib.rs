// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every sealed program of a VM is made of: the way from `main` to a service loop, and the threads that all have.
//!
//! ```text
//!   arguments ─► descriptors by name ─► seal ─► hello ─► Unconfigured ─► Ready ─► Loaded ─► Armed ─► the end
//!   [start]                                              [life], moved by the requests of [serve]
//! ```
//!
//! A program is a [`Program`]: its role, what it takes, and what each request does to it. Its `main` is one call of
//! [`run`] with its profile. Nothing else makes a [`life::Life`] that serves, and that only with a `Locked`.
#![forbid(unsafe_code)]

pub mod context;
pub mod life;
pub mod ring_thread;
mod serve;
mod start;
mod state_stream;

pub use context::{Context, Events};
pub use life::{Configured, Life, Program, Source, no_device_behind, read_units};
pub use start::{StartError, run};
