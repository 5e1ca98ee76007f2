// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Floating-point arithmetic as the architecture defines it, on bit patterns and in integers only.
//!
//! Every operation takes and returns raw encodings (`u64`, the upper bits zero) plus an [`Env`] that holds the control
//! bits of FPCR and gathers the cumulative flags of FPSR. Nothing here depends on the host's floating-point state;
//! `host` is a short cut that is taken only where its result and its flags provably equal those of the integer path.
//!
//! Reference: Arm ARM (DDI 0487), A1.5 and the shared pseudocode functions FPUnpack, FPProcessNaNs, FPRound.

pub mod arithmetic;
pub mod compare;
pub mod convert;
pub mod estimate;
mod host;
mod round;

pub use arithmetic::{add, div, mul, mul_add, mul_extended, sqrt, sub};

/// FPSR: invalid operation.
pub const IOC: u32 = 1 << 0;
/// FPSR: division by zero.
pub const DZC: u32 = 1 << 1;
/// FPSR: overflow.
pub const OFC: u32 = 1 << 2;
/// FPSR: underflow.
pub const UFC: u32 = 1 << 3;
/// FPSR: inexact.
pub const IXC: u32 = 1 << 4;
/// FPSR: a denormal input was flushed to zero.
pub const IDC: u32 = 1 << 7;
/// FPSR: an integer SIMD operation saturated.
pub const QC: u32 = 1 << 27;

/// How a result that does not fit is brought to a representable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even (RN).
    TieEven,
    /// Towards plus infinity (RP).
    Up,
    /// Towards minus infinity (RM).
    Down,
    /// Towards zero (RZ).
    Zero,
    /// To nearest, ties away from zero; only by instruction, never from FPCR.
    TieAway,
    /// To odd (FCVTXN), which lets a second rounding be exact.
    Odd,
}

impl Rounding {
    /// FPCR.RMode, and the `rmode` field of the convert instructions.
    pub fn from_rmode(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::TieEven,
            1 => Self::Up,
            2 => Self::Down,
            _ => Self::Zero,
        }
    }
}

/// The controls that an operation obeys and the flags that it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    /// Rounding mode in force.
    pub rounding: Rounding,
    /// FPCR.FZ: denormal single and double inputs and results become zero.
    pub flush: bool,
    /// FPCR.DN: every NaN result is the default NaN.
    pub default_nan: bool,
    /// FPCR.AHP: half precision has no infinities and no NaNs.
    pub alternative_half: bool,
    /// FPSR, with the flags of this operation added.
    pub flags: u32,
}

impl Env {
    /// The environment described by the two registers.
    pub fn new(fpcr: u32, fpsr: u32) -> Self {
        Self {
            rounding: Rounding::from_rmode(fpcr >> 22),
            flush: fpcr & (1 << 24) != 0,
            default_nan: fpcr & (1 << 25) != 0,
            alternative_half: fpcr & (1 << 26) != 0,
            flags: fpsr,
        }
    }

    /// Sets cumulative flags.
    pub fn raise(&mut self, flags: u32) {
        self.flags |= flags;
    }

    /// Runs `operation` under another rounding mode.
    pub fn rounded<T>(&mut self, rounding: Rounding, operation: impl FnOnce(&mut Self) -> T) -> T {
        let own = std::mem::replace(&mut self.rounding, rounding);
        let result = operation(self);
        self.rounding = own;
        result
    }
}

/// An IEEE 754 binary format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// binary16, only converted to and from.
    Half,
    /// binary32.
    Single,
    /// binary64.
    Double,
}

impl Format {
    /// Width of the encoding.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Half => 16,
            Self::Single => 32,
            Self::Double => 64,
        }
    }

    /// Width of the fraction field.
    pub const fn fraction_bits(self) -> u32 {
        match self {
            Self::Half => 10,
            Self::Single => 23,
            Self::Double => 52,
        }
    }

    /// The exponent field when all ones.
    pub const fn exponent_ones(self) -> u64 {
        (1 << (self.bits() - 1 - self.fraction_bits())) - 1
    }

    /// Exponent of the smallest normal number.
    pub const fn exponent_min(self) -> i32 {
        match self {
            Self::Half => -14,
            Self::Single => -126,
            Self::Double => -1022,
        }
    }

    /// The fraction field, all ones.
    pub const fn fraction_mask(self) -> u64 {
        (1 << self.fraction_bits()) - 1
    }

    /// The sign bit alone.
    pub const fn sign_bit(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Zero of the given sign.
    pub const fn zero(self, negative: bool) -> u64 {
        if negative { self.sign_bit() } else { 0 }
    }

    /// Infinity of the given sign.
    pub const fn infinity(self, negative: bool) -> u64 {
        self.zero(negative) | self.exponent_ones() << self.fraction_bits()
    }

    /// The largest finite number of the given sign.
    pub const fn max_normal(self, negative: bool) -> u64 {
        self.infinity(negative) - 1
    }

    /// The quiet bit: the top of the fraction.
    pub const fn quiet_bit(self) -> u64 {
        1 << (self.fraction_bits() - 1)
    }

    /// The NaN that the hardware makes itself.
    pub const fn default_nan(self) -> u64 {
        self.infinity(false) | self.quiet_bit()
    }

    /// The number `2^exponent`, which must be in the normal range.
    pub const fn power_of_two(self, exponent: i32) -> u64 {
        ((exponent - self.exponent_min() + 1) as u64) << self.fraction_bits()
    }
}

