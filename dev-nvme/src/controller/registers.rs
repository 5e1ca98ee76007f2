// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers and doorbells: reads, and the effects of writes.
//!
//! NVMe 1.4 sections 3.1 (registers), 7.6.1 (initialisation), 7.6.2 (shutdown). An invalid write is ignored, raises
//! an event (doorbells), or is fatal until the next reset (enabling with unsupported settings).

use super::{AsyncEvent, Controller, Registers, get_mut, set};
use crate::queue::{CompletionQueue, ENTRIES_MAX, SubmissionQueue};
use crate::spec::registers::{Aqa, Cap, Cc, Doorbell, Half, Register, SHST_OCCURRING, VERSION};

impl Controller {
    /// Reads a register; one that does not exist, or a width other than 4 or 8, reads as 0.
    #[must_use]
    pub fn read_register(&self, offset: u64, len: usize) -> u64 {
        let dword = |offset| {
            let Some((register, half)) = Register::at(offset) else { return 0 };
            let value = match register {
                Register::Cap => u64::from(capabilities()),
                Register::Vs => VERSION.into(),
                Register::Cc => u32::from(self.registers.cc).into(),
                Register::Csts => u32::from(self.registers.csts).into(),
                Register::Aqa => u32::from(self.registers.aqa).into(),
                Register::Asq => self.registers.asq,
                Register::Acq => self.registers.acq,
            };
            match half {
                Half::Low => value & u64::from(u32::MAX),
                Half::High => value >> 32,
            }
        };
        match len {
            4 => dword(offset),
            8 => dword(offset.wrapping_add(4)) << 32 | dword(offset),
            _ => 0,
        }
    }

    /// Writes a register or a doorbell; one that does not exist or is read-only ignores it.
    pub fn write_register(&mut self, offset: u64, len: usize, value: u64) {
        let (low, high) = split(value);
        match len {
            4 => self.write_dword(offset, low),
            8 => {
                self.write_dword(offset, low);
                self.write_dword(offset.wrapping_add(4), high);
            }
            _ => {}
        }
    }

    fn write_dword(&mut self, offset: u64, value: u32) {
        match Doorbell::at(offset) {
            Some(doorbell) if self.kicked(doorbell) => return,
            Some(Doorbell::SubmissionTail(queue)) => return self.ring_tail(queue, value),
            Some(Doorbell::CompletionHead(queue)) => return self.ring_head(queue, value),
            None => {}
        }
        self.unkept.control = true;
        let replace = |old: u64, half: Half| match half {
            Half::Low => old & !u64::from(u32::MAX) | u64::from(value),
            Half::High => old & u64::from(u32::MAX) | u64::from(value) << 32,
        };
        match Register::at(offset) {
            Some((Register::Cc, _)) => self.write_cc(Cc::from(value)),
            Some((Register::Aqa, _)) => self.registers.aqa = sanitise_aqa(Aqa::from(value)),
            // Bits 11:0 are reserved.
            Some((Register::Asq, half)) => self.registers.asq = replace(self.registers.asq, half) & !0xfff,
            Some((Register::Acq, half)) => self.registers.acq = replace(self.registers.acq, half) & !0xfff,
            Some((Register::Cap | Register::Vs | Register::Csts, _)) | None => {}
        }
    }

    fn write_cc(&mut self, cc: Cc) {
        let old = self.registers.cc;
        self.registers.cc = sanitise_cc(cc);
        match (old.en(), cc.en()) {
            (false, true) if !self.resetting => self.enable(),
            (true, false) => self.begin_reset(false),
            _ => {}
        }
        let (before, after) = (old.shn(), self.registers.cc.shn());
        if before == 0 && after != 0 {
            self.registers.csts.set_shst(SHST_OCCURRING);
            self.shutdown_wanted = true;
        }
    }

    pub(super) fn enable(&mut self) {
        let Registers { cc, aqa, asq, acq, .. } = self.registers;
        let sizes_fit = aqa.asqs() >= 1 && aqa.acqs() >= 1;
        if cc.css() != 0 || cc.mps() != 0 || cc.ams() != 0 || !sizes_fit {
            self.fail();
            return;
        }
        set(&mut self.submission, 0, Some(SubmissionQueue::new(asq, u32::from(aqa.asqs()) + 1, 0)));
        set(&mut self.completion, 0, Some(CompletionQueue::new(acq, u32::from(aqa.acqs()) + 1, Some(0))));
        self.registers.csts.set_rdy(true);
        self.registers.csts.set_shst(0);
    }

    pub(super) fn ring_tail(&mut self, queue: u16, value: u32) {
        let Some(sq) = get_mut(&mut self.submission, queue) else {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_REGISTER);
        };
        if value >= sq.size {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_VALUE);
        }
        sq.tail = value;
        self.unkept.tails |= 1 << queue;
    }

    pub(super) fn ring_head(&mut self, queue: u16, value: u32) {
        let Some(cq) = get_mut(&mut self.completion, queue) else {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_REGISTER);
        };
        // The host cannot consume entries that were not written.
        let ahead = |to: u32| (to + cq.size - cq.head) % cq.size;
        if value >= cq.size || ahead(value) > ahead(cq.tail) {
            return self.raise_event(AsyncEvent::INVALID_DOORBELL_VALUE);
        }
        cq.head = value;
        self.unkept.heads |= 1 << queue;
    }
}

fn capabilities() -> Cap {
    let entries = u16::try_from(ENTRIES_MAX - 1).unwrap_or(u16::MAX);
    // Bit 0 of CSS: the NVM command set. 10 s until ready: a reset waits for the image's I/O.
    Cap::new().with_mqes(entries).with_cqr(true).with_to(20).with_css(1)
}

/// Keeps the defined bits of `CC`, unsupported values included: enabling with those fails.
pub(super) fn sanitise_cc(cc: Cc) -> Cc {
    Cc::from(u32::from(cc) & 0x00ff_fff1)
}

pub(super) fn sanitise_aqa(aqa: Aqa) -> Aqa {
    Aqa::from(u32::from(aqa) & 0x0fff_0fff)
}

fn split(value: u64) -> (u32, u32) {
    let dword = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    (dword(value), dword(value >> 32))
}
