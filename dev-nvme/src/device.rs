// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI device: BAR 0 and configuration space onto the controller, resets, and migration states.
//!
//! No sockets: the server calls this for a client's requests, tests call it directly. Resets and migration states
//! wait until nothing is in flight, so that after the answer to a reset, or to a transition to a stopped state, no
//! DMA is done any more. The transitions are VFIO's, [`MigState::next`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc::protocol::budget;
use ipc::saved::{Reader, Writer};
use ipc::vfio_user::feature::MigState;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::controller::Controller;
use crate::engine::{Engine, Host};
use crate::identity::Identity;
use crate::journal::Journal;
use crate::media::Media;
use crate::pci::config::{CONFIG_LEN, ConfigEffect, ConfigSpace};
use crate::pci::msix::MsixTable;
use crate::pci::{BAR0_LEN, MSIX_PBA, MSIX_TABLE};
use crate::saved::{NvmeV1, NvmeV2, StateError};

/// How long requests in flight may take once their client has gone: a disk that does not answer by then is considered
/// dead.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// The same while a client waits for a reset: short enough for an error answer before the client's own timeout.
pub const RESET_DRAIN: Duration = budget::vfio::ANSWER.saturating_sub(Duration::from_secs(1));
/// The same while a client waits for the device to stop; the flush comes after it.
pub const STOP_DRAIN: Duration = budget::vfio::STATE.saturating_sub(Duration::from_secs(5));

/// The largest state accepted: far above any possible one, with a full log and every queue holding back completions.
const STATE_LEN_MAX: usize = 4 << 20;

/// A part of the device that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// BAR 0.
    Bar0,
    /// Configuration space.
    Config,
}

impl Region {
    /// Its length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        match self {
            Self::Bar0 => BAR0_LEN,
            Self::Config => CONFIG_LEN,
        }
    }

    /// No region has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// Why a request to the device failed.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// I/O in flight did not end in time.
    #[error("I/O in flight did not end in {} s", .0.as_secs())]
    NotIdle(Duration),
    /// No transition leads from one state to the other.
    #[error("no transition from migration state {from:?} to {to:?}")]
    NoWay {
        /// Where it is.
        from: MigState,
        /// Where it was to go.
        to: MigState,
    },
    /// Migration data in a state that has none.
    #[error("migration data in state {0:?}, which transfers none")]
    NoData(MigState),
    /// Longer than any state.
    #[error("migration data is longer than any state: {STATE_LEN_MAX:#x} bytes")]
    DataLong,
    /// The state is not valid for this device.
    #[error(transparent)]
    State(#[from] StateError),
    /// The image could not be flushed.
    #[error("the image could not be flushed: {0}")]
    Flush(std::io::Error),
}

/// An NVMe controller as a PCI function with an image: registers, resets, interrupts, migration.
pub struct Device {
    engine: Arc<Engine>,
    identity: Identity,
    function: Mutex<Function>,
    migration: Mutex<Migration>,
}

#[derive(Default)]
struct Function {
    config: ConfigSpace,
    msix: MsixTable,
}

struct Migration {
    state: MigState,
    /// State to be read, or as written so far.
    data: Vec<u8>,
    read: usize,
}

impl Device {
    /// A device out of reset, with no host.
    #[must_use]
    pub fn new(identity: Identity, media: Box<dyn Media>) -> Self {
        let engine = Arc::new(Engine::new(identity.clone(), media));
        let migration = Mutex::new(Migration::running());
        Self { engine, identity, function: Mutex::new(Function::default()), migration }
    }

    /// Keeps what a next life needs in `journal`, from [`Self::begin`] on.
    pub fn keep_in(&self, journal: Journal) {
        self.engine.keep_in(journal, Vec::new());
        self.keep_function();
    }

    /// Becomes what the life before has left in `journal`, stopped: what that had begun goes on when it runs.
    ///
    /// # Errors
    /// If there is nothing, or it cannot be a state of this device.
    pub fn revive(&self, mut journal: Journal) -> Result<(), CheckpointError> {
        let (controller, begun) = journal.revive(self.identity.clone())?;
        let (config, msix) = journal.function();
        {
            let mut function = self.function();
            function.config.restore(config);
            function.msix.restore(msix);
        }
        self.engine.with(|ours| *ours = controller);
        self.engine.keep_in(journal, begun);
        self.migration().state = MigState::Stop;
        Ok(())
    }

