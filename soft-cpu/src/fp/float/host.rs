// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's own arithmetic, where it gives the same result *and* there is no flag left to find out.
//!
//! Conditions, all necessary: rounding is to nearest even; FPSR.IXC is already set, so that it does not matter whether
//! the result is exact; operands are zero or normal, so that neither NaN rules nor flushing apply; the result is finite
//! and above the smallest normal, so that it neither overflowed nor was tiny before rounding (a tiny value can round up
//! to the smallest normal, hence "above"). Everything else answers `None` and takes the integer path. Programs that
//! compute in floating point set IXC at once and leave it, so the common case is fast.

use super::{Env, Format, IXC, Rounding};

fn allowed(env: &Env) -> bool {
    env.rounding == Rounding::TieEven && env.flags & IXC != 0
}

fn single(bits: u64) -> Option<f32> {
    let value = f32::from_bits(bits as u32);
    (value.is_normal() || value == 0.0).then_some(value)
}

fn double(bits: u64) -> Option<f64> {
    let value = f64::from_bits(bits);
    (value.is_normal() || value == 0.0).then_some(value)
}

fn from_single(value: f32) -> Option<u64> {
    (value.is_finite() && value.abs() > f32::MIN_POSITIVE).then(|| u64::from(value.to_bits()))
}

fn from_double(value: f64) -> Option<u64> {
    (value.is_finite() && value.abs() > f64::MIN_POSITIVE).then(|| value.to_bits())
}

/// An operation of one operand.
pub fn unary(env: &Env, format: Format, a: u64, f: fn(f32) -> f32, g: fn(f64) -> f64) -> Option<u64> {
    match format {
        _ if !allowed(env) => None,
        Format::Single => from_single(f(single(a)?)),
        Format::Double => from_double(g(double(a)?)),
        Format::Half => None,
    }
}

/// An operation of two operands.
#[inline]
pub fn binary(
    env: &Env,
    format: Format,
    a: u64,
    b: u64,
    f: impl FnOnce(f32, f32) -> f32,
    g: impl FnOnce(f64, f64) -> f64,
) -> Option<u64> {
    match format {
        _ if !allowed(env) => None,
        Format::Single => from_single(f(single(a)?, single(b)?)),
        Format::Double => from_double(g(double(a)?, double(b)?)),
        Format::Half => None,
    }
}

/// Fused multiply-add.
pub fn fused(env: &Env, format: Format, addend: u64, a: u64, b: u64) -> Option<u64> {
    match format {
        _ if !allowed(env) => None,
        Format::Single => from_single(single(a)?.mul_add(single(b)?, single(addend)?)),
        Format::Double => from_double(double(a)?.mul_add(double(b)?, double(addend)?)),
        Format::Half => None,
    }
}
