// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From an exact value to the nearest encoding: the one place where a result is rounded (FPRound).
//!
//! Tininess is detected before rounding; flush-to-zero applies to results that are tiny before rounding and then raises
//! underflow alone. All arithmetic and conversion to a floating-point format ends here.

use super::{Env, Format, IOC, IXC, OFC, Rounding, UFC};

/// The exact nonzero value `±(significand + s) * 2^exponent`, where `0 < s < 1` if `sticky` and `s = 0` otherwise.
///
/// With `sticky`, the significand must be wider by two bits than the format it is rounded to, so that the lost part is
/// always below half a unit in the last place.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// Sign of the value.
    pub negative: bool,
    /// Magnitude, not zero.
    pub significand: u128,
    /// Exponent of the significand's lowest bit.
    pub exponent: i32,
    /// Something nonzero lies below the lowest bit.
    pub sticky: bool,
}

/// How much was cut off, relative to half a unit in the last place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// Nothing: the value is exact.
    Nothing,
    /// Less than half.
    BelowHalf,
    /// Exactly half.
    Half,
    /// More than half.
    AboveHalf,
}

/// Splits `significand / 2^shift` into the whole part and what is lost; `sticky` adds a nonzero part below all bits.
pub fn split(significand: u128, shift: u32, sticky: bool) -> (u128, Lost) {
    let (whole, rest, half) = match shift {
        0 => return (significand, if sticky { Lost::BelowHalf } else { Lost::Nothing }),
        1..=127 => (significand >> shift, significand & ((1 << shift) - 1), 1u128 << (shift - 1)),
        // Every significand is below 2^127, hence below half of 2^128.
        _ => return (0, if significand != 0 || sticky { Lost::BelowHalf } else { Lost::Nothing }),
    };
    let lost = match rest.cmp(&half) {
        std::cmp::Ordering::Less if rest == 0 && !sticky => Lost::Nothing,
        std::cmp::Ordering::Less => Lost::BelowHalf,
        std::cmp::Ordering::Equal if !sticky => Lost::Half,
        _ => Lost::AboveHalf,
    };
    (whole, lost)
}

/// The whole part after rounding.
pub fn adjust(rounding: Rounding, negative: bool, whole: u128, lost: Lost) -> u128 {
    let up = match rounding {
        _ if lost == Lost::Nothing => false,
        Rounding::TieEven => lost == Lost::AboveHalf || lost == Lost::Half && whole & 1 == 1,
        Rounding::TieAway => lost >= Lost::Half,
        Rounding::Up => !negative,
        Rounding::Down => negative,
        Rounding::Zero => false,
        Rounding::Odd => return whole | 1,
    };
    whole + u128::from(up)
}

/// Encodes a value in `format`, raising underflow, overflow and inexact as needed.
pub fn round(env: &mut Env, format: Format, value: Exact) -> u64 {
    let Exact { negative, significand, exponent, sticky } = value;
    let top = 127 - significand.leading_zeros() as i32;
    let magnitude = exponent + top;
    let tiny = magnitude < format.exponent_min();
    if tiny && env.flush && format != Format::Half {
        env.raise(UFC);
        return format.zero(negative);
    }
    let unit = magnitude.max(format.exponent_min()) - format.fraction_bits() as i32;
    let (whole, lost) = match unit - exponent {
        // Fewer bits than the format holds: an exact value, moved up.
        left @ ..0 => (significand << left.unsigned_abs().min(127), split(0, 0, sticky).1),
        right => split(significand, right.unsigned_abs(), sticky),
    };
    let whole = adjust(env.rounding, negative, whole, lost) as u64;
    // The leading one of a normal number adds 1 to the exponent field; a carry out of the fraction does the rest.
    let field = (magnitude.max(format.exponent_min()) - format.exponent_min()) as u64;
    let encoded = (field << format.fraction_bits()) + whole;
    let alternative = format == Format::Half && env.alternative_half;
    if alternative {
        if encoded > 0x7fff {
            env.raise(IOC);
            return format.zero(negative) | 0x7fff;
        }
    } else if encoded >= format.infinity(false) {
        env.raise(OFC | IXC);
        return overflow(env.rounding, format, negative);
    }
    if lost != Lost::Nothing {
        env.raise(if tiny { UFC | IXC } else { IXC });
    }
    format.zero(negative) | encoded
}

/// What stands for a number beyond the range: infinity, or the largest number where the mode rounds inwards.
pub fn overflow(rounding: Rounding, format: Format, negative: bool) -> u64 {
    let outwards = match rounding {
        Rounding::TieEven | Rounding::TieAway => true,
        Rounding::Up => !negative,
        Rounding::Down => negative,
        Rounding::Zero | Rounding::Odd => false,
    };
    if outwards { format.infinity(negative) } else { format.max_normal(negative) }
}
