// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system counter: 62.5 MHz over the host's monotonic clock (Arm ARM D11, the Generic Timer).
//!
//! The counter can be frozen while the guest is paused and restored from a saved value; it then goes on from
//! where it stopped and never runs backwards. Invariant: it is frozen and thawed only while no vCPU runs. It can also
//! be given a limit, at which it stands until the limit is lifted; vCPUs may run meanwhile.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use crate::saved::ClockV1;

/// Counter frequency in Hz: a tick is 16 ns, so host time converts by a shift.
pub const COUNTER_HZ: u64 = 62_500_000;
const NS_PER_TICK: u64 = 1_000_000_000 / COUNTER_HZ;

/// The counter that all CPUs of a machine share.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    /// Ticks to add to the host's, modulo 2^64.
    offset: AtomicU64,
    /// The counter stands here.
    limit: AtomicU64,
    /// Odd while offset and limit are being changed: they are read together.
    changes: AtomicU64,
    frozen: AtomicBool,
    frozen_ticks: AtomicU64,
    changing: Mutex<()>,
}

impl Clock {
    /// A running counter that starts at zero.
    pub fn new() -> Clock {
        let clock = Clock::restore(&ClockV1 { ticks: 0 });
        clock.resume();
        clock
    }

    /// A frozen counter at the saved value; `resume` lets it run.
    pub fn restore(saved: &ClockV1) -> Clock {
        let ClockV1 { ticks } = *saved;
        Clock {
            origin: Instant::now(),
            offset: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            changes: AtomicU64::new(0),
            frozen: AtomicBool::new(true),
            frozen_ticks: AtomicU64::new(ticks),
            changing: Mutex::new(()),
        }
    }

    /// The present value, for a saved state. Freeze the clock first if the value must stay true.
    pub fn save(&self) -> ClockV1 {
        ClockV1 { ticks: self.ticks() }
    }

    /// The present value in ticks.
    pub fn ticks(&self) -> u64 {
        if self.frozen.load(Ordering::Acquire) {
            self.frozen_ticks.load(Ordering::Acquire)
        } else {
            self.running_ticks()
        }
    }

    /// The value while it is not frozen.
    fn running_ticks(&self) -> u64 {
        loop {
            let changes = self.changes.load(Ordering::Acquire);
            let ticks = self.limited_ticks();
            // The host's time was read before this: it is none of during a change, or after it.
            fence(Ordering::SeqCst);
            if changes.is_multiple_of(2) && self.changes.load(Ordering::SeqCst) == changes {
                return ticks;
            }
            // Held only for a few stores.
            drop(self.changing.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The value by offset and limit, which may be of two changes.
    fn limited_ticks(&self) -> u64 {
        let offset = self.offset.load(Ordering::Acquire);
        let limit = self.limit.load(Ordering::Acquire);
        self.host_ticks().wrapping_add(offset).min(limit)
    }

    /// Lets the counter go on for at most `span` from where it is, and stand then; or, without one, lifts the limit:
    /// the counter goes on from where it stands.
    pub fn limit(&self, span: Option<Duration>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.changes.fetch_add(1, Ordering::SeqCst);
        // Behind the count: whoever has seen a value that is believed has seen none after this one.
        let frozen = self.frozen.load(Ordering::Acquire);
        let now = if frozen { self.frozen_ticks.load(Ordering::Acquire) } else { self.limited_ticks() };
        if !frozen && now == self.limit.load(Ordering::Acquire) {
            self.offset.store(now.wrapping_sub(self.host_ticks()), Ordering::SeqCst);
        }
        let ticks =
            |span: Duration| u64::try_from(span.as_nanos() / u128::from(NS_PER_TICK)).unwrap_or(u64::MAX);
        self.limit.store(span.map_or(u64::MAX, |span| now.saturating_add(ticks(span))), Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Stops the counter. Idempotent.
    pub fn pause(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.ticks();
        self.frozen_ticks.store(now, Ordering::Release);
        self.frozen.store(true, Ordering::Release);
    }

    /// Lets the counter run on from where it stopped. Idempotent.
    pub fn resume(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.frozen.load(Ordering::Acquire) {
            let stopped_at = self.frozen_ticks.load(Ordering::Acquire);
            self.offset.store(stopped_at.wrapping_sub(self.host_ticks()), Ordering::Release);
            self.frozen.store(false, Ordering::Release);
        }
    }

    /// How long until the counter reaches `ticks`; zero if it has.
    pub(crate) fn until(&self, ticks: u64) -> Duration {
        let missing = ticks.saturating_sub(self.ticks());
        Duration::from_nanos(missing.saturating_mul(NS_PER_TICK))
    }

    fn host_ticks(&self) -> u64 {
        (self.origin.elapsed().as_nanos() / u128::from(NS_PER_TICK)) as u64
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
