// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that two processes share: the only place of this crate with `unsafe`.
//!
//! [`region`] makes and maps sealed memory objects; it, [`file_io`], [`host_bar`] and [`transcript`] are where the
//! unsafe code is; everything else sees shared memory as atomics behind a checked view. A peer may write anything at
//! any time: every field is read once into a private copy, checked, and only then used. Under `cfg(loom)` the atomics
//! and the futex are the model checker's, and views are plain heap objects: `tests/loom_*.rs` then try every
//! interleaving.

#[cfg(not(loom))]
pub mod checkpoint;
#[cfg(not(loom))]
mod coherency;
#[cfg(not(loom))]
pub mod command_queue;
#[cfg(not(loom))]
pub mod device_memory;
pub mod dirty_log;
#[cfg(not(loom))]
pub mod file_io;
mod futex;
#[cfg(not(loom))]
pub mod guest_memory;
#[cfg(not(loom))]
pub mod host_bar;
#[cfg(not(loom))]
pub mod journal;
pub mod memory_file;
#[cfg(not(loom))]
pub mod msi_board;
#[cfg(not(loom))]
pub mod peer_file;
pub mod region;
#[cfg(not(loom))]
pub mod register_page;
pub mod ring;
mod sync;
#[cfg(not(loom))]
pub mod transcript;
