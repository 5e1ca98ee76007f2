// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the next life finds if this one dies: the register file, as it is between any two requests or steps.
//!
//! Written before anything that follows from it is visible to the guest: the register page, an interrupt, an answer in
//! the ring. So what the guest has seen is in the checkpoint; what is in the checkpoint and was not seen is shown by
//! the next life. The caches are not in it, for there are none: devices are attached anew. Nor are faults on their way
//! from a device to the Event queue.

use ipc::saved::{Reader, SavedError, SavedState, UnitKind, Writer};
use ipc::shm::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};
use smmu_arch::Model;
use thiserror::Error;

use crate::regfile::RegisterFile;
use crate::saved::{RestoreError, SmmuV1};
use crate::smmu::Smmu;

/// Version 1: the registers, with Updates that are not acknowledged yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointV1 {
    /// The registers; CR0ACK may be behind CR0.
    pub registers: SmmuV1,
    /// GBPA.Update reads as 1.
    pub gbpa_is_updating: bool,
}

impl SavedState for CheckpointV1 {
    const KIND: UnitKind = UnitKind::new("smmu-checkpoint");
    const VERSION: u16 = 1;
}

/// Why a checkpoint cannot be gone on from.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The life before has left none, or none that is whole.
    #[error("the life before has left no whole checkpoint")]
    None,
    /// It is no unit of ours.
    #[error("the checkpoint is no state of an SMMU: {0}")]
    Unit(#[from] SavedError),
    /// A device of this model cannot be so.
    #[error("the checkpoint is of an SMMU that cannot be: {0}")]
    Device(#[from] RestoreError),
}

/// Writes the checkpoints of one life.
#[derive(Debug)]
pub struct Keeper {
    object: Checkpoint,
    /// What the latest one has; none before this life has written any.
    kept: Option<RegisterFile>,
}

impl Keeper {
    /// Into this object, which an earlier life may still be the author of.
    pub const fn new(object: Checkpoint) -> Keeper {
        Keeper { object, kept: None }
    }

    /// Writes a checkpoint if the device is not as in the latest one. No earlier life writes any more.
    pub fn keep(&mut self, smmu: &Smmu) {
        if self.kept.as_ref() == Some(smmu.registers()) {
            return;
        }
        if self.kept.is_none() {
            self.object.adopt();
        }
        if let Err(why) = self.write(smmu) {
            // Of a fixed size, and small.
            ipc::log::error!("smmu: the checkpoint cannot be written: {why}");
            return;
        }
        self.kept = Some(smmu.registers().clone());
    }

    fn write(&mut self, smmu: &Smmu) -> Result<(), String> {
        let mut writer = Writer::new();
        writer.append(&smmu.checkpoint()).map_err(|error| error.to_string())?;
        self.object.write(&writer.finish()).map_err(|error| error.to_string())
    }

    /// The device as the life before has left it.
    ///
    /// # Errors
    /// If there is no checkpoint, or none that a device of this model can have written.
    pub fn found(&self, model: Model) -> Result<Smmu, CheckpointError> {
        let bytes = self.object.read().ok_or(CheckpointError::None)?;
        let mut reader = Reader::new(&bytes)?;
        let found = reader.take::<CheckpointV1>()?;
        reader.finish()?;
        Ok(Smmu::from_checkpoint(model, &found)?)
    }
}
