// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process' side of a ring.

use std::time::Duration;

use super::interrupt::{Interrupt, WaitSlot};
use super::layout::{LANES, SLOTS, Shared};
use super::wait::Waiter;
use super::{Access, Op, RingError, Stop, truncate};
use crate::deadline::Deadline;
use crate::error::{Breach, Violation};
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::shm::sync::{Arc, AtomicU64, Mutex, fence, lock};

/// The requesting side; one per ring, for as long as the ring exists. Shared by the vCPU threads.
pub struct Requester {
    shared: View<Shared>,
    spin: Duration,
    queue: Mutex<Queue>,
    lanes: Arc<Lanes>,
}

/// Which lanes threads wait on, a bit for each.
#[derive(Debug)]
struct Lanes([AtomicU64; LANES.div_ceil(64)]);

/// What the requesters know about the queue. Private memory: a peer cannot touch it.
#[derive(Debug)]
struct Queue {
    /// How many requests were published.
    published: u64,
    /// How many of them are known to be completed.
    completed: u64,
    violation: Option<Violation>,
}

/// A request without an answer yet. If it is dropped the request is executed nevertheless, and its answer not read.
#[derive(Debug)]
pub struct Pending {
    lanes: Arc<Lanes>,
    ticket: Ticket,
}

/// What is needed to recognise an answer.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    sequence: u64,
    lane: u16,
    size: u8,
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The lane may be reused at once: the answer to this request carries its sequence number, and comes before the
        // answer to any later one.
        self.lanes.release(self.ticket.lane);
    }
}

/// The outcome of an attempt to queue.
enum Queued {
    Yes(Ticket),
    Full,
}

