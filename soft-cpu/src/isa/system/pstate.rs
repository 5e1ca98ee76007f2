// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MSR (immediate): SPSel, DAIFSet, DAIFClr.

use crate::cpu::Cpu;
use crate::op::{Op, bits};

pub(super) fn decode(word: u32) -> Option<Op> {
    let mut op = Op::new(
        word,
        match (bits(word, 18, 16), bits(word, 7, 5)) {
            (0b000, 0b101) => select_stack,
            (0b011, 0b110) => mask,
            (0b011, 0b111) => unmask,
            _ => return None,
        },
    );
    op.a = bits(word, 11, 8) as u8;
    Some(op)
}

fn select_stack(cpu: &mut Cpu, op: &Op) {
    if cpu.el == 0 {
        return cpu.undefined();
    }
    cpu.bank_sp();
    cpu.sp_select = op.a & 1 == 1;
    cpu.load_sp();
}

fn mask(cpu: &mut Cpu, op: &Op) {
    if cpu.may_mask(op.word) {
        cpu.set_daif(cpu.daif | op.a);
    }
}

fn unmask(cpu: &mut Cpu, op: &Op) {
    if cpu.may_mask(op.word) {
        cpu.set_daif(cpu.daif & !op.a);
    }
}

/// SCTLR_EL1.UMA: EL0 may see and change the interrupt masks.
const UMA: u64 = 1 << 9;

impl Cpu {
    /// Whether DAIF may be used here; if not, the trap has been taken.
    pub(crate) fn may_mask(&mut self, word: u32) -> bool {
        let allowed = self.el == 1 || self.sys.sctlr & UMA != 0;
        if !allowed {
            self.system_trap(word);
        }
        allowed
    }

    pub(crate) fn set_daif(&mut self, daif: u8) {
        let unmasked = self.daif & !daif;
        self.daif = daif;
        // An interrupt that waited is taken at once; a step that D held back may start.
        if (unmasked & 2 != 0 && self.irq_seen) || (unmasked & 8 != 0 && self.sys.step_enabled()) {
            self.attend();
        }
    }
}
