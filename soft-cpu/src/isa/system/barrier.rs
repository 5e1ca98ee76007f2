// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CLREX, DSB, DMB, ISB.
//!
//! A DSB also waits for the maintenance that this CPU asked of others. ISB has nothing to do: system register
//! writes take effect at once.

use std::sync::atomic::{Ordering, fence};

use crate::cpu::Cpu;
use crate::op::{Op, bits};

pub(super) fn decode(word: u32) -> Option<Op> {
    // The access types in CRm<1:0>: 1 loads, 2 stores, otherwise all.
    let types = bits(word, 9, 8);
    Some(Op::new(
        word,
        match bits(word, 7, 5) {
            0b010 => |cpu, _| cpu.monitor.clear(),
            0b100 => synchronize,
            0b101 => match types {
                1 => |_, _| fence(Ordering::Acquire),
                2 => |_, _| fence(Ordering::Release),
                _ => |cpu, _| cpu.full_fence(),
            },
            0b110 => |_, _| {},
            _ => return None,
        },
    ))
}

fn synchronize(cpu: &mut Cpu, _: &Op) {
    cpu.full_fence();
    cpu.await_maintenance();
}
