// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD modified immediate": MOVI, MVNI, ORR, BIC and FMOV with an expanded 8-bit immediate
//! (AdvSIMDExpandImm), and the 8-bit floating-point immediate that scalar FMOV shares (VFPExpandImm).

use super::data::{Fields, with_operands};
use super::float::Format;
use super::lanes::{Shape, Size, splat};
use super::state::{Execute, Machine, handler};

/// Decodes the class.
pub fn decode<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    // With o2 it would be a half-precision FMOV.
    let double_immediate = fields.u() && fields.bits(12, 4) == 0b1111;
    (!fields.bit(11) && (!double_immediate || fields.q())).then_some(handler!(execute))
}

fn execute<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let (cmode, inverted) = (fields.bits(12, 4), fields.u());
    let imm8 = u64::from(fields.bits(16, 3) << 5 | fields.bits(5, 5));
    let (size, value) = expand(cmode, inverted, imm8);
    let shape = Shape::vector(size, fields.q());
    let value = splat(shape, value);
    // Odd modes below 1100 combine with the old value.
    let combines = cmode < 0b1100 && cmode & 1 == 1;
    with_operands(machine, word, |_, d, _| match (combines, inverted) {
        (true, false) => (d | value) & shape.mask(),
        (true, true) => d & !value & shape.mask(),
        (false, true) if cmode < 0b1110 => !value & shape.mask(),
        _ => value,
    });
}

fn expand(cmode: u32, op: bool, imm8: u64) -> (Size, u64) {
    match cmode {
        0b0000..=0b0111 => (Size::S, imm8 << (8 * (cmode >> 1))),
        0b1000..=0b1011 => (Size::H, imm8 << (8 * (cmode >> 1 & 1))),
        0b1100 => (Size::S, imm8 << 8 | 0xff),
        0b1101 => (Size::S, imm8 << 16 | 0xffff),
        0b1110 if !op => (Size::B, imm8),
        // Each bit becomes a byte.
        0b1110 => {
            (Size::D, (0..8).filter(|bit| imm8 >> bit & 1 != 0).fold(0, |v, bit| v | 0xff << (8 * bit)))
        }
        _ if op => (Size::D, expand_float(Format::Double, imm8)),
        _ => (Size::S, expand_float(Format::Single, imm8)),
    }
}

/// `abcdefgh` to sign `a`, exponent `NOT(b):Replicate(b):cd`, fraction `efgh`.
pub fn expand_float(format: Format, imm8: u64) -> u64 {
    let exponent_ones = format.exponent_ones();
    let high = exponent_ones >> 1 & !3;
    let exponent = if imm8 & 0x40 != 0 { high } else { (exponent_ones >> 1) + 1 };
    let exponent = exponent | imm8 >> 4 & 3;
    format.zero(imm8 & 0x80 != 0)
        | exponent << format.fraction_bits()
        | (imm8 & 0xf) << (format.fraction_bits() - 4)
}
