// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Comparison, maximum and minimum (FPCompare, FPCompareEQ/GE/GT, FPMax, FPMin, FPMaxNum, FPMinNum).

use std::cmp::Ordering;

use super::{Class, Env, Format, IOC, propagate_nans, unpack};

/// Order of two operands, none if either is a NaN. A signalling NaN raises invalid; a quiet one does if `signal_all`.
pub fn compare(env: &mut Env, format: Format, a: u64, b: u64, signal_all: bool) -> Option<Ordering> {
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if x.is_nan() || y.is_nan() {
        if signal_all || x.class == Class::SignallingNan || y.class == Class::SignallingNan {
            env.raise(IOC);
        }
        return None;
    }
    // Sign and magnitude to two's complement; both zeros are 0, and so are flushed denormals.
    let key = |bits: u64, zero: bool| {
        let magnitude = if zero { 0 } else { (bits & !format.sign_bit()) as i64 };
        if bits & format.sign_bit() != 0 { -magnitude } else { magnitude }
    };
    Some(key(a, x.is_zero()).cmp(&key(b, y.is_zero())))
}

/// NZCV (in bits 3..0) of FCMP and FCMPE.
pub fn compare_flags(env: &mut Env, format: Format, a: u64, b: u64, signal_all: bool) -> u8 {
    match compare(env, format, a, b, signal_all) {
        None => 0b0011,
        Some(Ordering::Equal) => 0b0110,
        Some(Ordering::Less) => 0b1000,
        Some(Ordering::Greater) => 0b0010,
    }
}

/// `a == b`; quiet.
pub fn equal(env: &mut Env, format: Format, a: u64, b: u64) -> bool {
    compare(env, format, a, b, false) == Some(Ordering::Equal)
}

/// `a >= b`; any NaN is invalid.
pub fn greater_equal(env: &mut Env, format: Format, a: u64, b: u64) -> bool {
    matches!(compare(env, format, a, b, true), Some(Ordering::Greater | Ordering::Equal))
}

/// `a > b`; any NaN is invalid.
pub fn greater(env: &mut Env, format: Format, a: u64, b: u64) -> bool {
    compare(env, format, a, b, true) == Some(Ordering::Greater)
}

/// FMAX.
pub fn max(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    extreme(env, format, a, b, Ordering::Greater)
}

/// FMIN.
pub fn min(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    extreme(env, format, a, b, Ordering::Less)
}

/// FMAXNM: a quiet NaN loses against a number.
pub fn max_number(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    let (a, b) = replace_lone_nan(format, a, b, format.infinity(true));
    max(env, format, a, b)
}

/// FMINNM: a quiet NaN loses against a number.
pub fn min_number(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    let (a, b) = replace_lone_nan(format, a, b, format.infinity(false));
    min(env, format, a, b)
}

fn replace_lone_nan(format: Format, a: u64, b: u64, neutral: u64) -> (u64, u64) {
    let is_nan = |bits: u64| bits & !format.sign_bit() > format.infinity(false);
    let is_quiet = |bits: u64| is_nan(bits) && bits & format.quiet_bit() != 0;
    match (is_quiet(a), is_quiet(b)) {
        (true, false) if !is_nan(b) => (neutral, b),
        (false, true) if !is_nan(a) => (a, neutral),
        _ => (a, b),
    }
}

/// The operand that `wanted` says; of two zeros the one whose sign is further that way.
fn extreme(env: &mut Env, format: Format, a: u64, b: u64, wanted: Ordering) -> u64 {
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if let Some(nan) = propagate_nans(env, format, &[(x, a), (y, b)]) {
        return nan;
    }
    let (a, b) = (flushed(format, a, x.is_zero()), flushed(format, b, y.is_zero()));
    match compare(env, format, a, b, false) {
        Some(Ordering::Equal) if wanted == Ordering::Greater => a & b,
        Some(Ordering::Equal) => a | b,
        order if order == Some(wanted) => a,
        _ => b,
    }
}

fn flushed(format: Format, bits: u64, zero: bool) -> u64 {
    if zero { bits & format.sign_bit() } else { bits }
}
