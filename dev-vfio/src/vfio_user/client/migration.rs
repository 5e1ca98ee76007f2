// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO migration v2 of a server's device: stopping it, and streaming its state in pieces without buffering it.
//!
//! STOP does no DMA; STOP_COPY and RESUMING are entered from there and left for it. The bytes are opaque: neither
//! parsed nor trusted, only counted. Every answer has a deadline, and so has the whole state: a server that sends
//! without end, or a byte a second, fails only this attempt. Each error names the step.

use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::vfio_user::connection::{Connection, InFlight};
use ipc::vfio_user::feature::{FeatureOp, MIG_DEVICE_STATE, MigDeviceState, MigState};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::migration::MigData;
use zerocopy::IntoBytes;

use super::{Client, ClientError, feature};
use crate::saved::DATA_PIECE_MAX;

impl Client {
    /// Whether the device can be stopped, and its state saved and restored.
    pub fn has_migration(&self) -> bool {
        self.stoppable
    }

    /// Stops or resumes the device, if it has migration states: stopped, it does no DMA and keeps requests in
    /// progress.
    ///
    /// # Errors
    /// If the connection fails, or the device refuses.
    pub fn set_running(&self, running: bool) -> Result<(), ClientError> {
        if self.stoppable {
            self.set_state(if running { MigState::Running } else { MigState::Stop })?;
            if !running {
                // Its last transfers are answered, and whoever answers them has a moment to say so. What is not is in
                // flight.
                let until = Deadline::after(budget::vfio::ANSWERED);
                let _ = self.connection.await_answered(until);
                self.twin.iter().for_each(|twin| _ = twin.await_answered(until));
            }
        }
        Ok(())
    }

    /// Stops reading from the connection, and returns what is in flight on it while the device is stopped.
    pub fn park(&self) -> InFlight {
        self.connection.park();
        self.twin.iter().for_each(|twin| _ = twin.park());
        self.in_flight()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> InFlight {
        let main = self.connection.in_flight();
        let twin = self.twin.as_ref().map(Connection::in_flight).unwrap_or_default();
        InFlight {
            commands: main.commands.saturating_add(twin.commands),
            requests: main.requests.saturating_add(twin.requests),
            torn: main.torn || twin.torn,
        }
    }

    /// Resumes reading from the connection.
    pub fn unpark(&self) {
        self.connection.unpark();
        self.twin.iter().for_each(Connection::unpark);
    }

    /// Whether the server's commands have a socket of their own.
    pub fn has_twin(&self) -> bool {
        self.twin.is_some()
    }

    /// Saves the state of a stopped device, piece by piece, and leaves the device stopped.
    ///
    /// # Errors
    /// If the connection or `sink` fails, the device refuses a transition, or the state is too long.
    pub fn take_state(
        &self,
        len_max: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<u64, ClientError> {
        let until = Deadline::after(budget::vfio::DATA);
        self.set_state(MigState::StopCopy)?;
        let wanted = self.session.data_len.min(DATA_PIECE_MAX);
        let mut len: u64 = 0;
        let outcome = loop {
            match self.read_piece(wanted, until) {
                Ok(piece) => {
                    let count = piece.len();
                    len = len.saturating_add(count as u64);
                    if len > len_max {
                        break Err(ClientError::StateLong { len_max });
                    }
                    // An empty or short piece is the last.
                    if count > 0
                        && let Err(error) = sink(&piece)
                    {
                        break Err(error);
                    }
                    if count < wanted {
                        break Ok(len);
                    }
                }
                Err(error) => break Err(error.at("MIG_DATA_READ in STOP_COPY")),
            }
        };
        // A failed attempt leaves it stopped too, if possible.
        let back = match &outcome {
            Err(error) if !error.leaves_connection() => Ok(()),
            _ => self.set_state(MigState::Stop),
        };
        outcome.and_then(|len| back.map(|()| len))
    }

    /// Restores the state into a device out of reset, piece by piece, and leaves the device stopped. `next` returns
    /// the next piece; `None` is the end.
    ///
    /// # Errors
    /// If the connection or `next` fails, or the device refuses a transition or the state.
    pub fn give_state(
        &self,
        mut next: impl FnMut() -> Result<Option<Vec<u8>>, ClientError>,
    ) -> Result<(), ClientError> {
        let until = Deadline::after(budget::vfio::DATA);
        if !self.stoppable {
            return Err(ClientError::NoMigration);
        }
        self.set_state(MigState::Resuming)?;
        while let Some(piece) = next()? {
            for part in piece.chunks(self.session.data_len.max(1)) {
                let head = MigData::new(part.len());
                let by = until.min(Deadline::after(budget::vfio::ANSWER));
                let sent =
                    self.connection.request(Command::MIG_DATA_WRITE, &[head.as_bytes(), part], &[], by);
                sent.map_err(|error| ClientError::from(error).at("MIG_DATA_WRITE in RESUMING"))?;
            }
        }
        // The device validates the state at this transition.
        self.set_state(MigState::Stop)
    }

    fn read_piece(&self, wanted: usize, until: Deadline) -> Result<Vec<u8>, ClientError> {
        if until.has_passed() {
            return Err(ClientError::StateSlow);
        }
        let head = MigData::new(wanted);
        let by = until.min(Deadline::after(budget::vfio::ANSWER));
        let answer = self.connection.request(Command::MIG_DATA_READ, &[head.as_bytes()], &[], by)?;
        match MigData::decode_read_reply(&answer.body, wanted) {
            Ok(piece) => Ok(piece.to_vec()),
            Err(error) => Err(self.connection.violated(error).into()),
        }
    }

    fn set_state(&self, state: MigState) -> Result<(), ClientError> {
        let data = MigDeviceState::new(state);
        let head = feature(MIG_DEVICE_STATE, FeatureOp::Set, size_of::<MigDeviceState>());
        let parts = [head.as_bytes(), data.as_bytes()];
        // The device drains requests in flight: as long as a pause may take.
        let by = Deadline::after(budget::vfio::STATE);
        let done = self.connection.request(Command::DEVICE_FEATURE, &parts, &[], by);
        done.map(drop).map_err(|error| ClientError::from(error).at(step(state)))
    }
}

/// The name of a request, for error messages.
const fn step(state: MigState) -> &'static str {
    match state {
        MigState::Error => "MIG_DEVICE_STATE ERROR",
        MigState::Stop => "MIG_DEVICE_STATE STOP",
        MigState::Running => "MIG_DEVICE_STATE RUNNING",
        MigState::StopCopy => "MIG_DEVICE_STATE STOP_COPY",
        MigState::Resuming => "MIG_DEVICE_STATE RESUMING",
        MigState::RunningP2p => "MIG_DEVICE_STATE RUNNING_P2P",
        MigState::PreCopy => "MIG_DEVICE_STATE PRE_COPY",
        MigState::PreCopyP2p => "MIG_DEVICE_STATE PRE_COPY_P2P",
    }
}
