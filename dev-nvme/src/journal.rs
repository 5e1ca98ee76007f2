// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the next life of a process that dies goes on from: the checkpoint of the controller, how far its queues are,
//! and the commands that were fetched and whose completions are not known to be in the host's memory.
//!
//! ```text
//!   fetched: a slot each, then "so many fetched" ─► executed ─► entry and place in the slot ─► written, slot free
//! ```
//!
//! A command in a slot without a place is executed again: reads and writes are repeatable as long as the host has not
//! seen a completion, and it may order nothing between commands that are under way. One with a place was executed: its
//! entry is written again, the same bytes at the same place, where no other entry can be before the host has consumed
//! this one. So nothing has to be found out about the host's memory. Commands of the admin queue are no slots: each is
//! decided in one step, and its completion is in the checkpoint with what it has changed.
//!
//! All stores are made with the engine locked, each before what follows from it can be seen. A journal is written from
//! `begin` on: until then the life before may still be the one that goes on.

use ipc::error::Error;
use ipc::saved::{Reader, Writer};
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::journal::{JOURNAL_WORDS, Journal as Words};
use ipc::shm::region::Region;
use zerocopy::IntoBytes;

use crate::checkpoint::{CheckpointError, CheckpointV1};
use crate::controller::{Begun, Controller, Counters, Unkept};
use crate::identity::Identity;
use crate::queue::{Posting, QUEUES_MAX};
use crate::spec::command::{COMMAND_LEN, Command};

/// Commands that may be under way at once: as many as the workers can have, in full batches.
const SLOT_COUNT: usize = 512;
/// State; place; entry; command.
const SLOT_WORDS: usize = 16;
const PLACE: usize = 1;
const ENTRY: usize = 2;
const COMMAND: usize = 4;
/// Fetched and tail, placed and head of each queue.
const QUEUE_WORDS: usize = 4;
const COUNTERS: usize = (QUEUES_MAX as usize + 1) * QUEUE_WORDS;
const SLOTS: usize = JOURNAL_WORDS - SLOT_COUNT * SLOT_WORDS;

const _: () = assert!(COUNTERS + 4 <= SLOTS && COMMAND + COMMAND_LEN / 8 <= SLOT_WORDS);

/// The state and the place of a slot that are some: a queue's identifier, and a number in that queue.
const IS_SOME: u64 = 1 << 63;
const QUEUE_SHIFT: u32 = 48;
const NUMBER_MASK: u64 = (1 << QUEUE_SHIFT) - 1;

/// A command's place in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

/// How far a queue was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Entries fetched from the Submission Queue.
    pub fetched: u64,
    /// One past the last entry that the host submitted there.
    pub tail: u64,
    /// Entries assigned in the Completion Queue.
    pub placed: u64,
    /// The next entry that the host consumes there.
    pub head: u64,
}

/// A command that a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundCommand {
    /// Which slot.
    pub slot: Slot,
    /// Of which Submission Queue it is.
    pub sqid: u16,
    /// Its number there.
    pub number: u64,
    /// It was executed: the number of its entry in the Completion Queue, and the entry.
    pub completion: Option<(u64, [u8; 16])>,
    /// As it was fetched.
    pub command: Command,
}

/// The journal of one life.
#[derive(Debug)]
pub struct Journal {
    checkpoint: Checkpoint,
    words: Words,
    free: Vec<Slot>,
    /// The Submission Queue of the command in each slot.
    used: Vec<Option<u16>>,
    /// Configuration space and MSI-X table of the function.
    function: (Vec<u8>, Vec<u8>),
    /// No life before goes on.
    is_begun: bool,
    /// The host is gone: what comes of that is not the device's state.
    is_frozen: bool,
}

