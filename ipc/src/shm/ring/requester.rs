// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process' side of a ring.

use std::time::Duration;

use super::interrupt::{Bed, Interrupt};
use super::layout::{LANES, SLOTS, Shared};
use super::wait::Waiter;
use super::{Access, Op, RingError, truncate};
use crate::deadline::Deadline;
use crate::error::{Breach, Violation};
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Acquire, Relaxed, SeqCst};
use crate::shm::sync::{Arc, Mutex, fence, lock};

/// The asking side; one per ring, for as long as the ring exists. Shared by the vCPU threads.
pub struct Requester {
    shared: View<Shared>,
    spin: Duration,
    queue: Arc<Mutex<Queue>>,
}

/// What the requesters know about the queue. Private memory: a peer cannot touch it.
#[derive(Debug)]
struct Queue {
    /// How many requests were published.
    published: u64,
    /// How many of them are known to be completed.
    completed: u64,
    /// A bit for every lane that a thread waits on.
    lanes_taken: u128,
    violation: Option<Violation>,
}

/// A request whose answer is still to come. Dropped, the request is executed all the same, its answer unread.
#[derive(Debug)]
pub struct Pending {
    queue: Arc<Mutex<Queue>>,
    sequence: u64,
    lane: u16,
    size: u8,
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The lane may be given to another at once: an answer to this request carries this request's sequence,
        // and comes before the answer to any later one.
        lock(&self.queue).lanes_taken &= !(1 << self.lane);
    }
}

/// What came of trying to queue.
enum Queued {
    Yes(u64, u16),
    Full,
}

impl Requester {
    /// The asking side of the ring in `region`, spinning for `spin` before it sleeps (see
    /// [`super::spin_for_host`]).
    ///
    /// # Errors
    /// A violation if it is not a ring of this version.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, spin: Duration) -> Result<Self, crate::error::Error> {
        Ok(Self::over(super::layout::attach(region)?, spin))
    }

    pub(super) fn over(shared: View<Shared>, spin: Duration) -> Self {
        let queue = Queue { published: 0, completed: 0, lanes_taken: 0, violation: None };
        Self { shared, spin, queue: Arc::new(Mutex::new(queue)) }
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
        let pending = self.queue(Access { region, offset, size, op: Op::Read }, interrupt, deadline)?;
        self.wait(pending, interrupt, deadline)
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
        let pending = self.queue(access, interrupt, deadline)?;
        self.wait(pending, interrupt, deadline).map(|_| ())
    }

    /// Writes `size` bytes and returns once the write is queued. Waits only if the ring is full.
    ///
    /// # Errors
    /// `NotQueued` if it stayed full: the same post may be tried again.
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

    /// Waits for the answer to a request whose wait had ended: the value read, or anything for a write.
    ///
    /// # Errors
    /// `Unfinished` once more.
    pub fn wait(
        &self,
        pending: Pending,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<u64, RingError> {
        let Some(lane) = self.shared.lane(pending.lane) else { return Err(RingError::NoLane) };
        let bed = Bed::Lane(pending.lane);
        let waiter = Waiter { shared: &self.shared, bed, spin: self.spin, interrupt, deadline };
        let answer = waiter
            .until(|| (lane.answered.load(Acquire) == pending.sequence).then(|| lane.value.load(Relaxed)));
        match answer {
            Ok(value) => Ok(truncate(value, pending.size)),
            Err(why) => Err(RingError::Unfinished { why, pending }),
        }
    }

    /// How many requests are queued and not known to be completed: for `inspect`, and to see a ring run dry.
    ///
    /// # Errors
    /// A violation if the peer's count cannot be.
    pub fn outstanding(&self) -> Result<u64, Violation> {
        let mut queue = lock(&self.queue);
        self.refresh(&mut queue)?;
        Ok(queue.published.saturating_sub(queue.completed))
    }

    /// The generation of the responder that attached last, 0 if none did. It is the peer's word.
    #[must_use]
    pub fn responder_generation(&self) -> u64 {
        self.shared.identity.0.responder_generation.load(Relaxed)
    }

    fn queue(&self, access: Access, interrupt: &Interrupt, deadline: Deadline) -> Result<Pending, RingError> {
        let (sequence, lane) = self.enqueue(access, interrupt, deadline)?;
        Ok(Pending { queue: Arc::clone(&self.queue), sequence, lane, size: access.size })
    }

    fn enqueue(
        &self,
        access: Access,
        interrupt: &Interrupt,
        deadline: Deadline,
    ) -> Result<(u64, u16), RingError> {
        if !matches!(access.size, 1 | 2 | 4 | 8) {
            return Err(RingError::Size { size: access.size });
        }
        let waiter = Waiter { shared: &self.shared, bed: Bed::Freed, spin: self.spin, interrupt, deadline };
        let attempt = waiter.until(|| match self.try_enqueue(access) {
            Ok(Queued::Full) => None,
            Ok(Queued::Yes(sequence, lane)) => Some(Ok((sequence, lane))),
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
        let lane = if access.op.is_awaited() { queue.take_lane()? } else { 0 };
        slot.publish(sequence, access, lane);
        queue.published = sequence;
        Ok(Queued::Yes(sequence, lane))
    }

    /// Takes over the responder's count, if it can be.
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

impl Queue {
    fn take_lane(&mut self) -> Result<u16, RingError> {
        let lane = u16::try_from(self.lanes_taken.trailing_ones()).map_err(|_| RingError::NoLane)?;
        if usize::from(lane) >= LANES {
            return Err(RingError::NoLane);
        }
        self.lanes_taken |= 1 << lane;
        Ok(lane)
    }
}

impl core::fmt::Debug for Requester {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Requester").field("queue", &*lock(&self.queue)).finish_non_exhaustive()
    }
}