    /// Becomes a device that has failed, stopped, of which nothing is known: the host has to reset the controller. What
    /// lives before have left in `journal` is not read.
    pub fn fail_in(&self, journal: Journal) {
        self.engine.with(|ours| *ours = Controller::failed(self.identity.clone()));
        self.keep_in(journal);
        self.migration().state = MigState::Stop;
    }

    /// No life before goes on: from now on the journal is written.
    pub fn begin(&self) {
        self.engine.begin_journal();
    }

    /// The host has gone, and comes back with a next life of this process: the journal stays as it is, and what is
    /// under way is dropped here. Does nothing without a journal.
    pub fn freeze(&self) {
        self.engine.freeze_journal();
    }

    fn keep_function(&self) {
        let (config, msix) = {
            let function = self.function();
            (function.config.save(), function.msix.save())
        };
        self.engine.keep_function(config, msix);
    }

    /// The engine that executes its jobs; worker threads call it.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Reads a range of a region that is inside it.
    pub fn read(&self, region: Region, offset: u64, bytes: &mut [u8]) {
        match region {
            Region::Config => self.function().config.read(offset, bytes),
            Region::Bar0 if offset >= MSIX_PBA => bytes.fill(0),
            Region::Bar0 if offset >= MSIX_TABLE => self.function().msix.read(offset - MSIX_TABLE, bytes),
            Region::Bar0 => {
                let value = self.engine.with(|controller| controller.read_register(offset, bytes.len()));
                let value = value.to_le_bytes();
                bytes.fill(0);
                for (byte, read) in bytes.iter_mut().zip(value) {
                    *byte = read;
                }
            }
        }
    }

    /// Writes a range of a region that is inside it.
    ///
    /// # Errors
    /// `NotIdle` if the write requests a reset that does not complete.
    pub fn write(&self, region: Region, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        match region {
            Region::Config => {
                let effect = self.function().config.write(offset, bytes);
                self.keep_function();
                if effect == ConfigEffect::Reset {
                    return self.reset();
                }
            }
            Region::Bar0 if offset >= MSIX_PBA => {}
            Region::Bar0 if offset >= MSIX_TABLE => {
                self.function().msix.write(offset - MSIX_TABLE, bytes);
                self.keep_function();
            }
            Region::Bar0 => {
                let mut value = [0; 8];
                for (cell, byte) in value.iter_mut().zip(bytes) {
                    *cell = *byte;
                }
                let value = u64::from_le_bytes(value);
                self.engine.with(|controller| controller.write_register(offset, bytes.len(), value));
            }
        }
        Ok(())
    }

    /// Resets everything, the migration state too. No DMA is done any more when this returns.
    ///
    /// # Errors
    /// `NotIdle`: the device is unusable until requests in flight have ended.
    pub fn reset(&self) -> Result<(), DeviceError> {
        self.reset_within(RESET_DRAIN)
    }

    /// The same at the end of a session, when no client waits for it.
    ///
    /// # Errors
    /// `NotIdle`, as before.
    pub fn reset_at_end(&self) -> Result<(), DeviceError> {
        self.reset_within(DRAIN_DEADLINE)
    }

    fn reset_within(&self, span: Duration) -> Result<(), DeviceError> {
        let mut migration = self.migration();
        self.engine.go_on();
        self.engine.with(|controller| controller.begin_reset(true));
        *self.function() = Function::default();
        self.keep_function();
        self.drain(span)?;
        *migration = Migration::running();
        Ok(())
    }

    /// Connects a host to a device that was reset.
    pub fn connect(&self, host: Host) {
        self.engine.connect(host);
    }

    fn drain(&self, span: Duration) -> Result<(), DeviceError> {
        if self.engine.wait_idle(Instant::now() + span) { Ok(()) } else { Err(DeviceError::NotIdle(span)) }
    }

    /// The migration state it is in.
    #[must_use]
    pub fn migration_state(&self) -> MigState {
        self.migration().state
    }

    /// Moves to a migration state, transition by transition.
    ///
    /// # Errors
    /// If no transition leads there, or one fails: the device is then in the last state it reached, or in ERROR.
    pub fn set_migration_state(&self, to: MigState) -> Result<(), DeviceError> {
        let mut migration = self.migration();
        while migration.state != to {
            let from = migration.state;
            let next = from.next(to).ok_or(DeviceError::NoWay { from, to })?;
            if let Err(error) = self.step(&mut migration, next) {
                // A partly restored or partly drained device is in ERROR.
                migration.state = MigState::Error;
                return Err(error);
            }
            migration.state = next;
        }
        Ok(())
    }