impl Journal {
    /// In this memory object.
    ///
    /// # Errors
    /// If it cannot be mapped, or has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        let slots = (0..SLOT_COUNT).filter_map(|slot| u16::try_from(slot).ok().map(Slot));
        Ok(Self {
            checkpoint: Checkpoint::attach(region)?,
            words: Words::attach(region)?,
            free: slots.rev().collect(),
            used: vec![None; SLOT_COUNT],
            function: (Vec::new(), Vec::new()),
            is_begun: false,
            is_frozen: false,
        })
    }

    /// The controller as the life before has left it, and what was under way; configuration space and MSI-X table with
    /// it.
    ///
    /// # Errors
    /// If there is no checkpoint, or it cannot be one of this controller.
    pub fn revive(&mut self, identity: Identity) -> Result<(Controller, Vec<Begun>), CheckpointError> {
        let bytes = self.checkpoint.read().ok_or(CheckpointError::None)?;
        let mut reader = Reader::new(&bytes)?;
        let found = reader.take::<CheckpointV1>()?;
        reader.finish()?;
        let positions: Vec<Position> = (0..=usize::from(QUEUES_MAX)).map(|id| self.position(id)).collect();
        let commands: Vec<FoundCommand> = (0..SLOT_COUNT).filter_map(|slot| self.command(slot)).collect();
        let (mut controller, begun) = Controller::revive(identity, &found, &positions, &commands)?;
        controller.raise_counters(&self.counters());
        self.function = (found.state.v1.config.clone(), found.state.v1.msix.clone());
        for (slot, sqid) in begun.iter().filter_map(Begun::slot) {
            self.free.retain(|free| *free != slot);
            if let Some(used) = self.used.get_mut(usize::from(slot.0)) {
                *used = Some(sqid);
            }
        }
        Ok((controller, begun))
    }

    /// Configuration space and MSI-X table.
    #[must_use]
    pub const fn function(&self) -> &(Vec<u8>, Vec<u8>) {
        &self.function
    }

    /// The function has changed.
    pub fn set_function(&mut self, config: Vec<u8>, msix: Vec<u8>) {
        self.function = (config, msix);
    }

    /// No life before goes on: from now on this one writes.
    pub fn begin(&mut self, controller: &Controller) {
        if self.is_begun || self.is_frozen {
            return;
        }
        self.checkpoint.adopt();
        self.is_begun = true;
        self.write(controller);
        for slot in self.free.clone() {
            self.store_slot(slot, 0, 0);
        }
    }

    /// The host is gone. What the controller makes of that is not what the next life goes on from.
    pub const fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// Whether it stays as it is.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    const fn writes(&self) -> bool {
        self.is_begun && !self.is_frozen
    }

    /// How many commands may be fetched.
    #[must_use]
    pub fn room(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// These commands were read from a Submission Queue, the first of them the one with this number: a slot for each.
    /// They are fetched when [`Self::keep_fetched`] says so.
    pub fn add(&mut self, sqid: u16, first: u64, commands: &[Command]) -> Vec<Option<Slot>> {
        let mut slots = Vec::with_capacity(commands.len());
        for (number, command) in (first..).zip(commands) {
            let slot = self.free.pop();
            if let Some(slot) = slot {
                if let Some(used) = self.used.get_mut(usize::from(slot.0)) {
                    *used = Some(sqid);
                }
                if self.writes() {
                    let (pieces, _) = command.as_bytes().as_chunks::<8>();
                    for (index, piece) in (COMMAND..).zip(pieces) {
                        self.store_slot(slot, index, u64::from_le_bytes(*piece));
                    }
                    self.store_slot(slot, PLACE, 0);
                    self.store_slot(slot, 0, tagged(sqid, number));
                }
            }
            slots.push(slot);
        }
        slots
    }

    /// So many entries of a Submission Queue were fetched: what counts of [`Self::add`].
    pub fn keep_fetched(&self, sqid: u16, fetched: u64) {
        if self.writes() {
            self.words.store(queue_word(sqid), fetched);
        }
    }

    /// A command was executed, and its completion assigned a place in its Completion Queue: to be followed by
    /// [`Self::keep`].
    pub fn assign(&self, posting: &Posting) {
        let Some(slot) = posting.slot.filter(|_| self.writes()) else { return };
        let (pieces, _) = posting.entry.as_chunks::<8>();
        for (index, piece) in (ENTRY..).zip(pieces) {
            self.store_slot(slot, index, u64::from_le_bytes(*piece));
        }
        self.store_slot(slot, PLACE, tagged(posting.sqid, posting.place));
    }

    /// The completion is in the host's memory, or will never be.
    pub fn free(&mut self, slot: Option<Slot>) {
        let Some(slot) = slot.filter(|_| !self.is_frozen) else { return };
        if self.is_begun {
            self.store_slot(slot, 0, 0);
        }
        if let Some(used) = self.used.get_mut(usize::from(slot.0))
            && used.take().is_some()
        {
            self.free.push(slot);
        }
    }

    /// Keeps what has changed of the controller.
    pub fn keep(&mut self, controller: &Controller, unkept: Unkept) {
        if !self.writes() {
            return;
        }
        let Unkept { control, is_reset, tails, heads, placed, made } = unkept;
        if control {
            // Commands of a queue of that identifier that there was before are none of the one that was made.
            self.disown(|sqid| made & 1 << sqid != 0);
            self.write(controller);
            if is_reset {
                // Nothing is under way.
                let used = (0..).zip(&self.used).filter_map(|(slot, used)| used.map(|_| Slot(slot)));
                used.collect::<Vec<_>>().into_iter().for_each(|slot| self.free(Some(slot)));
            }
            return;
        }
        for (id, position) in controller.positions(tails | heads | placed) {
            let changed = [(tails, position.tail), (placed, position.placed), (heads, position.head)];
            for (index, (queues, value)) in (queue_word(id) + 1..).zip(changed) {
                if queues & 1 << id != 0 {
                    self.words.store(index, value);
                }
            }
        }
        if placed != 0 {
            let Counters { bytes_read, bytes_written, reads, writes, .. } = *controller.counters();
            for (index, value) in (COUNTERS..).zip([bytes_read, bytes_written, reads, writes]) {
                self.words.store(index, value);
            }
        }
    }

    /// Everything. Positions first: of a queue that the checkpoint before has they are as they were, or newer.
    fn write(&mut self, controller: &Controller) {
        for (id, Position { fetched, tail, placed, head }) in controller.positions(u32::MAX) {
            for (index, value) in (queue_word(id)..).zip([fetched, tail, placed, head]) {
                self.words.store(index, value);
            }
        }
        let (config, msix) = self.function.clone();
        let mut writer = Writer::new();
        let written = writer.append(&controller.checkpoint(config, msix)).map_err(|error| error.to_string());
        let written =
            written.and_then(|()| self.checkpoint.write(&writer.finish()).map_err(|error| error.to_string()));
        if let Err(why) = written {
            // Of bounded size, and small.
            ipc::log::error!("nvme: the checkpoint cannot be written: {why}");
        }
    }

    fn disown(&self, is_meant: impl Fn(u16) -> bool) {
        for (slot, used) in (0..).zip(&self.used) {
            if used.is_some_and(&is_meant) {
                self.store_slot(Slot(slot), 0, 0);
            }
        }
    }

    fn store_slot(&self, Slot(slot): Slot, index: usize, value: u64) {
        self.words.store(SLOTS + usize::from(slot) * SLOT_WORDS + index, value);
    }

    fn position(&self, id: usize) -> Position {
        let word = |index| self.words.load(id * QUEUE_WORDS + index);
        Position { fetched: word(0), tail: word(1), placed: word(2), head: word(3) }
    }

    fn counters(&self) -> Counters {
        let word = |index| self.words.load(COUNTERS + index);
        Counters {
            bytes_read: word(0),
            bytes_written: word(1),
            reads: word(2),
            writes: word(3),
            ..Counters::default()
        }
    }

    /// What stands in a slot, if it is a command.
    fn command(&self, slot: usize) -> Option<FoundCommand> {
        let word = |index| self.words.load(SLOTS + slot * SLOT_WORDS + index);
        let (sqid, number) = untagged(word(0))?;
        let completion = untagged(word(PLACE)).filter(|(of, _)| *of == sqid);
        let completion = completion.map(|(_, place)| {
            let mut entry = [0; 16];
            for (bytes, index) in entry.as_chunks_mut::<8>().0.iter_mut().zip(ENTRY..) {
                *bytes = word(index).to_le_bytes();
            }
            (place, entry)
        });
        let mut bytes = [0; COMMAND_LEN];
        for (piece, index) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(COMMAND..) {
            *piece = word(index).to_le_bytes();
        }
        let slot = Slot(u16::try_from(slot).ok()?);
        Some(FoundCommand { slot, sqid, number, completion, command: zerocopy::transmute!(bytes) })
    }
}

fn queue_word(id: u16) -> usize {
    usize::from(id) * QUEUE_WORDS
}

fn tagged(queue: u16, number: u64) -> u64 {
    IS_SOME | u64::from(queue) << QUEUE_SHIFT | number & NUMBER_MASK
}

fn untagged(word: u64) -> Option<(u16, u64)> {
    let queue = u16::try_from((word & !IS_SOME) >> QUEUE_SHIFT).ok()?;
    (word & IS_SOME != 0 && queue <= QUEUES_MAX).then_some((queue, word & NUMBER_MASK))
}
