// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The CPU as the machine that SIMD&FP instructions run on.

use super::float::Env;
use super::state::{Aborted, FPSR_MASK, Machine};
use crate::cpu::{Cpu, Flags};
use crate::op::{Op, SP, base, dest};

impl Machine for Cpu {
    type Operation = Op;

    #[inline]
    fn word(operation: &Op) -> u32 {
        operation.word
    }

    #[inline]
    fn access(&mut self) -> bool {
        self.fp_access().is_some()
    }

    #[inline]
    fn v(&self, number: u32) -> u128 {
        self.v.get(number as usize & 31).copied().unwrap_or(0)
    }

    #[inline]
    fn set_v(&mut self, number: u32, value: u128) {
        if let Some(register) = self.v.get_mut(number as usize & 31) {
            *register = value;
        }
    }

    #[inline]
    fn env(&self) -> Env {
        Env::new(self.fpcr, self.fpsr)
    }

    #[inline]
    fn finish(&mut self, env: &Env) {
        self.fpsr = env.flags & FPSR_MASK;
    }

    #[inline]
    fn x(&self, number: u32) -> u64 {
        self.r(number as u8 & 31)
    }

    #[inline]
    fn set_x(&mut self, number: u32, value: u64) {
        self.w(dest(number as u8 & 31), value);
    }

    fn nzcv(&self) -> u8 {
        self.flags.bits()
    }

    fn set_nzcv(&mut self, value: u8) {
        self.flags = Flags::from_bits(value);
    }

    #[inline]
    fn base(&mut self, number: u32) -> Result<u64, Aborted> {
        let slot = base(number as u8 & 31);
        let value = self.r(slot);
        if slot == SP && value & 15 != 0 && self.regime.stack_check(self.el) {
            self.stack_alignment();
            return Err(Aborted);
        }
        Ok(value)
    }

    #[inline]
    fn set_base(&mut self, number: u32, value: u64) {
        self.w(base(number as u8 & 31), value);
    }

    fn pc(&self) -> u64 {
        self.this_pc()
    }

    #[inline]
    fn load(&mut self, address: u64, len: u32) -> Result<u128, Aborted> {
        let value = match len {
            1 => self.load::<0>(address),
            2 => self.load::<1>(address),
            4 => self.load::<2>(address),
            8 => self.load::<3>(address),
            _ => return self.load_wide(address).ok_or(Aborted),
        };
        value.map(u128::from).ok_or(Aborted)
    }

    #[inline]
    fn store(&mut self, address: u64, len: u32, value: u128) -> Result<(), Aborted> {
        match len {
            1 => self.store::<0>(address, value as u64),
            2 => self.store::<1>(address, value as u64),
            4 => self.store::<2>(address, value as u64),
            8 => self.store::<3>(address, value as u64),
            _ => self.store_wide(address, value),
        }
        .ok_or(Aborted)
    }
}
