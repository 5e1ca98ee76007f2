// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the next life finds if this process dies: the function as its last answer left it, and the latest value of each
//! doorbell that was posted to the device.
//!
//! An access stays in the ring until it is done, and is done again by the next life if it was not: the function's own
//! registers take that, and so do those of the device as far as its model says so ([`IdempotentRegisters`]). A posted
//! write is done, for the ring, when it is here; whether the device has seen it is not known any more when either
//! process dies, so it is posted again. Only the latest value of a register may be: an earlier one would take it back.
//! Any other write is made behind a read, which the device answers when it has seen all that was posted before, and
//! what is here is forgotten.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::error::Error;
use ipc::protocol::vfio::IdempotentRegisters;
use ipc::saved::{Reader, SavedState, Writer};
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::journal::Journal;
use ipc::shm::region::Region;
use ipc::vfio_user::region::SmallWrite;

use crate::saved::{ConnectionV1, FunctionV1};

/// Doorbells of one device: an NVMe controller of ours has 32.
const DOORBELLS_MAX: usize = 64;
/// A doorbell's key and value.
const DOORBELL_WORDS: usize = 2;

/// The key of a doorbell: there is one, its width, its offset.
const IS_SOME: u64 = 1 << 63;
const SIZE_SHIFT: u32 = 48;

/// Writes what the next life needs.
#[derive(Debug)]
pub struct Keeper {
    registers: IdempotentRegisters,
    state: Mutex<State>,
    /// No life before goes on: from now on this one writes.
    is_begun: AtomicBool,
}

#[derive(Debug)]
struct State {
    checkpoint: Checkpoint,
    journal: Journal,
    /// What the latest checkpoint has.
    kept: Option<FunctionV1>,
    /// What it has beside that, of a server that stays.
    connection: Option<ConnectionV1>,
    doorbells: Vec<Doorbell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doorbell {
    offset: u64,
    size: u8,
    value: u64,
}

impl Keeper {
    /// Into this memory object, for a device with these registers.
    ///
    /// # Errors
    /// If it cannot be mapped, or has another size.
    pub fn new(region: &Region, registers: IdempotentRegisters) -> Result<Self, Error> {
        let (checkpoint, journal) = (Checkpoint::attach(region)?, Journal::attach(region)?);
        let state = State { checkpoint, journal, kept: None, connection: None, doorbells: Vec::new() };
        Ok(Self { registers, state: Mutex::new(state), is_begun: AtomicBool::new(false) })
    }

    /// What the next life is to know of the connection to the device's server. Before [`Self::begin`].
    pub fn keep_connection(&self, connection: ConnectionV1) {
        self.state().connection = Some(connection);
    }

    /// The function as the life before has left it, and what it knew of the connection. The doorbells are taken over.
    ///
    /// # Errors
    /// Why it cannot be gone on from.
    pub fn revive(&self) -> Result<(FunctionV1, Option<ConnectionV1>), String> {
        let mut state = self.state();
        let bytes = state.checkpoint.read().ok_or("the life before has left no whole checkpoint")?;
        let mut reader = Reader::new(&bytes).map_err(|error| error.to_string())?;
        let function = reader.take::<FunctionV1>().map_err(|error| error.to_string())?;
        let connection = reader.take_unit(ConnectionV1::KIND).map(|unit| unit.decode()).transpose();
        let connection = connection.map_err(|error| error.to_string())?;
        reader.finish().map_err(|error| error.to_string())?;
        let found = (0..DOORBELLS_MAX).map_while(|index| state.found(index));
        let found: Vec<Doorbell> = found.collect();
        if let Some(bad) = found.iter().find(|bell| !self.is_doorbell(self.registers.region, bell.offset)) {
            return Err(format!("a doorbell at {:#x}, where the device has none", bad.offset));
        }
        state.doorbells = found;
        Ok((function, connection))
    }

