// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a SIMD&FP instruction needs from the CPU, and how it becomes a handler of the CPU's.
//!
//! [`Machine`] is the interface: the CPU core implements it (`wire`), and so does a small machine in the tests, so
//! that every instruction can be run without an MMU or an exception model.

use super::float::Env;

/// FPSR bits that exist without AArch32: QC, IDC, IXC, UFC, OFC, DZC, IOC.
pub const FPSR_MASK: u32 = 1 << 27 | 0b1001_1111;

/// An access that did not happen; the machine has taken the exception already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// The CPU, as far as a SIMD&FP instruction touches it.
pub trait Machine: Sized {
    /// A decoded operation.
    type Operation;
    /// The instruction word of an operation.
    fn word(operation: &Self::Operation) -> u32;
    /// Whether SIMD&FP is accessible now (CPACR_EL1.FPEN); if not, the exception has been taken.
    fn access(&mut self) -> bool;

    /// V0-V31; the low five bits of the number count.
    fn v(&self, number: u32) -> u128;
    /// Writes the whole of V0-V31.
    fn set_v(&mut self, number: u32, value: u128);
    /// FPCR and FPSR, for one instruction.
    fn env(&self) -> Env;
    /// Takes over the flags that an instruction left.
    fn finish(&mut self, env: &Env);

    /// X0-X30; 31 reads as zero.
    fn x(&self, number: u32) -> u64;
    /// Writes X0-X30; 31 is discarded.
    fn set_x(&mut self, number: u32, value: u64);
    /// PSTATE.NZCV in bits 3..0.
    fn nzcv(&self) -> u8;
    /// Writes PSTATE.NZCV from bits 3..0.
    fn set_nzcv(&mut self, value: u8);

    /// X0-X30, or the stack pointer for 31, whose alignment is checked.
    fn base(&mut self, number: u32) -> Result<u64, Aborted>;
    /// Writes X0-X30, or the stack pointer for 31.
    fn set_base(&mut self, number: u32, value: u64);
    /// Address of the instruction.
    fn pc(&self) -> u64;
    /// Loads 1, 2, 4, 8 or 16 bytes.
    fn load(&mut self, address: u64, len: u32) -> Result<u128, Aborted>;
    /// Stores 1, 2, 4, 8 or 16 bytes.
    fn store(&mut self, address: u64, len: u32, value: u128) -> Result<(), Aborted>;
}

/// A handler of the machine's.
pub type Execute<M> = fn(&mut M, &<M as Machine>::Operation);

/// Turns a function of machine and instruction word into a handler that checks access first.
macro_rules! handler {
    ($function:ident) => {{
        fn run<M: $crate::fp::state::Machine>(machine: &mut M, operation: &M::Operation) {
            if machine.access() {
                $function(machine, M::word(operation));
            }
        }
        run::<M> as $crate::fp::state::Execute<M>
    }};
}
pub(super) use handler;
