// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Integer arithmetic on single lanes that the SIMD classes share: saturation (which sets FPSR.QC), variable and
//! immediate shifts with rounding, doubling multiplies, bit tricks.

use super::float::{Env, QC};
use super::lanes::Size;

/// A lane as a wide integer, sign- or zero-extended.
#[inline]
pub fn extend(size: Size, signed: bool, value: u64) -> i128 {
    if signed { i128::from(size.signed(value)) } else { i128::from(value & size.mask()) }
}

/// Clamps to the range of a signed or unsigned lane and notes whether that changed the value (SatQ).
#[inline]
pub fn saturate(env: &mut Env, size: Size, signed: bool, value: i128) -> u64 {
    let (min, max) = if signed {
        (-(1i128 << (size.bits() - 1)), (1i128 << (size.bits() - 1)) - 1)
    } else {
        (0, i128::from(size.mask()))
    };
    let clamped = value.clamp(min, max);
    if clamped != value {
        env.raise(QC);
    }
    clamped as u64 & size.mask()
}

/// How a shift treats what it loses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shift {
    /// Lanes are signed.
    pub signed: bool,
    /// Right shifts round to nearest, half upwards.
    pub rounding: bool,
    /// Left shifts clamp.
    pub saturating: bool,
}

impl Shift {
    /// Shifts left by `amount`, right if it is negative; any amount is allowed.
    #[inline]
    pub fn apply(self, env: &mut Env, size: Size, value: u64, amount: i32) -> u64 {
        let wide = extend(size, self.signed, value);
        let shifted = if amount < 0 {
            shift_right(wide, amount.unsigned_abs(), self.rounding)
        } else if amount < 64 {
            wide << amount
        } else {
            // Beyond every lane: all significant bits gone, far out of range if there were any.
            wide.signum() << 65
        };
        if self.saturating { saturate(env, size, self.signed, shifted) } else { shifted as u64 & size.mask() }
    }
}

/// Arithmetic shift right of a value of at most 65 bits, optionally rounding to nearest.
#[inline]
pub fn shift_right(value: i128, amount: u32, rounding: bool) -> i128 {
    // From 66 on nothing changes any more, rounded or not.
    let amount = amount.min(66);
    let half = if rounding && amount > 0 { 1i128 << (amount - 1) } else { 0 };
    (value + half) >> amount
}

/// High half of the doubled product (SQDMULH, SQRDMULH).
#[inline]
pub fn doubling_high(env: &mut Env, size: Size, rounding: bool, n: u64, m: u64) -> u64 {
    let product = 2 * extend(size, true, n) * extend(size, true, m);
    saturate(env, size, true, shift_right(product, size.bits(), rounding))
}

/// The doubled product of two narrow lanes, clamped to the wide size (SQDMULL).
#[inline]
pub fn doubling_long(env: &mut Env, narrow: Size, wide: Size, n: u64, m: u64) -> u64 {
    saturate(env, wide, true, 2 * extend(narrow, true, n) * extend(narrow, true, m))
}

/// Carry-less product of two bytes (PMUL, PMULL).
#[inline]
pub fn polynomial(n: u64, m: u64) -> u64 {
    (0..8).filter(|bit| m >> bit & 1 != 0).fold(0, |product, bit| product ^ (n & 0xff) << bit)
}

/// Leading zeros of a lane.
#[inline]
pub fn leading_zeros(size: Size, value: u64) -> u64 {
    u64::from((value & size.mask()).leading_zeros() - (64 - size.bits()))
}

/// Bits after the sign bit that equal it.
#[inline]
pub fn leading_sign_bits(size: Size, value: u64) -> u64 {
    let value = size.signed(value);
    leading_zeros(size, (value ^ value >> 1) as u64) - 1
}
