// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Synchronisation primitives of vCPU threads: the host's, or the model checker's (`--cfg loom`).
//!
//! Used by what the models of `model/` run: the cluster and the order of guest accesses. Guest memory itself is not
//! here: the models stand atomics of their own in its place.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use std::sync::atomic::Ordering;
