// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The layout of the ring in memory. All fields are atomics; each states which side writes it.
//!
//! What one side writes while the other polls has cache lines of its own, in pairs, since some CPUs fetch lines in
//! pairs.

#![cfg_attr(
    not(loom),
    expect(
        unsafe_code,
        reason = "declaring the layout fit to be shared is a promise only this file can make"
    )
)]
// UNSAFETY: one `unsafe impl`, beside the types it is about.

use super::{Access, Op};
#[cfg(not(loom))]
use crate::error::Error;
use crate::error::{Breach, Violation};
use crate::shm::futex::FutexWord;
#[cfg(not(loom))]
use crate::shm::region::{Region, Shareable, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{Acquire, Relaxed, Release};

/// How many requests can be queued. 64 is more than the posted writes that a driver makes before it waits for
/// something. The model checker's ring is small, so that it can be full.
#[cfg(not(loom))]
pub const SLOTS: usize = 64;
/// How many threads can wait for answers at once; each takes a lane.
#[cfg(not(loom))]
pub const LANES: usize = 128;

/// Small enough for the model to fill.
#[cfg(loom)]
pub const SLOTS: usize = 2;
/// Two requester threads.
#[cfg(loom)]
pub const LANES: usize = 2;

/// The size of a ring's memory object.
pub const RING_LEN: u64 = 28 * 1024;

#[cfg(not(loom))]
const MAGIC: u64 = u64::from_le_bytes(*b"BKHDRING");
#[cfg(not(loom))]
const VERSION: u64 = 1;

/// Two cache lines, so that neighbours do not share one, nor a pair.
#[repr(C, align(128))]
pub(super) struct Apart<T>(pub(super) T);

#[repr(C)]
pub(super) struct Shared {
    /// Written once, by the maker of the ring.
    pub(super) identity: Apart<Identity>,
    /// 1 while the responder sleeps; the responder writes 1, its waker 0.
    pub(super) responder_sleeps: Apart<FutexWord>,
    /// Written by the responder.
    pub(super) progress: Apart<Progress>,
    /// Written by the requesters.
    pub(super) slots: [Apart<Slot>; SLOTS],
    /// Written by the responder, but for `sleeps`.
    pub(super) lanes: [Apart<Lane>; LANES],
}

#[repr(C)]
pub(super) struct Identity {
    magic: AtomicU64,
    version: AtomicU64,
    /// The life of the responder that attached last, for `inspect`.
    pub(super) responder_generation: AtomicU64,
}

#[repr(C)]
pub(super) struct Progress {
    /// How many requests were completed since the ring was made.
    pub(super) completed: AtomicU64,
    /// Not 0 if some requester waits for a free slot; requesters write 1, the responder 0.
    pub(super) wanted: FutexWord,
    /// Changes whenever the responder has seen `wanted`; requesters sleep on it.
    pub(super) freed: FutexWord,
}

/// One request. Valid while `sequence` is its place in the queue plus one.
#[repr(C)]
pub(super) struct Slot {
    sequence: AtomicU64,
    /// Bits 15:0 region, 31:16 lane, 39:32 size, 47:40 operation; the rest is zero.
    what: AtomicU64,
    offset: AtomicU64,
    value: AtomicU64,
}

/// Where one thread waits for one answer at a time.
#[repr(C)]
pub(super) struct Lane {
    /// The sequence of the request that `value` answers.
    pub(super) answered: AtomicU64,
    pub(super) value: AtomicU64,
    /// 1 while the requester sleeps; the requester writes 1, its waker 0.
    pub(super) sleeps: FutexWord,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Slot>() == 32 && size_of::<Lane>() == 24 && size_of::<Progress>() == 16);
    assert!(size_of::<Shared>() == 128 * (3 + SLOTS + LANES));
    assert!(size_of::<Shared>() as u64 <= RING_LEN);
    assert!(LANES >= crate::protocol::vcpu::VCPUS_MAX as usize);
};

// SAFETY: 1. all fields are atomic integers, for which every pattern is a value; 2. there is no other access to
// them, and the rest is padding; 3. there are no destructors and no pointers.
#[cfg(not(loom))]
unsafe impl Shareable for Shared {}

const OP_READ: u64 = 1;
const OP_WRITE: u64 = 2;
const OP_POST: u64 = 3;

