// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ICC: one vCPU's CPU interface (IHI 0069 §4.8, §12.2), the part that needs no other interrupt state.
//!
//! Acknowledge, end of interrupt and SGIs involve banks and redistributors: they are in `icc.rs`.
//! Group 0 would be signalled as FIQ, which this machine does not deliver: its registers exist and
//! keep what is written where that has a meaning (BPR0, IGRPEN0), and nothing is ever acknowledged.

use super::bank::Candidate;
use super::priority::{self, ActivePriorities, BPR_MAX, BPR0_MIN, BPR1_MIN};
use super::saved::CpuInterfaceV1;
use super::spec::field::low8;
use super::spec::{icc, low32};

/// One CPU interface.
#[derive(Clone, Debug)]
pub struct CpuInterface {
    pmr: u8,
    bpr0: u8,
    bpr1: u8,
    common_bpr: bool,
    eoi_mode: bool,
    group0_enabled: bool,
    group1_enabled: bool,
    active: ActivePriorities,
    /// The most urgent interrupt that the distributor and redistributor forward; kept by `State::refresh`.
    best: Option<Candidate>,
}

impl CpuInterface {
    /// Reset state: everything masked.
    pub fn new() -> Self {
        Self {
            pmr: 0,
            bpr0: BPR0_MIN,
            bpr1: BPR1_MIN,
            common_bpr: false,
            eoi_mode: false,
            group0_enabled: false,
            group1_enabled: false,
            active: ActivePriorities::default(),
            best: None,
        }
    }

    /// Sets the interrupt that is forwarded to the interface.
    pub fn forward(&mut self, best: Option<Candidate>) {
        self.best = best.filter(|_| self.group1_enabled);
    }

    /// The level of the vCPU's IRQ input: something forwarded passes the mask and preempts what runs.
    pub fn irq(&self) -> bool {
        self.takeable().is_some()
    }

    /// What an acknowledge would return now.
    pub fn takeable(&self) -> Option<Candidate> {
        let best = self.best?;
        let takeable = best.priority < self.pmr && best.priority & self.group_mask() < self.active.running();
        takeable.then_some(best)
    }

    /// What ICC_HPPIR1 returns: the mask and the running priority do not matter to it.
    pub fn highest_pending(&self) -> Option<Candidate> {
        self.best
    }

    /// An interrupt of that priority is being acknowledged.
    pub fn activate(&mut self, taken: Candidate) {
        self.active.activate(taken.priority & self.group_mask());
    }

    /// End of interrupt: the highest active priority is no longer running.
    pub fn drop_priority(&mut self) {
        self.active.drop_highest();
    }

    /// ICC_CTLR.EOImode: end of interrupt does not deactivate.
    pub fn eoi_mode(&self) -> bool {
        self.eoi_mode
    }

    fn ctlr(&self) -> u64 {
        icc::CTLR_FIXED
            | icc::CTLR_CBPR.of(self.common_bpr.into())
            | icc::CTLR_EOI_MODE.of(self.eoi_mode.into())
    }

    fn group_mask(&self) -> u8 {
        priority::group_mask(self.effective_bpr1())
    }

    /// ICC_BPR1, or what it stands for while group 1 uses ICC_BPR0 (IHI 0069 §4.8.5).
    fn effective_bpr1(&self) -> u8 {
        // At the top the two differ: BPR0 = 7 leaves no group bit, and the field reads saturated.
        if self.common_bpr { self.bpr0 + 1 } else { self.bpr1 }
    }

    /// Reads a register that this interface alone answers; `None` if it is not one of them.
    pub fn read(&self, register: u16) -> Option<u64> {
        Some(match register {
            icc::PMR => self.pmr.into(),
            icc::BPR0 => self.bpr0.into(),
            icc::BPR1 => self.effective_bpr1().min(BPR_MAX).into(),
            // Group 0 never becomes active.
            icc::AP0R0 => 0,
            icc::AP1R0 => self.active.bits().into(),
            icc::RPR => self.active.running().into(),
            icc::CTLR => self.ctlr(),
            icc::SRE => icc::SRE_VALUE,
            icc::IGRPEN0 => self.group0_enabled.into(),
            icc::IGRPEN1 => self.group1_enabled.into(),
            icc::HPPIR1 => {
                self.highest_pending().map_or(super::spec::INTID_SPURIOUS, |best| best.intid).into()
            }
            icc::IAR0 | icc::HPPIR0 => super::spec::INTID_SPURIOUS.into(),
            _ => return None,
        })
    }

    /// Writes a register that this interface alone answers; `false` if it is not one of them.
    pub fn write(&mut self, register: u16, value: u64) -> bool {
        match register {
            icc::PMR => self.pmr = priority::sanitise(value),
            icc::BPR0 => self.bpr0 = low8(icc::BPR_POINT.get(value)).max(BPR0_MIN),
            icc::BPR1 if self.common_bpr => {}
            icc::BPR1 => self.bpr1 = low8(icc::BPR_POINT.get(value)).max(BPR1_MIN),
            icc::AP1R0 => self.active = ActivePriorities::from_bits(low32(value)),
            icc::CTLR => {
                self.common_bpr = icc::CTLR_CBPR.is_set(value);
                self.eoi_mode = icc::CTLR_EOI_MODE.is_set(value);
            }
            icc::IGRPEN0 => self.group0_enabled = icc::IGRPEN_ENABLE.is_set(value),
            icc::IGRPEN1 => self.group1_enabled = icc::IGRPEN_ENABLE.is_set(value),
            icc::AP0R0 | icc::SRE | icc::EOIR0 | icc::ASGI1R => {}
            _ => return false,
        }
        true
    }

    /// The saved form.
    pub fn save(&self) -> CpuInterfaceV1 {
        // CTLR has both modes; what is forwarded is computed after a restore.
        let Self {
            pmr,
            bpr0,
            bpr1,
            common_bpr: _,
            eoi_mode: _,
            group0_enabled,
            group1_enabled,
            active,
            best: _,
        } = self;
        CpuInterfaceV1 {
            pmr: (*pmr).into(),
            bpr0: (*bpr0).into(),
            bpr1: (*bpr1).into(),
            ctlr: self.ctlr(),
            igrpen0: (*group0_enabled).into(),
            igrpen1: (*group1_enabled).into(),
            ap1r0: active.bits().into(),
        }
    }

    /// An interface with the saved values, written as a guest would.
    pub fn restore(saved: &CpuInterfaceV1) -> Self {
        let CpuInterfaceV1 { pmr, bpr0, bpr1, ctlr, igrpen0, igrpen1, ap1r0 } = *saved;
        let mut this = Self::new();
        this.write(icc::PMR, pmr);
        this.write(icc::BPR0, bpr0);
        // Before CTLR: CBPR makes BPR1 read-only.
        this.write(icc::BPR1, bpr1);
        this.write(icc::CTLR, ctlr);
        this.write(icc::IGRPEN0, igrpen0);
        this.write(icc::IGRPEN1, igrpen1);
        this.write(icc::AP1R0, ap1r0);
        this
    }
}
