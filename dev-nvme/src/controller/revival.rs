// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between the controller and what its next life finds if the process dies: what has changed, the checkpoint, and the
//! way back from both. What is found is as untrusted as its dead author, and validated as a saved state is.

use super::{Controller, Counters, Ticket, get, get_mut};
use crate::checkpoint::CheckpointV1;
use crate::identity::Identity;
use crate::journal::{FoundCommand, Position, Slot};
use crate::queue::{Posting, entry_address};
use crate::saved::StateError;
use crate::spec::command::Command;
use crate::spec::completion::COMPLETION_LEN;
use crate::spec::registers::SHST_OCCURRING;

/// What has changed of a controller and is not kept yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unkept {
    /// Something that is in the checkpoint.
    pub control: bool,
    /// There was a reset, and nothing is under way.
    pub is_reset: bool,
    /// Submission Queues with a new tail, one bit each.
    pub tails: u32,
    /// Completion Queues with a new head.
    pub heads: u32,
    /// Completion Queues of which entries were assigned.
    pub placed: u32,
    /// Submission Queues that were made.
    pub made: u32,
}

/// What the life before had begun.
#[derive(Clone, Copy, Debug)]
pub enum Begun {
    /// A command to be executed.
    Command {
        /// Its queue.
        ticket: Ticket,
        /// Its place in the journal.
        slot: Slot,
        /// As it was fetched.
        command: Command,
    },
    /// A completion to be written.
    Posting {
        /// Its queue.
        ticket: Ticket,
        /// The completion.
        posting: Posting,
    },
}

impl Unkept {
    /// Whether nothing is.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        let Self { control, is_reset: _, tails, heads, placed, made: _ } = *self;
        !control && tails | heads | placed == 0
    }
}

impl Begun {
    /// To be passed to [`Controller::finish`].
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        match self {
            Self::Command { ticket, .. } | Self::Posting { ticket, .. } => *ticket,
        }
    }

    /// Its place in the journal, if it has one, and its Submission Queue.
    #[must_use]
    pub fn slot(&self) -> Option<(Slot, u16)> {
        let slot = match self {
            Self::Command { slot, .. } => Some(*slot),
            Self::Posting { posting, .. } => posting.slot,
        };
        slot.map(|slot| (slot, self.ticket().sqid))
    }
}

impl Controller {
    /// What has changed since this was last asked.
    pub fn take_unkept(&mut self) -> Unkept {
        core::mem::take(&mut self.unkept)
    }

    /// Something beside the controller has changed that is in its checkpoint.
    pub const fn touch(&mut self) {
        self.unkept.control = true;
    }

    /// Whether the life before has died and this is the first time that it is asked.
    pub const fn take_revived(&mut self) -> bool {
        core::mem::replace(&mut self.is_revived, false)
    }

    /// A completion was assigned its place in this queue.
    pub(super) fn assigned(&mut self, cqid: u16, posting: &Posting) {
        if cqid == 0 {
            self.unposted.push(*posting);
            self.unkept.control = true;
        }
        self.unkept.placed |= 1 << cqid;
    }

    /// A completion is in the host's memory. That the checkpoint still has it does no harm: no other entry is at its
    /// place before the host has consumed it.
    pub fn posted(&mut self, posting: &Posting) {
        if posting.sqid == 0 {
            self.unposted.retain(|other| other != posting);
        }
    }

    /// Whether a ticket is of this epoch.
    #[must_use]
    pub const fn is_current(&self, ticket: Ticket) -> bool {
        ticket.epoch == self.epoch
    }

    /// How many commands were fetched from a Submission Queue.
    #[must_use]
    pub fn fetched_count(&self, sqid: u16) -> u64 {
        get(&self.submission, sqid).map_or(0, |sq| sq.fetched)
    }

    /// For the SMART log page.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counters never go back.
    pub fn raise_counters(&mut self, found: &Counters) {
        let ours = &mut self.counters;
        ours.bytes_read = ours.bytes_read.max(found.bytes_read);
        ours.bytes_written = ours.bytes_written.max(found.bytes_written);
        ours.reads = ours.reads.max(found.reads);
        ours.writes = ours.writes.max(found.writes);
    }

    /// How far each queue is that there is, of those with a bit in `among`.
    pub fn positions(&self, among: u32) -> impl Iterator<Item = (u16, Position)> {
        let queues = (0..).zip(self.submission.iter().zip(&self.completion));
        let queues = queues.filter(move |(id, _)| among & 1 << id != 0);
        queues.filter(|(_, (sq, cq))| sq.is_some() || cq.is_some()).map(|(id, (sq, cq))| {
            let (fetched, tail) = sq.as_ref().map_or((0, 0), |sq| (sq.fetched, sq.tail));
            let (placed, head) = cq.as_ref().map_or((0, 0), |cq| (cq.placed, cq.head));
            (id, Position { fetched, tail: tail.into(), placed, head: head.into() })
        })
    }

    /// The checkpoint, at any time. `config` and `msix` are the function's own.
    #[must_use]
    pub fn checkpoint(&self, config: Vec<u8>, msix: Vec<u8>) -> CheckpointV1 {
        let mut state = self.save(config, msix);
        // Their commands are in the journal.
        let io = state.v1.completion.iter_mut().filter(|cq| cq.id != 0);
        io.for_each(|cq| cq.held.clear());
        // One that was taken has not ended.
        state.v1.shutdown_wanted |= self.registers.csts.shst() == SHST_OCCURRING;
        let deletions = (0..).zip(&self.submission);
        let deletions = deletions.filter_map(|(id, sq)| Some((id, sq.as_ref()?.deletion?)));
        let size = get(&self.completion, 0).map_or(1, |cq| cq.size);
        let index = |place: u64| u32::try_from(place % u64::from(size)).unwrap_or(0);
        CheckpointV1 {
            state,
            deletions: deletions.collect(),
            unposted: self.unposted.iter().map(|posting| (index(posting.place), posting.entry)).collect(),
            is_resetting: self.resetting,
            is_full_reset: self.full_reset,
        }
    }

