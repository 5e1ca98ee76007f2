// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's counters, and the registers that `inspect` shows.
//!
//! Counters belong to the process, not to the guest: they are neither saved nor restored.

use crate::smmu::Smmu;
use smmu_arch::spec::registers::Register;

/// Counters since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Register writes handled.
    pub mmio_writes: u64,
    /// Those that changed nothing: no such register, wrong width, guarded, or GBPA without Update.
    pub mmio_ignored: u64,
    /// Commands consumed.
    pub commands: u64,
    /// CMD_SYNCs among them.
    pub syncs: u64,
    /// Commands that stopped the queue.
    pub command_errors: u64,
    /// Records in the Event queue.
    pub events_written: u64,
    /// Records lost: queue disabled or aborted.
    pub events_discarded: u64,
    /// Records lost: queue full.
    pub events_overflowed: u64,
    /// Global errors activated.
    pub global_errors: u64,
}

impl Counters {
    /// Every counter, by the name it is inspected under.
    pub fn each(&self, mut show: impl FnMut(&'static str, u64)) {
        let Counters {
            mmio_writes,
            mmio_ignored,
            commands,
            syncs,
            command_errors,
            events_written,
            events_discarded,
            events_overflowed,
            global_errors,
        } = *self;
        show("mmio.writes", mmio_writes);
        show("mmio.ignored", mmio_ignored);
        show("cmdq.commands", commands);
        show("cmdq.syncs", syncs);
        show("cmdq.errors", command_errors);
        show("eventq.written", events_written);
        show("eventq.discarded", events_discarded);
        show("eventq.overflowed", events_overflowed);
        show("gerror.activated", global_errors);
    }
}

/// The registers that say what state the device is in.
const SHOWN: [(&str, Register); 11] = [
    ("register.cr0", Register::CR0),
    ("register.gbpa", Register::GBPA),
    ("register.irq_ctrl", Register::IRQ_CTRL),
    ("register.gerror", Register::GERROR),
    ("register.gerrorn", Register::GERRORN),
    ("register.strtab_base", Register::STRTAB_BASE),
    ("register.strtab_base_cfg", Register::STRTAB_BASE_CFG),
    ("register.cmdq_prod", Register::CMDQ_PROD),
    ("register.cmdq_cons", Register::CMDQ_CONS),
    ("register.eventq_prod", Register::EVENTQ_PROD),
    ("register.eventq_cons", Register::EVENTQ_CONS),
];

impl Smmu {
    /// Registers worth showing, by the name they are inspected under.
    pub fn each_register(&self, mut show: impl FnMut(&'static str, u64)) {
        SHOWN.into_iter().for_each(|(name, register)| show(name, self.registers.get(register)));
    }
}
