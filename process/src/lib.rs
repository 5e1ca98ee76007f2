// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The frame of every sealed program of a VM: from `main` to the service loop, and the ring thread.
//!
//! ```text
//!   arguments ─► descriptors by name ─► seal ─► hello ─► Unconfigured ─► Ready ─► Loaded ─► Armed ─► the end
//!   [start]                                              [life], moved by the requests of [serve]
//! ```
//!
//! A program implements [`Program`]: its role, its descriptors, and what each request does. Its `main` is one call of
//! [`run`] with its profile. Only [`run`] serves a [`life::Life`], and only with a `Locked`.
#![forbid(unsafe_code)]

pub mod context;
pub mod life;
pub mod ring_thread;
mod serve;
mod start;
mod state_stream;

pub use context::{Context, Events};
pub use life::{
    Configured, Life, Program, Source, cannot_have_failed, no_checkpoint, no_device_behind, read_units,
};
pub use start::{StartError, run};
