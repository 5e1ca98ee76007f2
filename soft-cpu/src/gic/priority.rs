// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupt priorities: five implemented bits, binary points, active priorities (IHI 0069 §4.8).
//!
//! A lower value is a higher priority. With five bits there are 32 levels, all of which can preempt
//! (PREbits = PRIbits = 5), so one 32-bit ICC_AP1R0 holds them all. In the single security state that
//! this model has, priorities are never shifted.

use super::spec::Field;
use super::spec::field::low8;

/// Implemented priority bits, the top ones of the byte.
pub const PRIORITY_BITS: u32 = 5;
const UNIMPLEMENTED_BITS: u32 = 8 - PRIORITY_BITS;
const IMPLEMENTED: Field = Field::bits(7, UNIMPLEMENTED_BITS);
/// The running priority when nothing is active.
pub const IDLE: u8 = 0xff;

/// Smallest ICC_BPR0 value: bits [7:3] are the group priority.
pub const BPR0_MIN: u8 = 7 - low8(PRIORITY_BITS as u64);
/// Smallest ICC_BPR1 value. Its field is one position off BPR0's (IHI 0069 §4.8.5).
pub const BPR1_MIN: u8 = BPR0_MIN + 1;
/// Largest value of both.
pub const BPR_MAX: u8 = 7;

/// Keeps the implemented bits of a priority or of a priority mask.
pub const fn sanitise(priority: u64) -> u8 {
    low8(priority & IMPLEMENTED.mask())
}

/// Which bits of a priority decide preemption, for a group 1 binary point (3..=7).
pub const fn group_mask(bpr1: u8) -> u8 {
    low8(0xff << bpr1 as u32)
}

/// The levels that have been acknowledged and not yet dropped: ICC_AP1R0_EL1, bit n for priority n << 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivePriorities(u32);

impl ActivePriorities {
    /// From the register; every bit is implemented.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The register.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// ICC_RPR_EL1: the highest active group priority, or [`IDLE`].
    pub const fn running(self) -> u8 {
        if self.0 == 0 { IDLE } else { low8((self.0.trailing_zeros() << UNIMPLEMENTED_BITS) as u64) }
    }

    /// An interrupt of this group priority was acknowledged.
    pub const fn activate(&mut self, group_priority: u8) {
        self.0 |= 1 << (group_priority >> UNIMPLEMENTED_BITS);
    }

    /// Priority drop: the highest active priority ends. Nothing happens when none is active.
    pub const fn drop_highest(&mut self) {
        self.0 &= self.0.wrapping_sub(1);
    }
}
