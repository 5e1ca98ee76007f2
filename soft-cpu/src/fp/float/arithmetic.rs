// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Add, subtract, multiply, divide, square root and fused multiply-add.
//!
//! Each function first tries the host (`host`), then works out the exact value in 128-bit integers, keeping one sticky
//! bit where the exact value is wider, and rounds once. NaN and invalid-operation rules follow FPAdd, FPMul, FPDiv,
//! FPSqrt, FPMulAdd and FPMulX.

use super::round::{Exact, round};
use super::{
    Class, DZC, Env, Format, Rounding, SIGNIFICAND_TOP, Unpacked, host, invalid, negate, propagate_nans,
    unpack,
};

/// `a + b`.
pub fn add(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    if let Some(result) = host::binary(env, format, a, b, |a, b| a + b, |a, b| a + b) {
        return result;
    }
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if let Some(nan) = propagate_nans(env, format, &[(x, a), (y, b)]) {
        return nan;
    }
    match (x.is_infinite(), y.is_infinite()) {
        (true, true) if x.negative != y.negative => invalid(env, format),
        (true, _) => format.infinity(x.negative),
        (_, true) => format.infinity(y.negative),
        _ => {
            let same_zeros = x.is_zero() && y.is_zero() && x.negative == y.negative;
            finish_sum(env, format, sum(wide(&x, 64), wide(&y, 64)), same_zeros.then_some(x.negative))
        }
    }
}

/// `a - b`. Not `a + -b`: a NaN in `b` keeps its sign.
pub fn sub(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    let is_nan = b & !format.sign_bit() > format.infinity(false);
    add(env, format, a, if is_nan { b } else { negate(format, b) })
}

/// `a * b`.
pub fn mul(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    if let Some(result) = host::binary(env, format, a, b, |a, b| a * b, |a, b| a * b) {
        return result;
    }
    multiply(env, format, a, b, invalid)
}

/// FMULX: `a * b`, where zero times infinity is two.
pub fn mul_extended(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    let negative = (a ^ b) & format.sign_bit();
    multiply(env, format, a, b, |_, format| negative | format.power_of_two(1))
}

fn multiply(
    env: &mut Env,
    format: Format,
    a: u64,
    b: u64,
    zero_times_infinity: impl FnOnce(&mut Env, Format) -> u64,
) -> u64 {
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if let Some(nan) = propagate_nans(env, format, &[(x, a), (y, b)]) {
        return nan;
    }
    let negative = x.negative != y.negative;
    match (x.class, y.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => zero_times_infinity(env, format),
        (Class::Infinity, _) | (_, Class::Infinity) => format.infinity(negative),
        (Class::Zero, _) | (_, Class::Zero) => format.zero(negative),
        _ => round(env, format, product(&x, &y)),
    }
}

/// `a / b`.
pub fn div(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    if let Some(result) = host::binary(env, format, a, b, |a, b| a / b, |a, b| a / b) {
        return result;
    }
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    if let Some(nan) = propagate_nans(env, format, &[(x, a), (y, b)]) {
        return nan;
    }
    let negative = x.negative != y.negative;
    match (x.class, y.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => invalid(env, format),
        (Class::Infinity, _) => format.infinity(negative),
        (_, Class::Zero) => {
            env.raise(DZC);
            format.infinity(negative)
        }
        (Class::Zero, _) | (_, Class::Infinity) => format.zero(negative),
        _ => {
            // 53 + 70 bits over 53 bits: a quotient of at least 70 bits, whatever the format.
            let (dividend, divisor) = (u128::from(x.significand) << 70, u128::from(y.significand));
            let significand = dividend / divisor;
            let sticky = dividend % divisor != 0;
            round(
                env,
                format,
                Exact { negative, significand, exponent: x.exponent - 70 - y.exponent, sticky },
            )
        }
    }
}

/// The square root of `a`.
pub fn sqrt(env: &mut Env, format: Format, a: u64) -> u64 {
    if let Some(result) = host::unary(env, format, a, f32::sqrt, f64::sqrt) {
        return result;
    }
    let x = unpack(env, format, a);
    if let Some(nan) = propagate_nans(env, format, &[(x, a)]) {
        return nan;
    }
    match x.class {
        Class::Zero => format.zero(x.negative),
        _ if x.negative => invalid(env, format),
        Class::Infinity => format.infinity(false),
        _ => {
            // An even exponent, and a radicand of 125 or 126 bits: the root then has 63.
            let shift = 73 - u32::from(x.exponent & 1 == 0);
            let radicand = u128::from(x.significand) << shift;
            let significand = radicand.isqrt();
            let sticky = significand * significand != radicand;
            let exponent = (x.exponent - shift as i32) / 2;
            round(env, format, Exact { negative: false, significand, exponent, sticky })
        }
    }
}