    fn step(&self, migration: &mut Migration, to: MigState) -> Result<(), DeviceError> {
        match (migration.state, to) {
            // The state is small: PRE_COPY sends nothing.
            (MigState::Running | MigState::RunningP2p, MigState::PreCopy | MigState::PreCopyP2p)
            | (MigState::PreCopy, MigState::Running)
            | (MigState::PreCopyP2p, MigState::RunningP2p)
                if runs(migration.state) == runs(to) =>
            {
                migration.take(Vec::new());
            }
            (MigState::Resuming, MigState::Stop) => {
                self.restore(&std::mem::take(&mut migration.data))?;
                migration.take(Vec::new());
            }
            (MigState::Stop | MigState::PreCopyP2p, MigState::StopCopy) => migration.take(self.save()?),
            (_, MigState::Resuming) => migration.take(Vec::new()),
            (_, MigState::Stop) => {
                // Completed writes are on disk, wherever the image is opened next.
                self.engine.flush().map_err(DeviceError::Flush)?;
                migration.take(Vec::new());
            }
            (from, _) if !runs(from) && runs(to) => self.go_on(),
            (from, _) if runs(from) && !runs(to) => {
                self.engine.with(|controller| controller.set_paused(true));
                self.drain(STOP_DRAIN)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Runs. If a life before has died, the host's interrupts may have been lost with it.
    fn go_on(&self) {
        let vectors = self.engine.with(|controller| {
            let has_died = controller.take_revived();
            if has_died { controller.vectors_to_repeat() } else { Vec::new() }
        });
        self.engine.go_on();
        for vector in vectors {
            self.engine.raise(vector);
        }
    }

    fn save(&self) -> Result<Vec<u8>, DeviceError> {
        self.engine.flush().map_err(DeviceError::Flush)?;
        let (config, msix) = {
            let function = self.function();
            (function.config.save(), function.msix.save())
        };
        let state = self.engine.with(|controller| controller.save(config, msix));
        let mut writer = Writer::new();
        writer.append(&state).map_err(StateError::from)?;
        Ok(writer.finish())
    }

    fn restore(&self, stream: &[u8]) -> Result<(), DeviceError> {
        let mut reader = Reader::new(stream).map_err(StateError::from)?;
        let state: NvmeV2 = reader.take_or_previous::<_, NvmeV1>().map_err(StateError::from)?;
        reader.finish().map_err(StateError::from)?;
        let restored = Controller::restore(self.identity.clone(), &state)?;
        let vectors = restored.vectors_to_repeat();
        self.engine.with(|controller| *controller = restored.succeed(controller));
        let mut function = self.function();
        function.config.restore(&state.v1.config);
        function.msix.restore(&state.v1.msix);
        drop(function);
        self.keep_function();
        for vector in vectors {
            self.engine.raise(vector);
        }
        Ok(())
    }

    /// The next piece of the state, at most `len` bytes: less if it is the last.
    ///
    /// # Errors
    /// `NoData` in a state that has none to read.
    pub fn read_migration_data(&self, len: usize) -> Result<Vec<u8>, DeviceError> {
        let mut migration = self.migration();
        match migration.state {
            MigState::PreCopy | MigState::PreCopyP2p | MigState::StopCopy => {
                let rest = migration.data.get(migration.read..).unwrap_or_default();
                let piece = rest.get(..len.min(rest.len())).unwrap_or_default().to_vec();
                migration.read += piece.len();
                Ok(piece)
            }
            other => Err(DeviceError::NoData(other)),
        }
    }

    /// Takes a piece of a state.
    ///
    /// # Errors
    /// `NoData` in a state that takes none, `DataLong` if it is too much.
    pub fn write_migration_data(&self, piece: &[u8]) -> Result<(), DeviceError> {
        let mut migration = self.migration();
        if migration.state != MigState::Resuming {
            return Err(DeviceError::NoData(migration.state));
        }
        if migration.data.len() + piece.len() > STATE_LEN_MAX {
            return Err(DeviceError::DataLong);
        }
        migration.data.extend_from_slice(piece);
        Ok(())
    }

    fn function(&self) -> std::sync::MutexGuard<'_, Function> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn migration(&self) -> std::sync::MutexGuard<'_, Migration> {
        self.migration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a device in this state does DMA: all of ours goes through the client, peer-to-peer or not.
const fn runs(state: MigState) -> bool {
    matches!(state, MigState::Running | MigState::PreCopy)
}

impl Migration {
    const fn running() -> Self {
        Self { state: MigState::Running, data: Vec::new(), read: 0 }
    }

    fn take(&mut self, data: Vec<u8>) {
        self.data = data;
        self.read = 0;
    }
}
