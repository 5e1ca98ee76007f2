// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seam to the devices behind this SMMU: which streams to look at again, what to invalidate.
//!
//! The model never holds an attachment. It says which StreamIDs may have changed (a configuration
//! invalidation, SMMUEN, GBPA, the stream table, reset) and passes cached-translation invalidations on;
//! the sink re-evaluates each stream it knows and attaches abort, bypass or stage 1. A lookup that fails
//! attaches abort: it never leaves the old attachment. CMD_SYNC is consumed only after `sync` said `Done`:
//! then every invalidation before it has been answered by every device, or the device is known dead.
//! Calls come in command order, from the thread that steps the queue.

use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::Command;

/// Whether everything asked of the devices before has been answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncState {
    /// It has: the CMD_SYNC may be consumed.
    Done,
    /// Not yet: ask again when an answer came.
    Pending,
}

/// The devices behind the SMMU, as the model addresses them.
pub trait Stage1Sink {
    /// The configuration of these streams may have changed: look it up again.
    fn reevaluate(&mut self, streams: StreamRange);
    /// Drop cached context descriptors, translations or ATC entries as this command says.
    fn invalidate(&mut self, command: &Command);
    /// Whether all of the above has taken effect everywhere.
    fn sync(&mut self) -> SyncState;
}

/// No device is behind this SMMU: nothing is cached, so everything has always taken effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

impl Stage1Sink for NoDevices {
    fn reevaluate(&mut self, _streams: StreamRange) {}

    fn invalidate(&mut self, _command: &Command) {}

    fn sync(&mut self) -> SyncState {
        SyncState::Done
    }
}
