// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exact numbers for the tests: wide fixed point, and rounding by its definition.
//!
//! A magnitude is an integer of enough bits for every product of two doubles, in units of 2^-2200. Rounding searches
//! the encodings, which are ordered like the numbers they stand for, and compares distances: slow and obvious.

use std::cmp::Ordering;

use crate::fp::float::{Format, IXC, OFC, Rounding, UFC};

const LIMBS: usize = 70;
const UNIT: i32 = -2200;

/// A magnitude in units of `2^UNIT`, lowest limb first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed([u64; LIMBS]);

impl Fixed {
    pub const ZERO: Fixed = Fixed([0; LIMBS]);

    /// `significand * 2^exponent`.
    pub fn new(significand: u128, exponent: i32) -> Fixed {
        let shift = (exponent - UNIT) as usize;
        let (limb, bit) = (shift / 64, shift % 64);
        let mut result = Fixed::ZERO;
        for (part, value) in [significand as u64, (significand >> 64) as u64].into_iter().enumerate() {
            result.0[limb + part] |= value << bit;
            if bit > 0 {
                result.0[limb + part + 1] |= value >> (64 - bit);
            }
        }
        result
    }

    /// The magnitude of an encoding; the exponent of all ones is taken as one more binade.
    pub fn decode(format: Format, bits: u64) -> Fixed {
        let (significand, exponent) = parts(format, bits);
        Fixed::new(significand.into(), exponent)
    }

    pub fn plus(self, other: Fixed) -> Fixed {
        let mut carry = false;
        let mut result = Fixed::ZERO;
        for (out, (a, b)) in result.0.iter_mut().zip(self.0.iter().zip(other.0)) {
            let (sum, first) = a.overflowing_add(b);
            let (sum, second) = sum.overflowing_add(carry.into());
            (*out, carry) = (sum, first || second);
        }
        assert!(!carry, "wide enough");
        result
    }

    /// `self - other`, which must not be negative.
    pub fn minus(self, other: Fixed) -> Fixed {
        let mut borrow = false;
        let mut result = Fixed::ZERO;
        for (out, (a, b)) in result.0.iter_mut().zip(self.0.iter().zip(other.0)) {
            let (difference, first) = a.overflowing_sub(b);
            let (difference, second) = difference.overflowing_sub(borrow.into());
            (*out, borrow) = (difference, first || second);
        }
        assert!(!borrow, "not negative");
        result
    }
}

impl PartialOrd for Fixed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fixed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

/// Significand and exponent of an encoding, sign ignored.
pub fn parts(format: Format, bits: u64) -> (u64, i32) {
    let fraction = bits & format.fraction_mask();
    let biased = bits >> format.fraction_bits() & format.exponent_ones();
    let lowest = format.exponent_min() - format.fraction_bits() as i32;
    if biased == 0 {
        (fraction, lowest)
    } else {
        (fraction | 1 << format.fraction_bits(), lowest + biased as i32 - 1)
    }
}

/// A signed exact number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signed {
    pub negative: bool,
    pub magnitude: Fixed,
}

impl Signed {
    pub fn decode(format: Format, bits: u64) -> Signed {
        Signed { negative: bits & format.sign_bit() != 0, magnitude: Fixed::decode(format, bits) }
    }

    pub fn product(format: Format, a: u64, b: u64) -> Signed {
        let ((x, e), (y, f)) = (parts(format, a), parts(format, b));
        Signed {
            negative: (a ^ b) & format.sign_bit() != 0,
            magnitude: Fixed::new(u128::from(x) * u128::from(y), e + f),
        }
    }

    pub fn plus(self, other: Signed) -> Signed {
        if self.negative == other.negative {
            return Signed { magnitude: self.magnitude.plus(other.magnitude), ..self };
        }
        let (large, small) = if self.magnitude >= other.magnitude { (self, other) } else { (other, self) };
        Signed { magnitude: large.magnitude.minus(small.magnitude), ..large }
    }
}

/// Rounds a nonzero number by definition: the encoding and the flags. `flush` is FPCR.FZ.
pub fn round(format: Format, value: Signed, rounding: Rounding, flush: bool) -> (u64, u32) {
    let sign = if value.negative { format.sign_bit() } else { 0 };
    let tiny = value.magnitude < Fixed::decode(format, 1 << format.fraction_bits());
    if tiny && flush && format != Format::Half {
        return (sign, UFC);
    }
    // The greatest encoding that is not above the value.
    let (mut low, mut high) = (0, format.sign_bit() - 1);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if Fixed::decode(format, middle) <= value.magnitude { low = middle } else { high = middle - 1 }
    }
    let infinity = format.infinity(false);
    let below = Fixed::decode(format, low);
    let inexact = below != value.magnitude;
    let nearest = |tie_up: bool| {
        let above = Fixed::decode(format, low + 1);
        match value.magnitude.minus(below).cmp(&above.minus(value.magnitude)) {
            Ordering::Less => low,
            Ordering::Equal if !tie_up => low,
            _ => low + 1,
        }
    };
    let rounded = match rounding {
        _ if !inexact || low >= infinity => low,
        Rounding::TieEven => nearest(low & 1 == 1),
        Rounding::TieAway => nearest(true),
        Rounding::Up => low + u64::from(!value.negative),
        Rounding::Down => low + u64::from(value.negative),
        Rounding::Zero => low,
        Rounding::Odd => low | 1,
    };
    if rounded >= infinity {
        let inwards = match rounding {
            Rounding::Zero | Rounding::Odd => true,
            Rounding::Up => value.negative,
            Rounding::Down => !value.negative,
            _ => false,
        };
        return (sign | (infinity - u64::from(inwards)), OFC | IXC);
    }
    let flags = match (inexact, tiny) {
        (false, _) => 0,
        (true, false) => IXC,
        (true, true) => IXC | UFC,
    };
    (sign | rounded, flags)
}
