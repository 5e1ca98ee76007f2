// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Register accesses: offset -> register -> handler. IHI 0070 §6.2 and §6.3.
//!
//! Writes are 32 bits wide, to a register or to either half of a 64-bit one, or 64 bits wide to a 64-bit register;
//! any other is ignored. Reads have no side effect and are reads of memory (the guest reads a page, see `publish`),
//! so any aligned width returns the bytes that lie there. Undefined locations of page 1, and the places of page 0
//! where page 1 registers would be, are RAZ/WI. An Update of SMMUEN or GBPA is acknowledged once every device behind
//! the SMMU has applied it ([`Smmu::complete_updates`]): within the write if possible, else later, and software polls
//! for it. All else completes within the write.

use crate::regfile::low32;
use crate::smmu::Smmu;
use crate::stream::{Stage1Sink, SyncState};
use smmu_arch::command::StreamRange;
use smmu_arch::spec::control::Gbpa;
use smmu_arch::spec::registers::Register;

impl Smmu {
    /// What a read of `size` bytes (1, 2, 4 or 8) at `offset` returns. Zero for anything misaligned.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let word = |offset: u64| {
            Register::covering(offset).map_or(0, |(register, upper)| {
                let value = self.registers.get(register);
                if upper { value >> 32 } else { value & u64::from(u32::MAX) }
            })
        };
        match size {
            8 if offset.is_multiple_of(8) => word(offset) | (word(offset | 4) << 32),
            4 if offset.is_multiple_of(4) => word(offset),
            2 if offset.is_multiple_of(2) => (word(offset & !3) >> ((offset & 2) * 8)) & 0xffff,
            1 => (word(offset & !3) >> ((offset & 3) * 8)) & 0xff,
            _ => 0,
        }
    }

    /// A write of `size` bytes at `offset`. Commands it makes ready are not run: see `Smmu::step`.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, sink: &mut impl Stage1Sink) {
        self.counters.mmio_writes += 1;
        let target = match size {
            4 => Register::covering(offset),
            8 => Register::at(offset).filter(|register| register.width() == 8).map(|r| (r, false)),
            _ => None,
        };
        let Some((register, upper)) = target else {
            self.counters.mmio_ignored += 1;
            return;
        };
        let value = match (size, register.width(), upper) {
            (4, 8, true) => (self.registers.get(register) & u64::from(u32::MAX)) | (value << 32),
            (4, 8, false) => {
                (self.registers.get(register) & !u64::from(u32::MAX)) | (value & u64::from(u32::MAX))
            }
            (4, _, _) => value & u64::from(u32::MAX),
            _ => value,
        };
        self.write_register(register, value, sink);
    }

    fn write_register(&mut self, register: Register, value: u64, sink: &mut impl Stage1Sink) {
        match register {
            Register::CR0 => self.write_cr0(value, sink),
            Register::GBPA => self.write_gbpa(value, sink),
            Register::IRQ_CTRL => {
                self.store(register, value);
                // Wired edges only: none is in flight that would have to complete first.
                self.registers.put(Register::IRQ_CTRLACK, self.registers.get(Register::IRQ_CTRL));
            }
            Register::STRTAB_BASE | Register::STRTAB_BASE_CFG => {
                if self.store(register, value) {
                    sink.reevaluate(StreamRange::ALL);
                }
            }
            // CMDQ_PROD and GERRORN may make commands ready; `has_commands` sees that from the registers.
            _ => {
                self.store(register, value);
            }
        }
    }

    /// §6.3.9. Command processing stops between commands, and events are written where they arise, so
    /// the queues' updates are complete here; that of SMMUEN is when no stream is treated as before.
    fn write_cr0(&mut self, value: u64, sink: &mut impl Stage1Sink) {
        let was_enabled = self.registers.cr0().smmuen();
        self.store(Register::CR0, value);
        self.registers.acknowledge_queues();
        if was_enabled != self.registers.cr0().smmuen() {
            sink.reevaluate(StreamRange::ALL);
        }
        self.complete_updates(sink);
    }

    /// §6.3.14.1: a write without Update is ignored, and so is one while an earlier update has not completed.
    fn write_gbpa(&mut self, value: u64, sink: &mut impl Stage1Sink) {
        if !Gbpa::from_bits(low32(value)).update() || self.registers.gbpa_is_updating() {
            self.counters.mmio_ignored += 1;
            return;
        }
        let before = self.registers.gbpa();
        self.store(Register::GBPA, value);
        // With SMMUEN set GBPA has no effect.
        if before != self.registers.gbpa() && !self.registers.cr0().smmuen() {
            self.registers.begin_gbpa_update();
            sink.reevaluate(StreamRange::ALL);
            self.complete_updates(sink);
        }
    }

    /// Whether an Update of CR0 or GBPA is not acknowledged yet.
    pub fn is_updating(&self) -> bool {
        self.registers.is_updating()
    }

    /// Acknowledges Updates, if the old values are not in use any more.
    pub fn complete_updates(&mut self, sink: &mut impl Stage1Sink) {
        if self.registers.is_updating() && sink.sync() == SyncState::Done {
            self.registers.acknowledge_updates();
        }
    }

    fn store(&mut self, register: Register, value: u64) -> bool {
        let stored = self.registers.write(register, value);
        if !stored {
            self.counters.mmio_ignored += 1;
        }
        stored
    }
}
