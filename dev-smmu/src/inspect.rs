// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the device counts, and what it shows of itself to whoever inspects it.
//!
//! Counters belong to the process, not to the guest: they are neither saved nor restored.

use crate::smmu::Smmu;
use smmu_arch::spec::registers::Register;

/// Counted since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each is named for what it counts")]
pub struct Counters {
    pub mmio_writes: u64,
    pub mmio_ignored: u64,
    pub commands: u64,
    pub command_errors: u64,
    pub syncs: u64,
    pub events_written: u64,
    pub events_discarded: u64,
    pub events_overflowed: u64,
    pub global_errors: u64,
}

impl Smmu {
    /// Names and values: every counter, then the registers that say what state the device is in.
    pub fn inspect(&self) -> Vec<(&'static str, u64)> {
        let Counters {
            mmio_writes,
            mmio_ignored,
            commands,
            command_errors,
            syncs,
            events_written,
            events_discarded,
            events_overflowed,
            global_errors,
        } = self.counters;
        let register = |register| self.registers.get(register);
        vec![
            ("mmio_writes", mmio_writes),
            ("mmio_ignored", mmio_ignored),
            ("commands", commands),
            ("command_errors", command_errors),
            ("syncs", syncs),
            ("events_written", events_written),
            ("events_discarded", events_discarded),
            ("events_overflowed", events_overflowed),
            ("global_errors", global_errors),
            ("cr0", register(Register::CR0)),
            ("gbpa", register(Register::GBPA)),
            ("gerror", register(Register::GERROR)),
            ("gerrorn", register(Register::GERRORN)),
            ("strtab_base", register(Register::STRTAB_BASE)),
            ("strtab_base_cfg", register(Register::STRTAB_BASE_CFG)),
            ("cmdq_prod", register(Register::CMDQ_PROD)),
            ("cmdq_cons", register(Register::CMDQ_CONS)),
            ("eventq_prod", register(Register::EVENTQ_PROD)),
            ("eventq_cons", register(Register::EVENTQ_CONS)),
        ]
    }
}
