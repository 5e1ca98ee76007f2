// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The MMIO ring: accesses of vCPUs to a device in another process.
//!
//! One ring per (vCPU process, device process). Many requester threads, one responder. Requests are a FIFO of
//! [`SLOTS`] slots, each carrying a sequence number that publishes it; answers go to a *lane*, a cache line per
//! waiting thread. Posted writes take no lane: they are queued, and stay in front of everything queued later.
//!
//! A request leaves the queue when the responder has completed it. A responder that dies in between is
//! replaced by one that finds the request again: it is executed *at least once*, so a device's handlers are
//! idempotent up to their commit point. An interrupted wait leaves the request in the queue; the returned
//! [`Pending`] can be waited for again, or dropped.
//!
//! A waiter spins for a while (see [`SPIN_DEFAULT`]), then sets a flag in a shared word and sleeps on it. No wake-up is
//! lost: the waiter sets the flag and checks once more, the waker publishes and then checks the flag, each with a
//! `SeqCst` fence between; `tests/loom_ring.rs` checks it. Every wait has a deadline, and garbage from the peer costs a
//! violation or a timeout, never more.

mod interrupt;
mod layout;
mod requester;
mod responder;
mod wait;

pub use interrupt::Interrupt;
pub use layout::{LANES, RING_LEN, SLOTS};
pub use requester::{Pending, Requester};
pub use responder::{Responder, Token};

use core::time::Duration;

use thiserror::Error as ThisError;

use crate::error::Violation;

/// How long a waiter spins before it sleeps. To sleep and be woken costs about 5 to 10 microseconds (two system calls
/// and the scheduler); spinning for twice that costs at most about three times the best choice, and a device that is
/// awake answers within it.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(20);

/// Makes a ring's memory object: for the coordinator, who hands it to both processes.
///
/// # Errors
/// If the kernel has no memory object to give.
#[cfg(not(loom))]
pub fn create(name: &str) -> Result<crate::shm::region::Region, crate::error::Error> {
    layout::create(name)
}

/// The spin budget for this host: [`SPIN_DEFAULT`], or zero on one CPU, where a spinning waiter would keep the other
/// side from running.
#[must_use]
pub fn spin_for_host() -> Duration {
    match std::thread::available_parallelism() {
        Ok(cpus) if cpus.get() > 1 => SPIN_DEFAULT,
        Ok(_) | Err(_) => Duration::ZERO,
    }
}

/// How long a device may take to answer an access, including its own waits, whose sum a device keeps below this. A
/// device that takes longer has failed, and its accesses read as all ones.
pub const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// An access in the ring. `offset` is within `region`; `size` is 1, 2, 4 or 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which of the device's regions.
    pub region: u16,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub size: u8,
    /// The operation.
    pub op: Op,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read; the answer is the value.
    Read,
    /// Write; the answer confirms it.
    Write(u64),
    /// Posted write; no answer.
    Post(u64),
}

impl Op {
    /// Whether a requester waits for the answer.
    #[must_use]
    pub const fn is_awaited(self) -> bool {
        match self {
            Self::Read | Self::Write(_) => true,
            Self::Post(_) => false,
        }
    }
}

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum Stop {
    /// The [`Interrupt`] was raised.
    #[error("interrupted")]
    Interrupted,
    /// Nothing came before the deadline.
    #[error("deadline passed")]
    DeadlinePassed,
}

/// Why an access has no answer.
#[derive(Debug, ThisError)]
pub enum RingError {
    /// The request is in the ring and will be executed; its answer is still to come.
    #[error("access is queued, wait ended: {why}")]
    Unfinished {
        /// What ended the wait.
        why: Stop,
        /// For [`Requester::wait`], or to be dropped.
        pending: Pending,
    },
    /// The ring stayed full: the request was not queued, and may be made again.
    #[error("access is not queued, wait ended: {why}")]
    NotQueued {
        /// What ended the wait.
        why: Stop,
    },
    /// Every lane is taken: too many threads wait at once.
    #[error("access is not queued: every lane is taken")]
    NoLane,
    /// The size is not 1, 2, 4 or 8.
    #[error("access of {size} bytes")]
    Size {
        /// The size asked for.
        size: u8,
    },
    /// The other process broke the ring's rules; the ring is not used any more.
    #[error("ring peer broke the contract: {0}")]
    Violation(#[from] Violation),
}

/// Why [`Responder::next`] has no request.
#[derive(Debug, ThisError)]
pub enum ResponderError {
    /// No request came before the wait ended.
    #[error("no request: {0}")]
    Stopped(#[from] Stop),
    /// The other process broke the ring's rules; the ring is not used any more.
    #[error("invalid request in the ring: {0}")]
    Violation(#[from] Violation),
}

/// The low `size` bytes of `value`.
const fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// A ring of the model checker's, whose ends sleep without spinning first.
#[cfg(loom)]
#[derive(Clone)]
pub struct Model(crate::shm::region::View<layout::Shared>);

#[cfg(loom)]
impl Model {
    /// A ring nobody has used yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default model means nothing")]
    pub fn new() -> Self {
        Self(layout::Shared::model().into())
    }

    /// The asking side; once.
    #[must_use]
    pub fn requester(&self) -> Requester {
        Requester::over(self.0.clone(), Duration::ZERO)
    }

    /// An answering side; the next one stands for the next life of the process.
    #[must_use]
    pub fn responder(&self, generation: u32) -> Responder {
        Responder::over(self.0.clone(), generation, Duration::ZERO)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
