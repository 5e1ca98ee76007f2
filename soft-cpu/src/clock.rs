// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system counter: 62.5 MHz over the host's monotonic clock (Arm ARM D11, the Generic Timer).
//!
//! The counter can be frozen while the guest is paused and restored from a saved value; it then goes on from
//! where it stopped and never runs backwards. Invariant: it is frozen and thawed only while no vCPU runs.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
            self.host_ticks().wrapping_add(self.offset.load(Ordering::Acquire))
        }
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