    /// The controller that has left this, paused, and what it had begun, which counts as jobs in flight.
    ///
    /// # Errors
    /// If it is of another disk, or invalid.
    pub fn revive(
        identity: Identity,
        found: &CheckpointV1,
        positions: &[Position],
        commands: &[FoundCommand],
    ) -> Result<(Self, Vec<Begun>), StateError> {
        let CheckpointV1 { state, deletions, unposted, is_resetting, is_full_reset } = found;
        let mut revived = Self::restore(identity, state)?;
        revived.is_revived = true;
        if *is_resetting {
            // What was under way is dropped, as it may be.
            revived.resetting = true;
            revived.full_reset = *is_full_reset;
            revived.end_reset_if_idle();
            return Ok((revived, Vec::new()));
        }
        revived.unkept.is_reset = false;
        for (id, position) in (0..).zip(positions) {
            revived.move_to(id, position)?;
        }
        let mut begun = revived.take_up(commands)?;
        begun.extend(revived.take_up_admin(unposted));
        for begun in &begun {
            revived.split(begun.ticket());
        }
        for (sqid, cid) in deletions {
            let Some(sq) = get_mut(&mut revived.submission, *sqid).filter(|_| *sqid != 0) else {
                return Err(StateError::Impossible {
                    what: "the deletion of a queue",
                    found: (*sqid).into(),
                });
            };
            sq.deletion = Some(*cid);
            if sq.jobs == 0 {
                revived.delete_submission_queue(*sqid, *cid);
            }
        }
        Ok((revived, begun))
    }

    /// How far a queue is. Of the admin queue the checkpoint says what was fetched and assigned.
    fn move_to(&mut self, id: u16, position: &Position) -> Result<(), StateError> {
        let Position { fetched, tail, placed, head } = *position;
        let index = |what, found: u64, size: u32| {
            let fits = u32::try_from(found).ok().filter(|index| *index < size);
            fits.ok_or(StateError::Impossible { what, found })
        };
        if let Some(sq) = get_mut(&mut self.submission, id) {
            sq.tail = index("the tail of a queue", tail, sq.size)?;
            sq.seen = sq.tail;
            if id != 0 {
                sq.fetched = fetched;
                // Less than the size.
                sq.head = u32::try_from(fetched % u64::from(sq.size)).unwrap_or(0);
            }
        }
        if let Some(cq) = get_mut(&mut self.completion, id) {
            cq.head = index("the head of a queue", head, cq.size)?;
            cq.seen = cq.head;
            if id != 0 {
                cq.place_next(placed);
            }
        }
        Ok(())
    }

    /// The commands of I/O queues that were fetched.
    fn take_up(&mut self, commands: &[FoundCommand]) -> Result<Vec<Begun>, StateError> {
        let (submission, epoch) = (&self.submission, self.epoch);
        // One that was written and never counted as fetched is fetched again.
        let is_fetched = |found: &&FoundCommand| {
            found.sqid != 0 && get(submission, found.sqid).is_some_and(|sq| found.number < sq.fetched)
        };
        let fetched: Vec<&FoundCommand> = commands.iter().filter(is_fetched).collect();
        let cqid = |sqid| get(submission, sqid).map_or(0, |sq| sq.cqid);
        for FoundCommand { sqid, completion, .. } in &fetched {
            let (Some((place, _)), Some(cq)) = (completion, get_mut(&mut self.completion, cqid(*sqid)))
            else {
                continue;
            };
            if *place >= cq.placed.saturating_add(u64::from(cq.size)) {
                return Err(StateError::Impossible { what: "the number of a completion", found: *place });
            }
            // The count of these comes after the slot.
            if *place >= cq.placed {
                cq.place_next(place + 1);
            }
        }
        let completion = &self.completion;
        let begun = fetched.into_iter().filter_map(|found| {
            let FoundCommand { slot, sqid, number: _, completion: done, command } = *found;
            let ticket = Ticket { sqid, epoch };
            let Some((place, entry)) = done else { return Some(Begun::Command { ticket, slot, command }) };
            let cq = get(completion, cqid(sqid)).filter(|cq| cq.unconsumed().contains(&place))?;
            let index = u32::try_from(place % u64::from(cq.size)).unwrap_or(0);
            let iova = entry_address(cq.base, index, COMPLETION_LEN);
            let posting = Posting { iova, entry, vector: cq.vector, place, sqid, slot: Some(slot) };
            Some(Begun::Posting { ticket, posting })
        });
        Ok(begun.collect())
    }

    /// The completions of the admin queue.
    fn take_up_admin(&mut self, unposted: &[(u32, [u8; 16])]) -> Vec<Begun> {
        let Some(cq) = get(&self.completion, 0) else { return Vec::new() };
        let ticket = Ticket { sqid: 0, epoch: self.epoch };
        let places =
            cq.unconsumed().map(|place| (u32::try_from(place % u64::from(cq.size)).unwrap_or(0), place));
        let postings = places.filter_map(|(index, place)| {
            let (_, entry) = unposted.iter().find(|(unposted, _)| *unposted == index)?;
            let iova = entry_address(cq.base, index, COMPLETION_LEN);
            Some(Posting { iova, entry: *entry, vector: cq.vector, place, sqid: 0, slot: None })
        });
        let postings: Vec<Posting> = postings.collect();
        self.unposted.clone_from(&postings);
        postings.into_iter().map(|posting| Begun::Posting { ticket, posting }).collect()
    }
}
