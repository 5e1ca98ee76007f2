// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MSR and MRS (register). The few that kernels use all the time have handlers of their own.

use crate::cpu::Cpu;
use crate::op::{Op, dest};
use crate::sysreg::name;

pub(super) fn decode_read(word: u32) -> Op {
    let mut op = Op::new(
        word,
        match name::of(word) {
            name::SP_EL0 => read_sp_el0,
            name::TPIDR_EL1 => |cpu, op| {
                if cpu.el == 1 { cpu.w(op.d, cpu.sys.tpidr_el1) } else { cpu.undefined() }
            },
            name::TPIDR_EL0 => |cpu, op| cpu.w(op.d, cpu.sys.tpidr_el0),
            _ => read,
        },
    );
    op.d = dest(op.d);
    op
}

fn read(cpu: &mut Cpu, op: &Op) {
    if let Some(value) = cpu.system_read(op.word) {
        cpu.w(op.d, value);
    }
}

fn read_sp_el0(cpu: &mut Cpu, op: &Op) {
    if cpu.el == 1 && cpu.sp_select {
        cpu.w(op.d, cpu.sp_el[0]);
    } else {
        cpu.undefined();
    }
}

pub(super) fn decode_write(word: u32) -> Op {
    Op::new(word, write)
}

fn write(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.d);
    cpu.system_write(op.word, value);
}
