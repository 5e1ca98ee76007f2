// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reciprocal and reciprocal square root: the estimates, which the architecture fixes bit by bit, and the Newton steps
//! (FPRecipEstimate, FPRSqrtEstimate, FPRecpX, FPRecipStepFused, FPRSqrtStepFused, UnsignedRecipEstimate, ...).

use super::arithmetic::fused_finite;
use super::round::overflow;
use super::{
    Class, DZC, Env, Format, IXC, OFC, UFC, Unpacked, invalid, negate, propagate_nan, propagate_nans, unpack,
};

/// 9-bit estimate of `2^17 / a`, `a` in 256..=511.
fn reciprocal(a: u32) -> u32 {
    ((1 << 19) / (2 * a + 1)).div_ceil(2)
}

/// 9-bit estimate of `2^13 / sqrt(a)`, `a` in 128..=511.
fn reciprocal_root(a: u32) -> u32 {
    let a = if a < 256 { 2 * a + 1 } else { 2 * (a | 1) };
    // The largest b with a * b^2 below 2^28; it lies in 512..1024.
    let b = (((1u32 << 28) - 1) / a).isqrt();
    b.div_ceil(2)
}

/// URECPE.
pub fn unsigned_reciprocal(value: u32) -> u32 {
    if value >> 31 == 0 { u32::MAX } else { reciprocal(value >> 23) << 23 }
}

/// URSQRTE.
pub fn unsigned_reciprocal_root(value: u32) -> u32 {
    if value >> 30 == 0 { u32::MAX } else { reciprocal_root(value >> 23) << 23 }
}

/// Biased exponent (which can be below 1 for a denormal) and the 52-bit left-aligned fraction of a finite operand.
fn fields(format: Format, x: &Unpacked) -> (i32, u64) {
    let exponent = x.exponent + super::SIGNIFICAND_TOP as i32 - format.exponent_min() + 1;
    (exponent, x.significand & ((1 << 52) - 1))
}

/// Encodes an 8-bit fraction with a biased exponent.
fn encode(format: Format, negative: bool, exponent: i32, fraction: u64) -> u64 {
    let fraction = fraction >> (52 - format.fraction_bits());
    format.zero(negative) | (exponent.max(0) as u64) << format.fraction_bits() | fraction
}

/// FRECPE.
pub fn reciprocal_estimate(env: &mut Env, format: Format, bits: u64) -> u64 {
    let x = unpack(env, format, bits);
    match x.class {
        Class::QuietNan | Class::SignallingNan => return propagate_nan(env, format, x.class, bits),
        Class::Infinity => return format.zero(x.negative),
        Class::Zero => {
            env.raise(DZC);
            return format.infinity(x.negative);
        }
        Class::Finite => {}
    }
    let (exponent, fraction) = fields(format, &x);
    // Below 2^-128 (single) or 2^-1024 (double), that is two below the smallest normal exponent.
    if exponent < -1 {
        env.raise(OFC | IXC);
        return overflow(env.rounding, format, x.negative);
    }
    // 253 (single) or 2045 (double) less the operand's exponent.
    let result_exponent = 2 * (1 - format.exponent_min()) - 1 - exponent;
    if env.flush && result_exponent <= 0 {
        env.raise(UFC);
        return format.zero(x.negative);
    }
    let estimate = reciprocal((1 << 8) | (fraction >> 44) as u32);
    let fraction = u64::from(estimate & 0xff) << 44;
    match result_exponent {
        0 => encode(format, x.negative, 0, 1 << 51 | fraction >> 1),
        -1 => encode(format, x.negative, 0, 1 << 50 | fraction >> 2),
        _ => encode(format, x.negative, result_exponent, fraction),
    }
}

/// FRSQRTE.
pub fn reciprocal_root_estimate(env: &mut Env, format: Format, bits: u64) -> u64 {
    let x = unpack(env, format, bits);
    match x.class {
        Class::QuietNan | Class::SignallingNan => return propagate_nan(env, format, x.class, bits),
        Class::Zero => {
            env.raise(DZC);
            return format.infinity(x.negative);
        }
        _ if x.negative => return invalid(env, format),
        Class::Infinity => return format.zero(false),
        Class::Finite => {}
    }
    let (exponent, fraction) = fields(format, &x);
    let scaled =
        if exponent & 1 == 0 { 1 << 8 | (fraction >> 44) as u32 } else { 1 << 7 | (fraction >> 45) as u32 };
    // 380 (single) or 3068 (double).
    let doubled_bias = 3 * (1 - format.exponent_min()) - 1;
    let result_exponent = (doubled_bias - exponent).div_euclid(2);
    encode(format, false, result_exponent, u64::from(reciprocal_root(scaled) & 0xff) << 44)
}

/// FRECPX: the operand's exponent inverted, fraction zero.
pub fn reciprocal_exponent(env: &mut Env, format: Format, bits: u64) -> u64 {
    let x = unpack(env, format, bits);
    if x.is_nan() {
        return propagate_nan(env, format, x.class, bits);
    }
    let ones = format.exponent_ones();
    let exponent = match bits >> format.fraction_bits() & ones {
        0 => ones - 1,
        biased => ones - biased,
    };
    format.zero(x.negative) | exponent << format.fraction_bits()
}

/// FRECPS: `2 - a * b`, rounded once.
pub fn reciprocal_step(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    step(env, format, a, b, format.power_of_two(1), 0)
}

/// FRSQRTS: `(3 - a * b) / 2`, rounded once.
pub fn reciprocal_root_step(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    let three = format.power_of_two(1) | format.quiet_bit();
    step(env, format, a, b, three, -1)
}

/// `(start - a * b) * 2^scale`. Zero times infinity counts as zero, so that the result is `start * 2^scale`.
fn step(env: &mut Env, format: Format, a: u64, b: u64, start: u64, scale: i32) -> u64 {
    let a = negate(format, a);
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if let Some(nan) = propagate_nans(env, format, &[(x, a), (y, b)]) {
        return nan;
    }
    let result_of_none = start - (scale.unsigned_abs() as u64) * (1 << format.fraction_bits());
    match (x.class, y.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => result_of_none,
        (Class::Infinity, _) | (_, Class::Infinity) => format.infinity(x.negative != y.negative),
        _ => {
            let z = unpack(env, format, start);
            fused_finite(env, format, &z, &x, &y, scale)
        }
    }
}
