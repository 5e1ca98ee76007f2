// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A decoded operation: what an instruction word becomes before it runs.
//!
//! Decoding happens once per word of a code page (`code.rs`); running happens millions of times. An operation
//! is therefore small (24 bytes), its operands are ready to use, and its handler is found without a further
//! look-up. A handler runs with `cpu.pc` already at the following instruction; `cpu.this_pc()` is its own.
//!
//! Register 31 means the zero register or the stack pointer, depending on the instruction. Decoders settle that:
//! sources use the number itself (slot 31 always reads zero) or `base`, destinations use `dest` or `base`.

use crate::cpu::Cpu;

/// Executes one operation. On an exception the handler returns at once, having changed nothing else.
pub(crate) type Handler = fn(&mut Cpu, &Op);

/// One decoded operation. The meaning of every field but `run` and `word` is the handler's own.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    pub run: Handler,
    pub imm: u64,
    pub d: u8,
    pub n: u8,
    pub m: u8,
    pub a: u8,
    pub word: u32,
}

const _: () = assert!(size_of::<Op>() == 24);

/// Slot of the current stack pointer.
pub(crate) const SP: u8 = 32;
/// Slot that takes the writes to the zero register.
pub(crate) const SINK: u8 = 33;

impl Op {
    /// The operation of an unallocated encoding: an Undefined exception.
    pub(crate) fn undefined(word: u32) -> Op {
        Op::new(word, |cpu, _| cpu.undefined())
    }

    /// An operation with the three usual register fields set as sources: `d` = Rd/Rt, `n` = Rn, `m` = Rm.
    pub(crate) fn new(word: u32, run: Handler) -> Op {
        Op { run, imm: 0, d: reg(word, 0), n: reg(word, 5), m: reg(word, 16), a: 0, word }
    }
}

/// The five-bit register field at bit `low`, as a source (31 reads as zero).
pub(crate) const fn reg(word: u32, low: u32) -> u8 {
    (word >> low & 31) as u8
}

/// A destination register: writes to 31 are dropped.
pub(crate) const fn dest(number: u8) -> u8 {
    if number == 31 { SINK } else { number }
}

/// A register where 31 means the stack pointer.
pub(crate) const fn base(number: u8) -> u8 {
    if number == 31 { SP } else { number }
}

/// Bits `high..=low` of a word.
pub(crate) const fn bits(word: u32, high: u32, low: u32) -> u32 {
    word >> low & (u32::MAX >> (31 - (high - low)))
}

/// One bit of a word.
pub(crate) const fn bit(word: u32, at: u32) -> bool {
    word >> at & 1 == 1
}

/// The low `width` bits of `value`, sign-extended.
pub(crate) const fn sign_extend(value: u64, width: u32) -> u64 {
    ((value << (64 - width)) as i64 >> (64 - width)) as u64
}
