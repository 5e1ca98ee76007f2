// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions: between formats, to and from integers and fixed point, and rounding to an integral value
//! (FPConvert, FPToFixed, FixedToFP, FPRoundInt).

use super::round::{Exact, Lost, adjust, round, split};
use super::{Class, Env, Format, IOC, IXC, Unpacked, propagate_nan, unpack};

/// Converts between formats.
pub fn convert(env: &mut Env, from: Format, to: Format, bits: u64) -> u64 {
    let x = unpack(env, from, bits);
    let alternative = to == Format::Half && env.alternative_half;
    match x.class {
        Class::QuietNan | Class::SignallingNan => {
            if alternative || x.class == Class::SignallingNan {
                env.raise(IOC);
            }
            match (alternative, env.default_nan) {
                (true, _) => to.zero(x.negative),
                (_, true) => to.default_nan(),
                _ => convert_nan(from, to, bits),
            }
        }
        Class::Infinity if alternative => {
            env.raise(IOC);
            to.zero(x.negative) | 0x7fff
        }
        Class::Infinity => to.infinity(x.negative),
        Class::Zero => to.zero(x.negative),
        Class::Finite => round(env, to, exact(&x)),
    }
}

/// Keeps sign and the top of the fraction, and makes the NaN quiet (FPConvertNaN).
fn convert_nan(from: Format, to: Format, bits: u64) -> u64 {
    let fraction = (bits & from.fraction_mask()) << (52 - from.fraction_bits()) >> (52 - to.fraction_bits());
    to.infinity(bits & from.sign_bit() != 0) | to.quiet_bit() | fraction
}

fn exact(x: &Unpacked) -> Exact {
    Exact {
        negative: x.negative,
        significand: u128::from(x.significand),
        exponent: x.exponent,
        sticky: false,
    }
}

/// An integer type that a conversion aims at.
#[derive(Clone, Copy, Debug)]
pub struct Integer {
    /// 16, 32 or 64.
    pub bits: u32,
    /// Two's complement or not.
    pub signed: bool,
}

/// To fixed point with `fraction_bits` below the point, in the rounding mode in force, saturating.
pub fn to_fixed(env: &mut Env, format: Format, bits: u64, integer: Integer, fraction_bits: u32) -> u64 {
    let x = unpack(env, format, bits);
    let (max, min_magnitude) = if integer.signed {
        ((1u128 << (integer.bits - 1)) - 1, 1u128 << (integer.bits - 1))
    } else {
        ((1u128 << integer.bits) - 1, 0)
    };
    let limit = if x.negative { min_magnitude } else { max };
    let magnitude = match x.class {
        Class::Zero => 0,
        Class::QuietNan | Class::SignallingNan => {
            env.raise(IOC);
            0
        }
        Class::Infinity => {
            env.raise(IOC);
            limit
        }
        Class::Finite => {
            let (whole, lost) = whole_part(&x, fraction_bits);
            let rounded = adjust(env.rounding, x.negative, whole, lost);
            if rounded > limit {
                env.raise(IOC);
            } else if lost != Lost::Nothing {
                env.raise(IXC);
            }
            rounded.min(limit)
        }
    };
    let value = if x.negative { magnitude.wrapping_neg() } else { magnitude };
    (value & ((1 << integer.bits) - 1)) as u64
}

/// `|x| * 2^fraction_bits` cut to an integer; anything of 66 bits and more is given as `2^66`.
fn whole_part(x: &Unpacked, fraction_bits: u32) -> (u128, Lost) {
    let significand = u128::from(x.significand);
    match x.exponent + fraction_bits as i32 {
        right @ ..0 => split(significand, right.unsigned_abs(), false),
        left @ 0..14 => (significand << left.unsigned_abs(), Lost::Nothing),
        _ => (1 << 66, Lost::Nothing),
    }
}

/// From an integer (the low `integer.bits` of `value`) with `fraction_bits` below the point.
pub fn from_fixed(env: &mut Env, format: Format, value: u64, integer: Integer, fraction_bits: u32) -> u64 {
    let value = value << (64 - integer.bits) >> (64 - integer.bits);
    let negative = integer.signed && value >> (integer.bits - 1) & 1 != 0;
    let magnitude = if negative { (1u128 << integer.bits) - u128::from(value) } else { u128::from(value) };
    if magnitude == 0 {
        return 0;
    }
    let exponent = -(fraction_bits as i32);
    round(env, format, Exact { negative, significand: magnitude, exponent, sticky: false })
}

/// FRINT*: to an integral value in the same format, in the rounding mode in force. `exact` also raises inexact
/// (FRINTX).
pub fn round_to_integral(env: &mut Env, format: Format, bits: u64, exact_wanted: bool) -> u64 {
    let x = unpack(env, format, bits);
    match x.class {
        Class::QuietNan | Class::SignallingNan => propagate_nan(env, format, x.class, bits),
        Class::Infinity => bits,
        Class::Zero => format.zero(x.negative),
        // No fraction bits left.
        Class::Finite if x.exponent >= 0 => bits,
        Class::Finite => {
            let (whole, lost) = split(u128::from(x.significand), x.exponent.unsigned_abs(), false);
            let significand = adjust(env.rounding, x.negative, whole, lost);
            if lost != Lost::Nothing && exact_wanted {
                env.raise(IXC);
            }
            if significand == 0 {
                return format.zero(x.negative);
            }
            // An integer of at most as many bits as the format has: this rounding is exact.
            round(env, format, Exact { negative: x.negative, significand, exponent: 0, sticky: false })
        }
    }
}
