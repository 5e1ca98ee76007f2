// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decoding (Arm ARM C4.1): the top levels of the A64 encoding table; one file per instruction class below.
//!
//! A class's `decode` gets words that belong to it by the table's decision bits and returns `None` for an
//! unallocated encoding, which is then an Undefined exception. Handlers stand beside the decoder that picks them.

mod add_sub;
mod atomics;
mod bitfield;
mod bits;
mod branch;
mod carry;
mod condition;
mod crc32;
mod divide;
mod exclusive;
mod extract;
mod load_store;
mod logical;
mod move_wide;
mod multiply;
mod pair;
mod pc_relative;
mod shift;
mod system;

use crate::fp;
use crate::op::{Op, bit, bits};

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) use logical::bit_mask;

/// Decodes one instruction word.
pub(crate) fn decode(word: u32) -> Op {
    let found = match bits(word, 28, 25) {
        0b1000 | 0b1001 => data_immediate(word),
        0b1010 | 0b1011 => branch_or_system(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 if bit(word, 26) => fp::decode(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => load_or_store(word),
        0b0101 | 0b1101 => data_register(word),
        0b0111 | 0b1111 => fp::decode(word),
        _ => None,
    };
    found.unwrap_or_else(|| Op::undefined(word))
}

/// Whether what follows this word is only reached from elsewhere: an unconditional branch, or no code at all.
pub(crate) fn ends_run(word: u32) -> bool {
    let plain_branch = bits(word, 31, 26) == 0b00_0101;
    let register_branch = bits(word, 31, 25) == 0b110_1011 && bits(word, 22, 21) != 0b01;
    plain_branch || register_branch || word == 0
}

fn data_immediate(word: u32) -> Option<Op> {
    match bits(word, 25, 23) {
        0b000 | 0b001 => pc_relative::decode(word),
        0b010 => add_sub::decode_immediate(word),
        0b100 => logical::decode_immediate(word),
        0b101 => move_wide::decode(word),
        0b110 => bitfield::decode(word),
        0b111 => extract::decode(word),
        _ => None,
    }
}

fn data_register(word: u32) -> Option<Op> {
    match (bit(word, 28), bits(word, 24, 21)) {
        (false, 0b0000..=0b0111) => logical::decode_shifted(word),
        (false, op) if op & 1 == 0 => add_sub::decode_shifted(word),
        (false, _) => add_sub::decode_extended(word),
        (true, 0b0000) => carry::decode(word),
        (true, 0b0010) => condition::decode_compare(word),
        (true, 0b0100) => condition::decode_select(word),
        (true, 0b0110) if bit(word, 30) => bits::decode(word),
        (true, 0b0110) => two_sources(word),
        (true, 0b1000..=0b1111) => multiply::decode(word),
        _ => None,
    }
}

fn two_sources(word: u32) -> Option<Op> {
    if bit(word, 29) {
        return None;
    }
    match bits(word, 15, 10) {
        0b000010 | 0b000011 => Some(divide::decode(word)),
        0b001000..=0b001011 => Some(shift::decode(word)),
        0b010000..=0b010111 => crc32::decode(word),
        _ => None,
    }
}

fn branch_or_system(word: u32) -> Option<Op> {
    match bits(word, 31, 29) {
        0b000 | 0b100 => Some(branch::decode_immediate(word)),
        0b001 | 0b101 if bit(word, 25) => Some(branch::decode_test(word)),
        0b001 | 0b101 => Some(branch::decode_compare(word)),
        0b010 => branch::decode_conditional(word),
        0b110 if bit(word, 25) => branch::decode_register(word),
        0b110 if bit(word, 24) => system::decode(word),
        0b110 => system::decode_exception(word),
        _ => None,
    }
}

fn load_or_store(word: u32) -> Option<Op> {
    match (bits(word, 29, 28), bit(word, 24)) {
        (0b00, false) => exclusive::decode(word),
        (0b01, false) => Some(load_store::decode_literal(word)),
        (0b10, _) => pair::decode(word),
        (0b11, true) => load_store::decode_scaled(word),
        (0b11, false) => match (bit(word, 21), bits(word, 11, 10)) {
            (false, _) => load_store::decode_unscaled(word),
            (true, 0b00) => atomics::decode(word),
            (true, 0b10) => load_store::decode_register(word),
            _ => None,
        },
        _ => None,
    }
}

/// Picks the 64-bit or 32-bit instance of a handler.
macro_rules! by_width {
    ($word:expr, $handler:ident) => {
        if crate::op::bit($word, 31) { $handler::<true> as crate::op::Handler } else { $handler::<false> }
    };
}
pub(crate) use by_width;

/// Picks an instance of a handler by width and by a two-bit kind.
macro_rules! by_width_and_kind {
    ($word:expr, $kind:expr, $handler:ident) => {
        match (crate::op::bit($word, 31), $kind) {
            (true, 0) => $handler::<true, 0> as crate::op::Handler,
            (true, 1) => $handler::<true, 1>,
            (true, 2) => $handler::<true, 2>,
            (true, _) => $handler::<true, 3>,
            (false, 0) => $handler::<false, 0>,
            (false, 1) => $handler::<false, 1>,
            (false, 2) => $handler::<false, 2>,
            (false, _) => $handler::<false, 3>,
        }
    };
}
pub(crate) use by_width_and_kind;

/// A result in its register width: 32-bit results clear the upper half.
#[inline(always)]
pub(crate) fn sized<const WIDE: bool>(value: u64) -> u64 {
    if WIDE { value } else { value & 0xffff_ffff }
}

/// ExtendReg: the low part of a register, extended as the three-bit option says.
#[inline(always)]
pub(crate) fn extend(value: u64, option: u8) -> u64 {
    match option & 7 {
        0 => value & 0xff,
        1 => value & 0xffff,
        2 => value & 0xffff_ffff,
        4 => i64::from(value as i8) as u64,
        5 => i64::from(value as i16) as u64,
        6 => i64::from(value as i32) as u64,
        _ => value,
    }
}

/// ShiftReg by an amount below the register width: LSL, LSR, ASR, ROR.
#[inline(always)]
pub(crate) fn shifted<const WIDE: bool>(value: u64, kind: u8, amount: u8) -> u64 {
    let amount = u32::from(amount);
    if WIDE {
        match kind & 3 {
            0 => value.wrapping_shl(amount),
            1 => value.wrapping_shr(amount),
            2 => (value as i64).wrapping_shr(amount) as u64,
            _ => value.rotate_right(amount),
        }
    } else {
        let value = value as u32;
        u64::from(match kind & 3 {
            0 => value.wrapping_shl(amount),
            1 => value.wrapping_shr(amount),
            2 => (value as i32).wrapping_shr(amount) as u32,
            _ => value.rotate_right(amount),
        })
    }
}