/// What an encoding stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Zero, or a denormal that was flushed.
    Zero,
    /// Any other number.
    Finite,
    /// Of either sign.
    Infinity,
    /// A NaN that does not signal.
    QuietNan,
    /// A NaN that raises invalid operation when used.
    SignallingNan,
}

/// A decoded operand: when finite, its value is `significand * 2^exponent`, with the significand's top bit at
/// [`SIGNIFICAND_TOP`] so that operands of all formats are aligned alike.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    /// What it stands for.
    pub class: Class,
    /// Sign bit.
    pub negative: bool,
    /// Exponent of the significand's lowest bit.
    pub exponent: i32,
    /// Normalised significand; 0 unless finite.
    pub significand: u64,
}

/// Position of the leading one of a normalised significand.
pub const SIGNIFICAND_TOP: u32 = 52;

impl Unpacked {
    /// Either kind of NaN.
    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignallingNan)
    }

    /// Of either sign, a flushed denormal included.
    pub fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    /// Infinity.
    pub fn is_infinite(&self) -> bool {
        self.class == Class::Infinity
    }
}

/// Decodes an operand (FPUnpack); a denormal that is flushed raises input-denormal.
pub fn unpack(env: &mut Env, format: Format, bits: u64) -> Unpacked {
    let fraction = bits & format.fraction_mask();
    let biased = bits >> format.fraction_bits() & format.exponent_ones();
    let negative = bits & format.sign_bit() != 0;
    let alternative = format == Format::Half && env.alternative_half;
    let (class, exponent, significand) = if biased == 0 {
        if fraction == 0 {
            (Class::Zero, 0, 0)
        } else if env.flush && format != Format::Half {
            env.raise(IDC);
            (Class::Zero, 0, 0)
        } else {
            normalise(fraction, format.exponent_min() - format.fraction_bits() as i32)
        }
    } else if biased == format.exponent_ones() && !alternative {
        let class = match fraction {
            0 => Class::Infinity,
            f if f & format.quiet_bit() != 0 => Class::QuietNan,
            _ => Class::SignallingNan,
        };
        (class, 0, 0)
    } else {
        let exponent = biased as i32 - 1 + format.exponent_min() - format.fraction_bits() as i32;
        normalise(fraction | 1 << format.fraction_bits(), exponent)
    };
    Unpacked { class, negative, exponent, significand }
}

/// Brings the leading one of a nonzero significand to [`SIGNIFICAND_TOP`].
fn normalise(significand: u64, exponent: i32) -> (Class, i32, u64) {
    let shift = significand.leading_zeros() - (63 - SIGNIFICAND_TOP);
    (Class::Finite, exponent - shift as i32, significand << shift)
}

/// The result of an operation whose operand `bits` is a NaN (FPProcessNaN).
pub fn propagate_nan(env: &mut Env, format: Format, class: Class, bits: u64) -> u64 {
    if class == Class::SignallingNan {
        env.raise(IOC);
    }
    if env.default_nan { format.default_nan() } else { bits | format.quiet_bit() }
}

/// If any operand is a NaN, the result that it forces: signalling ones first, each kind in operand order
/// (FPProcessNaNs).
pub fn propagate_nans(env: &mut Env, format: Format, operands: &[(Unpacked, u64)]) -> Option<u64> {
    [Class::SignallingNan, Class::QuietNan].into_iter().find_map(|class| {
        let found = operands.iter().find(|(operand, _)| operand.class == class)?;
        Some(propagate_nan(env, format, class, found.1))
    })
}

/// The result of an invalid operation: the default NaN.
pub fn invalid(env: &mut Env, format: Format) -> u64 {
    env.raise(IOC);
    format.default_nan()
}

/// Flips the sign, of a NaN too (FPNeg).
pub fn negate(format: Format, bits: u64) -> u64 {
    bits ^ format.sign_bit()
}

/// Clears the sign, of a NaN too (FPAbs).
pub fn absolute(format: Format, bits: u64) -> u64 {
    bits & !format.sign_bit()
}