/// `addend + a * b` with a single rounding.
pub fn mul_add(env: &mut Env, format: Format, addend: u64, a: u64, b: u64) -> u64 {
    if let Some(result) = host::fused(env, format, addend, a, b) {
        return result;
    }
    let z = unpack(env, format, addend);
    let (x, y) = (unpack(env, format, a), unpack(env, format, b));
    let no_product = x.is_infinite() && y.is_zero() || x.is_zero() && y.is_infinite();
    if z.class == Class::QuietNan && no_product {
        return invalid(env, format);
    }
    if let Some(nan) = propagate_nans(env, format, &[(z, addend), (x, a), (y, b)]) {
        return nan;
    }
    let negative = x.negative != y.negative;
    let infinite = x.is_infinite() || y.is_infinite();
    if no_product || infinite && z.is_infinite() && z.negative != negative {
        return invalid(env, format);
    }
    if infinite {
        return format.infinity(negative);
    }
    if z.is_infinite() {
        return format.infinity(z.negative);
    }
    fused_finite(env, format, &z, &x, &y, 0)
}

/// `(addend + a * b) * 2^scale` of finite operands, rounded once. FRSQRTS needs the scale.
pub fn fused_finite(
    env: &mut Env,
    format: Format,
    z: &Unpacked,
    x: &Unpacked,
    y: &Unpacked,
    scale: i32,
) -> u64 {
    let zero_product = x.is_zero() || y.is_zero();
    let exact = if zero_product {
        wide(z, 73)
    } else {
        // 106 bits of product, moved up to where the addend's 53 bits end.
        let mut product = product(x, y);
        product.significand <<= 20;
        product.exponent -= 20;
        sum(wide(z, 73), Some(product))
    };
    let exact = exact.map(|exact| Exact { exponent: exact.exponent + scale, ..exact });
    let same_zeros = zero_product && z.is_zero() && z.negative == (x.negative != y.negative);
    finish_sum(env, format, exact, same_zeros.then_some(z.negative))
}

fn product(x: &Unpacked, y: &Unpacked) -> Exact {
    let significand = u128::from(x.significand) * u128::from(y.significand);
    Exact {
        negative: x.negative != y.negative,
        significand,
        exponent: x.exponent + y.exponent,
        sticky: false,
    }
}

/// An operand with `guard` zero bits below it; none for zero.
fn wide(operand: &Unpacked, guard: u32) -> Option<Exact> {
    (operand.class == Class::Finite).then(|| Exact {
        negative: operand.negative,
        significand: u128::from(operand.significand) << guard,
        exponent: operand.exponent - guard as i32,
        sticky: false,
    })
}

const _: () =
    assert!(SIGNIFICAND_TOP + 73 < 126, "two aligned operands must add without carry out of 127 bits");

/// The exact sum, none if zero. Operands come with so many guard bits that bits are lost (to sticky) only where the
/// exponents differ too much for the leading bits to cancel.
fn sum(a: Option<Exact>, b: Option<Exact>) -> Option<Exact> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (one, other) => return one.or(other),
    };
    let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    let shift = (high.exponent - low.exponent).unsigned_abs();
    let aligned = low.significand.checked_shr(shift).unwrap_or(0);
    let sticky = aligned.checked_shl(shift).unwrap_or(0) != low.significand;
    let (negative, significand) = if high.negative == low.negative {
        (high.negative, high.significand + aligned)
    } else if high.significand >= aligned {
        // What sticky stands for is taken away too: borrow one, and leave a part below the lowest bit.
        (high.negative, high.significand - aligned - u128::from(sticky))
    } else {
        (low.negative, aligned - high.significand)
    };
    (significand != 0).then_some(Exact { negative, significand, exponent: high.exponent, sticky })
}

/// Rounds a sum. A zero sum takes the sign of two zeros that agree, and else depends on the rounding direction.
fn finish_sum(env: &mut Env, format: Format, exact: Option<Exact>, zeros: Option<bool>) -> u64 {
    match exact {
        Some(exact) => round(env, format, exact),
        None => format.zero(zeros.unwrap_or(env.rounding == Rounding::Down)),
    }
}
