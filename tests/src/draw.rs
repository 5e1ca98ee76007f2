// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moments that a test draws at random, by a seed that is printed: `BULKHEAD_SEED` sets it.

use std::env;
use std::time::{Duration, SystemTime};

/// A sequence that looks random (SplitMix64).
#[derive(Debug)]
pub struct Draw(u64);

impl Draw {
    /// By the seed that is set, or by the time.
    pub fn by_seed() -> Self {
        let given = env::var("BULKHEAD_SEED").ok().and_then(|text| text.parse().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or(now.as_secs());
        println!("BULKHEAD_SEED={seed}");
        Self(seed)
    }

    /// One of the messages of a process that has so many. The last ones are often not reached: how often threads sleep
    /// and wake each other differs from life to life.
    pub fn message(&mut self, count: u64) -> u64 {
        1 + self.next() % (count * 3 / 4)
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % count).unwrap_or_default()
    }

    /// The number of a byte of so many.
    pub fn byte(&mut self, count: u64) -> u64 {
        self.next() % count.max(1)
    }

    /// A moment before the end of this span.
    pub fn moment(&mut self, span: Duration) -> Duration {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.next() % micros.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let once = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        twice ^ (twice >> 31)
    }
}