impl Requester {
    /// The requesting side of the ring in `region`, spinning for `spin` before it sleeps (see
    /// [`super::spin_for_host`]).
    ///
    /// # Errors
    /// A violation if it is not a ring of this version.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, spin: Duration) -> Result<Self, crate::error::Error> {
        Ok(Self::over(super::layout::attach(region)?, spin))
    }

    pub(super) fn over(shared: View<Shared>, spin: Duration) -> Self {
        let queue = Queue { published: 0, completed: 0, violation: None };
        Self { shared, spin, queue: Mutex::new(queue), lanes: Arc::new(Lanes::new()) }
    }

    /// Reads `size` bytes.
    ///
    /// # Errors
    /// `Unfinished` if the wait ended first; see [`RingError`] for what became of the request.
    pub fn read(
        &self,
        region: u16,
        offset: u64,
        size: u8,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<u64, RingError> {
        let ticket = self.enqueue(Access { region, offset, size, op: Op::Read }, interrupt, deadline)?;
        self.finish(ticket, interrupt, deadline)
    }

    /// Writes `size` bytes and waits until it is done.
    ///
    /// # Errors
    /// As for [`Requester::read`].
    pub fn write(
        &self,
        region: u16,
        offset: u64,
        size: u8,
        value: u64,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<(), RingError> {
        let access = Access { region, offset, size, op: Op::Write(value) };
        let ticket = self.enqueue(access, interrupt, deadline)?;
        self.finish(ticket, interrupt, deadline).map(|_| ())
    }

    /// Writes `size` bytes and returns once the write is queued. Waits only if the ring is full.
    ///
    /// # Errors
    /// `NotQueued` if it stayed full: the post may be made again.
    pub fn post(
        &self,
        region: u16,
        offset: u64,
        size: u8,
        value: u64,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<(), RingError> {
        let access = Access { region, offset, size, op: Op::Post(value) };
        self.enqueue(access, interrupt, deadline).map(|_| ())
    }

    /// Waits again for the answer to a request: the value of a read; of a write it has no meaning.
    ///
    /// # Errors
    /// `Unfinished` once more.
    pub fn wait(
        &self,
        pending: Pending,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<u64, RingError> {
        self.await_answer(pending.ticket, interrupt, deadline)
            .map_err(|why| RingError::Unfinished { why, pending })
    }

    /// How many requests are queued and not known to be completed: for `inspect`, and to see a ring run dry.
    ///
    /// # Errors
    /// A violation if the peer's count is out of range.
    pub fn outstanding(&self) -> Result<u64, Violation> {
        let mut queue = lock(&self.queue);
        self.refresh(&mut queue)?;
        Ok(queue.published.saturating_sub(queue.completed))
    }

    /// The generation of the responder that attached last, 0 if none did. Written by the peer, not trusted.
    #[must_use]
    pub fn responder_generation(&self) -> u64 {
        self.shared.identity.0.responder_generation.load(Relaxed)
    }

    /// Waits for an answer and frees its lane, or returns both in the error.
    fn finish(&self, ticket: Ticket, interrupt: &Interrupt, deadline: Deadline) -> Result<u64, RingError> {
        match self.await_answer(ticket, interrupt, deadline) {
            Ok(value) => {
                self.lanes.release(ticket.lane);
                Ok(value)
            }
            Err(why) => {
                let pending = Pending { lanes: Arc::clone(&self.lanes), ticket };
                Err(RingError::Unfinished { why, pending })
            }
        }
    }

    fn await_answer(&self, ticket: Ticket, interrupt: &Interrupt, deadline: Deadline) -> Result<u64, Stop> {
        let slot = WaitSlot::Lane(ticket.lane);
        let waiter = Waiter { shared: &self.shared, slot, spin: self.spin, interrupt, deadline };
        let lane = self.shared.lane(ticket.lane);
        let value = waiter.until(|| {
            let lane = lane.filter(|lane| lane.answered.load(Acquire) == ticket.sequence)?;
            Some(lane.value.load(Relaxed))
        })?;
        Ok(truncate(value, ticket.size))
    }

    fn enqueue(
        &self,
        access: Access,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<Ticket, RingError> {
        if !matches!(access.size, 1 | 2 | 4 | 8) {
            return Err(RingError::Size { size: access.size });
        }
        let waiter =
            Waiter { shared: &self.shared, slot: WaitSlot::Freed, spin: self.spin, interrupt, deadline };
        let attempt = waiter.until(|| match self.try_enqueue(access) {
            Ok(Queued::Full) => None,
            Ok(Queued::Yes(ticket)) => Some(Ok(ticket)),
            Err(error) => Some(Err(error)),
        });
        let queued = attempt.map_err(|why| RingError::NotQueued { why })??;
        // Pairs with the fence of a responder that is about to sleep.
        fence(SeqCst);
        let sleeps = &self.shared.responder_sleeps.0;
        if sleeps.load(Relaxed) != 0 && sleeps.swap(0, Relaxed) != 0 {
            sleeps.wake_all();
        }
        Ok(queued)
    }

    fn try_enqueue(&self, access: Access) -> Result<Queued, RingError> {
        let mut queue = lock(&self.queue);
        if queue.published.saturating_sub(queue.completed) >= SLOTS as u64 {
            self.refresh(&mut queue)?;
            if queue.published.saturating_sub(queue.completed) >= SLOTS as u64 {
                return Ok(Queued::Full);
            }
        }
        let sequence = queue.published.wrapping_add(1);
        let Some(slot) = self.shared.slot(sequence) else { return Ok(Queued::Full) };
        let lane = if access.op.is_awaited() { self.lanes.take().ok_or(RingError::NoLane)? } else { 0 };
        slot.publish(sequence, access, lane);
        queue.published = sequence;
        Ok(Queued::Yes(Ticket { sequence, lane, size: access.size }))
    }

    /// Reads the responder's count, and checks it.
    fn refresh(&self, queue: &mut Queue) -> Result<(), Violation> {
        if let Some(violation) = &queue.violation {
            return Err(violation.clone());
        }
        let completed = self.shared.progress.0.completed.load(Acquire);
        let (low, high) = (queue.completed, queue.published);
        if !(low..=high).contains(&completed) {
            let breach = Breach::RingIndex { index: completed, low, high };
            let violation = Violation::new("ring progress", breach);
            queue.violation = Some(violation.clone());
            return Err(violation);
        }
        queue.completed = completed;
        Ok(())
    }
}

impl Lanes {
    fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Takes the first free lane. One thread at a time: it holds the queue's lock.
    fn take(&self) -> Option<u16> {
        for (word, first) in self.0.iter().zip((0_u16..).step_by(64)) {
            let free = u16::try_from(word.load(Acquire).trailing_ones()).ok().filter(|bit| *bit < 64);
            if let Some(bit) = free
                && usize::from(first + bit) < LANES
            {
                word.fetch_or(1 << bit, Relaxed);
                return Some(first + bit);
            }
        }
        None
    }

    fn release(&self, lane: u16) {
        if let Some(word) = self.0.get(usize::from(lane / 64)) {
            word.fetch_and(!(1 << (lane % 64)), Release);
        }
    }
}

impl core::fmt::Debug for Requester {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Requester").field("queue", &*lock(&self.queue)).finish_non_exhaustive()
    }
}
