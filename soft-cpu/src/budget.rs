// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many operations a CPU may run before it checks for requests: counted down by the CPU, cut short by other
//! threads.
//!
//! The CPU counts without an atomic read-modify-write, so a cut can get lost between its load and its store; that costs
//! a slice of latency and nothing else. A cut that is not lost keeps what was left in its low bits, so that the number
//! of operations that were run stays exact.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// What a cut takes off: more than any budget.
const CUT: i64 = 1 << 40;

/// Operations left until the next check.
pub(crate) struct Budget(AtomicI64);

impl Budget {
    pub(crate) const fn new() -> Budget {
        Budget(AtomicI64::new(0))
    }

    /// Sets what may be run: for the CPU itself. `count` is small against a cut.
    pub(crate) fn grant(&self, count: i64) {
        self.0.store(count, Relaxed);
    }

    /// Pays for one operation. False: there is nothing left, or it was cut short.
    #[inline(always)]
    pub(crate) fn pay(&self) -> bool {
        // Far from where it could wrap: a check for that would stand before every operation.
        let left = self.0.load(Relaxed).wrapping_sub(1);
        if left < 0 {
            return false;
        }
        self.0.store(left, Relaxed);
        true
    }

    /// Whether an operation may run.
    pub(crate) fn allows_one(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// Operations that were granted and not run, whether they still may be or not.
    pub(crate) fn left(&self) -> i64 {
        let value = self.0.load(Relaxed);
        if value >= 0 { value } else { value.rem_euclid(CUT) }
    }

    /// Takes what is left away, for the CPU itself.
    pub(crate) fn take(&self) -> i64 {
        let left = self.left();
        self.0.store(0, Relaxed);
        left
    }

    /// Ends the slice, for other threads.
    pub(crate) fn cut(&self) {
        if self.0.load(Relaxed) >= 0 {
            self.0.fetch_sub(CUT, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
