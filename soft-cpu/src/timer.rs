// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The EL1 timers: virtual (CNTV) and physical (CNTP), on the counter of `clock.rs` (Arm ARM D11.2).
//!
//! There is no EL2 to give the virtual counter an offset, so both count the same. A timer's output is a level:
//! it follows the registers and the counter, and is handed to the interrupt controller when it changes.

use crate::cpu::Cpu;

/// INTIDs of the private peripheral interrupts.
const VIRTUAL_INTID: u32 = 27;
const PHYSICAL_INTID: u32 = 30;

const ENABLE: u64 = 1 << 0;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

/// Registers and output of one EL1 timer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Timer {
    /// CTL.ENABLE and CTL.IMASK.
    control: u64,
    pub compare: u64,
    /// The level last signalled to the interrupt controller.
    output: bool,
}

/// Both timers of a CPU.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Timers {
    pub virt: Timer,
    pub phys: Timer,
}

impl Timer {
    pub(crate) fn new(control: u64, compare: u64) -> Timer {
        Timer { control: control & (ENABLE | IMASK), compare, output: false }
    }

    /// CTL as it was written.
    pub(crate) fn control(&self) -> u64 {
        self.control
    }

    /// CTL as read: the condition shows even when the interrupt is masked.
    pub(crate) fn read_control(&self, now: u64) -> u64 {
        let met = self.control & ENABLE != 0 && now >= self.compare;
        self.control | if met { ISTATUS } else { 0 }
    }

    pub(crate) fn write_control(&mut self, value: u64) {
        self.control = value & (ENABLE | IMASK);
    }

    /// TVAL: the signed 32-bit distance to the compare value.
    pub(crate) fn read_distance(&self, now: u64) -> u64 {
        self.compare.wrapping_sub(now) & 0xffff_ffff
    }

    pub(crate) fn write_distance(&mut self, value: u64, now: u64) {
        self.compare = now.wrapping_add(i64::from(value as i32) as u64);
    }

    fn armed(&self) -> bool {
        self.control & (ENABLE | IMASK) == ENABLE
    }
}

impl Timers {
    /// Both disabled. The outputs follow at the next update.
    pub(crate) fn reset(&mut self) {
        for timer in [&mut self.virt, &mut self.phys] {
            timer.control = 0;
            timer.compare = 0;
        }
    }
}

impl Cpu {
    /// Brings the outputs up to date with the registers and the counter.
    pub(crate) fn update_timers(&mut self) {
        if !self.timers.virt.armed()
            && !self.timers.phys.armed()
            && !self.timers.virt.output
            && !self.timers.phys.output
        {
            return;
        }
        let now = self.clock.ticks();
        for (timer, intid) in
            [(&mut self.timers.virt, VIRTUAL_INTID), (&mut self.timers.phys, PHYSICAL_INTID)]
        {
            let output = timer.armed() && now >= timer.compare;
            if output != timer.output {
                timer.output = output;
                self.interrupts.set_ppi_level(self.index, intid, output);
            }
        }
    }

    /// Signals both outputs to the interrupt controller, changed or not.
    pub(crate) fn announce_timers(&mut self) {
        let now = self.clock.ticks();
        for (timer, intid) in
            [(&mut self.timers.virt, VIRTUAL_INTID), (&mut self.timers.phys, PHYSICAL_INTID)]
        {
            timer.output = timer.armed() && now >= timer.compare;
            self.interrupts.set_ppi_level(self.index, intid, timer.output);
        }
    }

    /// The counter value at which a timer next raises its output, if any is to.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        [self.timers.virt, self.timers.phys]
            .iter()
            .filter(|timer| timer.armed() && !timer.output)
            .map(|timer| timer.compare)
            .min()
    }
}
