// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shadow doorbells: Doorbell Buffer Config, NVMe 1.4 sections 5.7 and 7.13.
//!
//! The host keeps doorbell values in a page and writes the register only when the new value passes the *EventIdx*
//! that the controller stores in a second page. While there is work the first page is polled between jobs, with each
//! EventIdx kept just behind the last value seen, so that no register write is needed; before polling stops it is
//! *armed*: EventIdx is set to the last value seen, and the page polled once more.
//!
//! A register write of such a queue is only a hint to poll: its value may be older than the one in memory. Polling is
//! a job like any other, so that it holds no lock, and ends before a reset, a pause or a save is complete. I/O queues
//! only; the admin queue's doorbells stay registers, as in Linux.

use super::jobs::NO_QUEUE;
use super::{Controller, Job, Ticket, admin::AdminOutcome, get_mut};
use crate::prp::PAGE_LEN;
use crate::spec::command::Command;
use crate::spec::registers::Doorbell;
use crate::spec::status::Status;

/// The two pages, and whether to poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The page that the host writes.
    pub doorbells: u64,
    /// The page that we write.
    pub event_indices: u64,
    /// A doorbell may have changed.
    pub due: bool,
    /// A polling job is in flight.
    pub looking: bool,
}

/// One shadow doorbell, and its last value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Which.
    pub doorbell: Doorbell,
    /// Address of its value.
    pub at: u64,
    /// Address of its EventIdx.
    pub event_index: u64,
    /// Its last value.
    pub seen: u32,
    /// It has changed.
    pub news: bool,
}

impl Shadow {
    /// Two pages, not polled yet.
    #[must_use]
    pub const fn new(doorbells: u64, event_indices: u64) -> Self {
        Self { doorbells, event_indices, due: true, looking: false }
    }

    fn watched(&self, doorbell: Doorbell, seen: u32) -> Watched {
        let offset = doorbell.offset();
        // Two pages hold all doorbells, and a page that was accepted does not wrap.
        Watched {
            doorbell,
            at: self.doorbells.wrapping_add(offset),
            event_index: self.event_indices.wrapping_add(offset),
            seen,
            news: false,
        }
    }
}

impl Watched {
    /// An EventIdx that the doorbell does not pass within one round of the queue: just behind the last value.
    #[must_use]
    pub const fn unreached(&self) -> u32 {
        // Hosts compare 16 bits.
        self.seen.wrapping_sub(1) & 0xffff
    }
}

impl Controller {
    /// Whether shadow doorbells are offered: only if host memory is mapped, so that polling needs no messages.
    pub const fn offer_shadow_doorbells(&mut self, offered: bool) {
        self.shadow_offered = offered;
    }

    /// Section 5.7. The pages are polled from now on.
    pub(super) fn configure_shadow(&mut self, command: &Command) -> AdminOutcome {
        if !self.shadow_offered {
            return AdminOutcome::status(Status::INVALID_OPCODE);
        }
        let pages = (command.prp1.get(), command.prp2.get());
        let usable = |page: u64| page != 0 && page.is_multiple_of(PAGE_LEN);
        if !usable(pages.0) || !usable(pages.1) {
            return AdminOutcome::status(Status::INVALID_FIELD);
        }
        self.watch(Shadow::new(pages.0, pages.1));
        AdminOutcome::status(Status::SUCCESS)
    }

    /// Begins to use two pages. Queues keep the values of their registers.
    pub(super) fn watch(&mut self, shadow: Shadow) {
        self.submission.iter_mut().flatten().for_each(|sq| sq.seen = sq.tail);
        self.completion.iter_mut().flatten().for_each(|cq| cq.seen = cq.head);
        self.shadow = Some(shadow);
    }

    /// Whether a write of this register is only a hint; if so, has the doorbells polled.
    pub(super) fn kicked(&mut self, doorbell: Doorbell) -> bool {
        let exists = match doorbell {
            Doorbell::SubmissionTail(queue) => queue > 0 && get_mut(&mut self.submission, queue).is_some(),
            Doorbell::CompletionHead(queue) => queue > 0 && get_mut(&mut self.completion, queue).is_some(),
        };
        let shadow = self.shadow.as_mut().filter(|_| exists);
        shadow.map(|shadow| shadow.due = true).is_some()
    }

    /// A queue was created: its EventIdx in memory is stale.
    pub(super) fn look_again(&mut self) {
        if let Some(shadow) = &mut self.shadow {
            shadow.due = true;
        }
    }

    /// Whether a polling job is due.
    pub(super) fn can_look(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.due && !shadow.looking)
    }

    pub(super) fn look_job(&mut self) -> Option<Job> {
        if !self.can_look() {
            return None;
        }
        let shadow = self.shadow.as_mut()?;
        (shadow.due, shadow.looking) = (false, true);
        let queues = (1u16..).zip(self.submission.iter().zip(&self.completion).skip(1));
        let mut watched = Vec::new();
        for (id, (sq, cq)) in queues {
            watched.extend(sq.as_ref().map(|sq| shadow.watched(Doorbell::SubmissionTail(id), sq.seen)));
            watched.extend(cq.as_ref().map(|cq| shadow.watched(Doorbell::CompletionHead(id), cq.seen)));
        }
        Some(Job::Look { ticket: Ticket { sqid: NO_QUEUE, epoch: self.epoch }, watched })
    }

    /// The result of a poll: each doorbell with its value in `seen`. If any changed, polling goes on. `armed`: the
    /// host will write the register at the next change, and no polling is needed until then.
    pub fn looked(&mut self, ticket: Ticket, watched: &[Watched], armed: bool) {
        if ticket.epoch != self.epoch {
            return;
        }
        let mut changed = false;
        for Watched { doorbell, seen: value, .. } in watched {
            let seen = match doorbell {
                Doorbell::SubmissionTail(id) => get_mut(&mut self.submission, *id).map(|sq| &mut sq.seen),
                Doorbell::CompletionHead(id) => get_mut(&mut self.completion, *id).map(|cq| &mut cq.seen),
            };
            // A queue may have been deleted meanwhile. An invalid value is reported once.
            let Some(seen) = seen.filter(|seen| **seen != *value) else { continue };
            *seen = *value;
            changed = true;
            match doorbell {
                Doorbell::SubmissionTail(id) => self.ring_tail(*id, *value),
                Doorbell::CompletionHead(id) => self.ring_head(*id, *value),
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.looking = false;
            shadow.due |= changed || !armed;
        }
    }

    /// The pages could not be accessed.
    pub fn look_failed(&mut self, ticket: Ticket) {
        if ticket.epoch == self.epoch {
            self.shadow = None;
            self.fail();
        }
    }
}

#[cfg(test)]
mod tests;
