// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's states by migration v2: stopping it, and its own state in pieces, none of which is kept here.
//!
//! STOP does no DMA; STOP_COPY and RESUMING are entered from there and left for it. What the bytes are is the server's business:
//! they are neither looked at nor trusted, only counted. Every answer has a deadline, the whole of a state too: a server
//! that sends without end, or a byte a second, ends nothing but this attempt. Each error says which step it was.

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
    /// Whether the device can be stopped, and its state be taken out and in.
    pub fn has_migration(&self) -> bool {
        self.stoppable
    }

    /// Stops the device, or lets it go on, if it has such states: stopped, it does no DMA and holds what it has begun.
    ///
    /// # Errors
    /// The connection's, or that the device cannot.
    pub fn set_running(&self, running: bool) -> Result<(), ClientError> {
        if self.stoppable {
            self.set_state(if running { MigState::Running } else { MigState::Stop })?;
        }
        Ok(())
    }

    /// Reads no more from the connection, and says what is in flight on that of a stopped device.
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

    /// Reads from the connection again.
    pub fn unpark(&self) {
        self.connection.unpark();
        self.twin.iter().for_each(Connection::unpark);
    }

    /// Whether the server's commands have a socket of their own.
    pub fn has_twin(&self) -> bool {
        self.twin.is_some()
    }

    /// Takes the state of a stopped device out, piece by piece, and leaves the device stopped.
    ///
    /// # Errors
    /// The connection's, that the device refuses a step, `sink`'s, or that the state does not end.
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
                    // None, or a short one, is the last.
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
        // A failed attempt leaves it stopped too, if it can.
        let back = match &outcome {
            Err(error) if !error.leaves_connection() => Ok(()),
            _ => self.set_state(MigState::Stop),
        };
        outcome.and_then(|len| back.map(|()| len))
    }

    /// Gives the state to a device out of reset, piece by piece, and leaves the device stopped. `next` is the next piece;
    /// none is the end.
    ///
    /// # Errors
    /// The connection's, that the device refuses a step or the state, or `next`'s.
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
        // The device looks at the whole of it here.
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
        // What is in flight is waited for: as long as a pause may take.
        let by = Deadline::after(budget::vfio::STATE);
        let done = self.connection.request(Command::DEVICE_FEATURE, &parts, &[], by);
        done.map(drop).map_err(|error| ClientError::from(error).at(step(state)))
    }
}

/// What is asked of the server, in a message.
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
