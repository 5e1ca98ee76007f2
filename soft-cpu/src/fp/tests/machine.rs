// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stand-in for the CPU: registers, a little memory, and one instruction at a time.

use crate::fp::float::Env;
use crate::fp::state::{Aborted, FPSR_MASK, Machine};

/// Registers and one window of memory; accesses outside it abort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestMachine {
    pub v: [u128; 32],
    /// X0-X30; the stack pointer in slot 31.
    pub x: [u64; 32],
    pub nzcv: u8,
    pub fpcr: u32,
    pub fpsr: u32,
    pub pc: u64,
    pub memory_base: u64,
    pub memory: Vec<u8>,
    pub no_access: bool,
    pub aborted: bool,
}

impl TestMachine {
    /// Runs one instruction; false if its encoding is unallocated.
    pub fn run(&mut self, word: u32) -> bool {
        match crate::fp::handler::<Self>(word) {
            Some(handler) => {
                handler(self, &word);
                true
            }
            None => false,
        }
    }

    fn window(&mut self, address: u64, len: u32) -> Result<&mut [u8], Aborted> {
        let start = address.checked_sub(self.memory_base).map(|start| start as usize);
        let window = start.and_then(|start| self.memory.get_mut(start..start + len as usize));
        self.aborted |= window.is_none();
        window.ok_or(Aborted)
    }
}

impl Machine for TestMachine {
    type Operation = u32;

    fn word(operation: &u32) -> u32 {
        *operation
    }

    fn access(&mut self) -> bool {
        !self.no_access
    }

    fn v(&self, number: u32) -> u128 {
        self.v[number as usize & 31]
    }

    fn set_v(&mut self, number: u32, value: u128) {
        self.v[number as usize & 31] = value;
    }

    fn env(&self) -> Env {
        Env::new(self.fpcr, self.fpsr)
    }

    fn finish(&mut self, env: &Env) {
        self.fpsr = env.flags & FPSR_MASK;
    }

    fn x(&self, number: u32) -> u64 {
        if number == 31 { 0 } else { self.x[number as usize] }
    }

    fn set_x(&mut self, number: u32, value: u64) {
        if number != 31 {
            self.x[number as usize] = value;
        }
    }

    fn nzcv(&self) -> u8 {
        self.nzcv
    }

    fn set_nzcv(&mut self, value: u8) {
        self.nzcv = value;
    }

    fn base(&mut self, number: u32) -> Result<u64, Aborted> {
        Ok(self.x[number as usize])
    }

    fn set_base(&mut self, number: u32, value: u64) {
        self.x[number as usize] = value;
    }

    fn pc(&self) -> u64 {
        self.pc
    }

    fn load(&mut self, address: u64, len: u32) -> Result<u128, Aborted> {
        let mut bytes = [0; 16];
        bytes[..len as usize].copy_from_slice(self.window(address, len)?);
        Ok(u128::from_le_bytes(bytes))
    }

    fn store(&mut self, address: u64, len: u32, value: u128) -> Result<(), Aborted> {
        let bytes = value.to_le_bytes();
        self.window(address, len)?.copy_from_slice(&bytes[..len as usize]);
        Ok(())
    }
}
