// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system instruction space (Arm ARM C5): hints, barriers, PSTATE, SYS, MSR and MRS; exception generation.

mod barrier;
mod hint;
mod maintenance;
mod pstate;
mod register;

use crate::cpu::Cpu;
use crate::exception::Class;
use crate::op::{Op, bit, bits};
use crate::psci;

/// Words 31..24 = 1101_0101.
pub(super) fn decode(word: u32) -> Option<Op> {
    if bits(word, 23, 22) != 0 {
        return None;
    }
    match (bits(word, 20, 19), bit(word, 21)) {
        (0b00, false) => {
            if bits(word, 4, 0) != 31 {
                return None;
            }
            match (bits(word, 18, 16), bits(word, 15, 12)) {
                (0b011, 2) => Some(hint::decode(word)),
                (0b011, 3) => barrier::decode(word),
                (_, 4) => pstate::decode(word),
                _ => None,
            }
        }
        (0b01, false) => maintenance::decode(word),
        (0b10 | 0b11, false) => Some(register::decode_write(word)),
        (0b10 | 0b11, true) => Some(register::decode_read(word)),
        _ => None,
    }
}

/// Words 31..24 = 1101_0100: SVC, HVC, BRK. SMC, HLT and DCPS are undefined without EL3 and halting debug.
pub(super) fn decode_exception(word: u32) -> Option<Op> {
    let run = match (bits(word, 23, 21), bits(word, 4, 0)) {
        (0b000, 0b00001) => supervisor_call,
        (0b000, 0b00010) => hypervisor_call,
        (0b001, 0b00000) => breakpoint,
        _ => return None,
    };
    let mut op = Op::new(word, run);
    op.imm = u64::from(bits(word, 20, 5));
    Some(op)
}

fn supervisor_call(cpu: &mut Cpu, op: &Op) {
    let next = cpu.pc;
    // The call itself counts as the stepped instruction.
    cpu.single_step = false;
    cpu.take_synchronous(Class::Svc, op.imm, None, next);
}

fn breakpoint(cpu: &mut Cpu, op: &Op) {
    let pc = cpu.this_pc();
    cpu.take_synchronous(Class::Brk, op.imm, None, pc);
}

/// The call of the machine's firmware interface.
fn hypervisor_call(cpu: &mut Cpu, op: &Op) {
    if cpu.el == 0 {
        cpu.undefined();
    } else {
        psci::call(cpu, op.imm as u16);
    }
}
