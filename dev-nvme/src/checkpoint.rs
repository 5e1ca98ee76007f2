// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller's checkpoint: what of its state is not in the journal's words, written whenever it changes.
//!
//! Everything but the positions of queues and the commands of the I/O queues: the saved state of an idle controller,
//! and what there is beside it while it works. Completions of I/O commands that are held back are not in it: those
//! commands are in the journal, and are executed again.

use ipc::saved::{SavedError, SavedState, UnitKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::saved::{NvmeV2, StateError};

/// Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointV1 {
    /// As of an idle controller.
    pub state: NvmeV2,
    /// Commands that delete a Submission Queue and wait for the queue's own: queue and command.
    pub deletions: Vec<(u16, u16)>,
    /// Completions of admin commands that are perhaps not in the host's memory: which entry of the queue, and its
    /// bytes.
    pub unposted: Vec<(u32, [u8; 16])>,
    /// A reset waits for commands that are under way.
    pub is_resetting: bool,
    /// It is one of the whole device.
    pub is_full_reset: bool,
}

impl SavedState for CheckpointV1 {
    const KIND: UnitKind = UnitKind::new("nvme-checkpoint");
    const VERSION: u16 = 1;
}

/// Why a checkpoint cannot be gone on from.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The life before has left none, or none that is whole.
    #[error("the controller's life before has left no whole checkpoint")]
    None,
    /// It is no unit of ours.
    #[error("the checkpoint is no state of a controller: {0}")]
    Unit(#[from] SavedError),
    /// This controller cannot be so.
    #[error("the checkpoint is of a controller that cannot be: {0}")]
    Controller(#[from] StateError),
}
