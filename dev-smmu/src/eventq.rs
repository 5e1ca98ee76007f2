// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Event queue: records written for software to consume, or counted as lost. IHI 0070 §7.2, §7.4.
//!
//! A record goes to memory first and PROD moves after it. A full queue loses the record and says so by
//! toggling OVFLG, once until software acknowledges in OVACKFLG. GERROR.EVENTQ_ABT_ERR is for a write
//! that aborted, and only for that: PROD stays, and the queue is not written until it is acknowledged.

use crate::effects::{Effects, Interrupt};
use crate::memory::GuestMemory;
use crate::smmu::Smmu;
use smmu_arch::spec::control::Gerror;
use smmu_arch::spec::events::EventRecord;
use smmu_arch::spec::registers::Register;
use zerocopy::IntoBytes;

/// The result of recording an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It is in the queue.
    Written,
    /// The queue is disabled, or an abort of it is unacknowledged (§7.2.1): discarded.
    NotWritable,
    /// The queue is full (§7.4): discarded.
    Overflow,
    /// Writing it aborted (§7.2.2): lost.
    Aborted,
}

impl Smmu {
    /// Records an event that is not about a stalled transaction.
    pub fn record(
        &mut self,
        record: &EventRecord,
        memory: &impl GuestMemory,
        effects: &mut Effects,
    ) -> Recorded {
        let recorded = self.try_record(record, memory, effects);
        match recorded {
            Recorded::Written => self.counters.events_written += 1,
            Recorded::NotWritable | Recorded::Aborted => self.counters.events_discarded += 1,
            Recorded::Overflow => self.counters.events_overflowed += 1,
        }
        recorded
    }

    /// Every interrupt that software may have missed: for records in the queue, active errors, and CMD_SYNCs.
    pub fn announcements(&self) -> Effects {
        let mut effects = Effects::default();
        let (queue, prod, cons) = self.registers.event_queue();
        let enabled = self.registers.irq_ctrl();
        if enabled.eventq_irqen() && !queue.is_empty(prod, cons) {
            effects.raise(Interrupt::EventQueue);
        }
        if enabled.gerror_irqen() && self.registers.active_errors().into_bits() != 0 {
            effects.raise(Interrupt::GlobalError);
        }
        // Which CMD_SYNC requested one is not saved.
        if self.registers.cr0().cmdqen() {
            effects.raise(Interrupt::CommandSync);
        }
        effects
    }

    fn try_record(
        &mut self,
        record: &EventRecord,
        memory: &impl GuestMemory,
        effects: &mut Effects,
    ) -> Recorded {
        if !self.registers.cr0().eventqen() || self.registers.active_errors().eventq_abt_err() {
            return Recorded::NotWritable;
        }
        let (queue, prod, cons) = self.registers.event_queue();
        // A CONS that claims more entries than there are (§3.21.2 forbids it) leaves no room either.
        if queue.is_full(prod, cons) || queue.len(prod, cons).is_none() {
            let register = self.registers.eventq_prod();
            if register.ovflg() == self.registers.eventq_cons().ovackflg() {
                let toggled = register.with_ovflg(!register.ovflg());
                self.registers.put(Register::EVENTQ_PROD, toggled.into_bits().into());
            }
            return Recorded::Overflow;
        }
        if memory.write(queue.entry_address(prod), record.as_bytes()).is_err() {
            self.activate(Gerror::new().with_eventq_abt_err(true), effects);
            return Recorded::Aborted;
        }
        let moved = self.registers.eventq_prod().with_wr(queue.next(prod).bits());
        self.registers.put(Register::EVENTQ_PROD, moved.into_bits().into());
        // DEVIATION: §3.18.2 signals when the queue goes from empty to non-empty; we signal every record
        // (pulses of one step coalesce). Software's CONS is known here only once its posted write
        // arrives: a queue that software has just found empty may still look non-empty, and the record
        // that makes it non-empty again would go unannounced.
        if self.registers.irq_ctrl().eventq_irqen() {
            effects.raise(Interrupt::EventQueue);
        }
        Recorded::Written
    }
}