impl Slot {
    /// Fills the slot and publishes it as the request with this sequence. `lane` has no meaning for a post.
    pub(super) fn publish(&self, sequence: u64, access: Access, lane: u16) {
        let (op, value) = match access.op {
            Op::Read => (OP_READ, 0),
            Op::Write(value) => (OP_WRITE, value),
            Op::Post(value) => (OP_POST, value),
        };
        let what = u64::from(access.region) | u64::from(lane) << 16 | u64::from(access.size) << 32 | op << 40;
        self.what.store(what, Relaxed);
        self.offset.store(access.offset, Relaxed);
        self.value.store(value, Relaxed);
        self.sequence.store(sequence, Release);
    }

    /// Publishes what a hostile requester might.
    #[cfg(all(test, not(loom)))]
    pub(super) fn forge(&self, sequence: u64, what: u64) {
        self.what.store(what, Relaxed);
        self.sequence.store(sequence, Release);
    }

    pub(super) fn holds(&self, sequence: u64) -> bool {
        self.sequence.load(Acquire) == sequence
    }

    /// Reads the request once, and checks it.
    pub(super) fn read(&self) -> Result<(Access, u16), Violation> {
        let bad = |field, found| Violation::new("ring slot", Breach::RingRequest { field, found });
        let what = self.what.load(Relaxed);
        let [r0, r1, l0, l1, size, op, z0, z1] = what.to_le_bytes();
        let (region, lane) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([l0, l1]));
        let value = self.value.load(Relaxed);
        let op = match u64::from(op) {
            OP_READ => Op::Read,
            OP_WRITE => Op::Write(super::truncate(value, size)),
            OP_POST => Op::Post(super::truncate(value, size)),
            other => return Err(bad("operation", other)),
        };
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(bad("size", size.into()));
        }
        if usize::from(lane) >= LANES {
            return Err(bad("lane", lane.into()));
        }
        if z0 != 0 || z1 != 0 {
            return Err(bad("reserved bits", what));
        }
        Ok((Access { region, offset: self.offset.load(Relaxed), size, op }, lane))
    }
}

impl Shared {
    /// The slot of the request with this sequence.
    pub(super) fn slot(&self, sequence: u64) -> Option<&Slot> {
        let place = usize::try_from(sequence.wrapping_sub(1) % (SLOTS as u64)).ok()?;
        self.slots.get(place).map(|slot| &slot.0)
    }

    pub(super) fn lane(&self, lane: u16) -> Option<&Lane> {
        self.lanes.get(usize::from(lane)).map(|lane| &lane.0)
    }
}

/// The model checker's ring: the same fields, on the heap.
#[cfg(loom)]
impl Shared {
    pub(super) fn model() -> Self {
        let zero = || AtomicU64::new(0);
        let identity = Identity { magic: zero(), version: zero(), responder_generation: zero() };
        let progress = Progress { completed: zero(), wanted: FutexWord::new(), freed: FutexWord::new() };
        let slot = || Slot { sequence: zero(), what: zero(), offset: zero(), value: zero() };
        let lane = || Lane { answered: zero(), value: zero(), sleeps: FutexWord::new() };
        Self {
            identity: Apart(identity),
            responder_sleeps: Apart(FutexWord::new()),
            progress: Apart(progress),
            slots: core::array::from_fn(|_| Apart(slot())),
            lanes: core::array::from_fn(|_| Apart(lane())),
        }
    }
}

/// Makes a ring's memory object: for the coordinator, who hands it to both processes.
///
/// # Errors
/// As for [`Region::create`].
#[cfg(not(loom))]
pub(super) fn create(name: &str) -> Result<Region, Error> {
    let region = Region::create(name, RING_LEN)?;
    let shared: View<Shared> = region.view()?;
    shared.identity.0.version.store(VERSION, Relaxed);
    shared.identity.0.magic.store(MAGIC, Release);
    Ok(region)
}

/// Views a memory object as a ring, if it is one.
#[cfg(not(loom))]
pub(super) fn attach(region: &Region) -> Result<View<Shared>, Error> {
    let bad = |field, found| Error::Violation(Violation::new("ring", Breach::Layout { field, found }));
    if region.len() != RING_LEN {
        return Err(bad("length", region.len()));
    }
    let shared: View<Shared> = region.view()?;
    let magic = shared.identity.0.magic.load(Acquire);
    let version = shared.identity.0.version.load(Relaxed);
    if magic != MAGIC {
        return Err(bad("magic", magic));
    }
    if version != VERSION {
        return Err(bad("version", version));
    }
    Ok(shared)
}
