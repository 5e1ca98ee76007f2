// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saved state of a process: its state units in a memory file, sealed against writes once the process has replied.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use ipc::instance::InstanceId;
use ipc::protocol::control::SAVED_LEN_MAX;
use ipc::shm::memory_file;

use crate::problem::Problem;

/// The saved state of one process.
#[derive(Debug)]
pub struct SavedState {
    instance: InstanceId,
    memory: OwnedFd,
    /// Bytes of state units in it.
    pub len: u64,
}

/// Why a saved state was not accepted.
#[derive(Debug)]
pub enum NotKept {
    /// The host refused.
    Host(Problem),
    /// The process claims more than it wrote, or more than is allowed.
    Claim(String),
}

impl SavedState {
    /// An empty state, and the descriptor by which the process writes it.
    pub fn new(instance: InstanceId) -> Result<(Self, OwnedFd), Problem> {
        let memory =
            memory_file::create(&format!("saved-{instance}")).map_err(|error| not_kept(instance, &error))?;
        let theirs = memory.try_clone().map_err(|error| not_kept(instance, &error))?;
        Ok((Self { instance, memory, len: 0 }, theirs))
    }

    /// Accepts the `len` bytes that the process reports to have written, and seals the file.
    pub fn keep(&mut self, len: u64) -> Result<(), NotKept> {
        let host = |error: &dyn std::fmt::Display| NotKept::Host(not_kept(self.instance, error));
        memory_file::seal(&self.memory).map_err(|error| host(&error))?;
        let file = self.memory.as_fd().try_clone_to_owned().map(File::from);
        let held = file.and_then(|file| file.metadata()).map_err(|error| host(&error))?.len();
        if len > held || len > SAVED_LEN_MAX {
            return Err(NotKept::Claim(format!("it claims {len:#x} bytes of state and wrote {held:#x}")));
        }
        self.len = len;
        Ok(())
    }

    /// The memory file, for the process that loads the state.
    pub fn memory_for(&self, instance: InstanceId) -> Result<OwnedFd, Problem> {
        self.memory.try_clone().map_err(|error| {
            Problem::host(
                format!("the state of {instance} cannot be passed on: {error}"),
                "restore",
                "check the limit on open files",
            )
        })
    }
}

fn not_kept(instance: InstanceId, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(
        format!("the state of {instance} cannot be kept: {error}"),
        "save",
        "check the limits on memory and open files",
    )
}
