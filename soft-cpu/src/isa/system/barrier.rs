// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CLREX, DSB, DMB, ISB.
//!
//! A DSB also waits for the maintenance that this CPU asked of others. System register writes take effect at once, so
//! ISB orders loads after branches and no more.

use crate::cpu::Cpu;
use crate::op::{Op, bits};
use crate::order::Barrier;

pub(super) fn decode(word: u32) -> Option<Op> {
    // The access types in CRm<1:0>: 1 loads, 2 stores, otherwise all.
    let types = bits(word, 9, 8);
    Some(Op::new(
        word,
        match bits(word, 7, 5) {
            0b010 => |cpu, _| cpu.monitor.clear(),
            0b100 => synchronize,
            0b101 => match types {
                1 => |cpu, _| cpu.order.barrier(Barrier::Loads),
                2 => |cpu, _| cpu.order.barrier(Barrier::Stores),
                _ => |cpu, _| cpu.order.barrier(Barrier::Full),
            },
            0b110 => |cpu, _| cpu.order.barrier(Barrier::Instruction),
            _ => return None,
        },
    ))
}

fn synchronize(cpu: &mut Cpu, _: &Op) {
    cpu.order.barrier(Barrier::Full);
    cpu.await_maintenance();
}