    /// No life before goes on: from now on this one writes.
    pub fn begin(&self, function: &FunctionV1) {
        {
            let mut state = self.state();
            if self.is_begun.swap(true, Relaxed) {
                return;
            }
            state.checkpoint.adopt();
            let doorbells = state.doorbells.clone();
            // Those of the life before that this one has taken over stay where they are.
            let others = doorbells.len()..DOORBELLS_MAX;
            others.for_each(|index| state.journal.store(index * DOORBELL_WORDS, 0));
            for (index, doorbell) in (0..).zip(&doorbells) {
                state.store(index, *doorbell);
            }
        }
        self.keep(function);
    }

    /// Keeps the function, if it has changed. Before what follows from it is seen.
    pub fn keep(&self, function: &FunctionV1) {
        let mut state = self.state();
        if !self.is_begun.load(Relaxed) || state.kept.as_ref() == Some(function) {
            return;
        }
        let mut writer = Writer::new();
        let written = writer.append(function);
        let written = written.and_then(|()| state.connection.iter().try_for_each(|it| writer.append(it)));
        let written = written.map_err(|error| error.to_string());
        let written = written
            .and_then(|()| state.checkpoint.write(&writer.finish()).map_err(|error| error.to_string()));
        match written {
            Ok(()) => state.kept = Some(function.clone()),
            // Of bounded size, and small.
            Err(why) => ipc::log::error!("vfio: the function's checkpoint cannot be written: {why}"),
        }
    }

    /// Whether of this register only the latest value counts, however often it is written.
    pub fn is_doorbell(&self, region: u32, offset: u64) -> bool {
        region == self.registers.region && self.registers.doorbells.contains(&offset)
    }

    /// Keeps a doorbell before it is posted. False: there is no room, and the device has to be asked first.
    pub fn post(&self, offset: u64, size: u8, value: u64) -> bool {
        let mut state = self.state();
        let known = state.doorbells.iter().position(|bell| bell.offset == offset && bell.size == size);
        let index = known.unwrap_or(state.doorbells.len());
        if index >= DOORBELLS_MAX {
            return false;
        }
        let doorbell = Doorbell { offset, size, value };
        match state.doorbells.get_mut(index) {
            Some(known) => *known = doorbell,
            None => state.doorbells.push(doorbell),
        }
        if self.is_begun.load(Relaxed) {
            state.store(index, doorbell);
        }
        true
    }

    /// Whether a doorbell is kept.
    pub fn has_posts(&self) -> bool {
        !self.state().doorbells.is_empty()
    }

    /// The device has seen all that was posted.
    pub fn forget_posts(&self) {
        let mut state = self.state();
        // From the last to the first: what is left is always the first ones.
        for index in (0..state.doorbells.len()).rev() {
            state.journal.store(index * DOORBELL_WORDS, 0);
        }
        state.doorbells.clear();
    }

    /// What is to be posted again.
    pub fn posts(&self) -> Vec<SmallWrite> {
        let region = self.registers.region;
        let write = |bell: &Doorbell| SmallWrite::new(region, bell.offset, bell.size, bell.value);
        self.state().doorbells.iter().map(write).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The value first: a key makes it count. Of a doorbell that is there already the key stays.
    fn store(&self, index: usize, Doorbell { offset, size, value }: Doorbell) {
        self.journal.store(index * DOORBELL_WORDS + 1, value);
        self.journal.store(index * DOORBELL_WORDS, IS_SOME | u64::from(size) << SIZE_SHIFT | offset);
    }

    fn found(&self, index: usize) -> Option<Doorbell> {
        let key = self.journal.load(index * DOORBELL_WORDS);
        let size =
            u8::try_from((key & !IS_SOME) >> SIZE_SHIFT).ok().filter(|size| matches!(size, 1 | 2 | 4 | 8));
        let offset = key & ((1 << SIZE_SHIFT) - 1);
        let value = self.journal.load(index * DOORBELL_WORDS + 1);
        size.filter(|_| key & IS_SOME != 0).map(|size| Doorbell { offset, size, value })
    }
}
