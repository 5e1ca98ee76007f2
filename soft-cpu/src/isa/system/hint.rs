// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hints: NOP, YIELD, WFE, WFI, SEV, SEVL; all others do nothing.
//!
//! How WFI and WFE wait: `wait.rs`.

use crate::cpu::Cpu;
use crate::op::{Op, bits};

/// SCTLR_EL1 bits that let EL0 wait.
const NTWI: u64 = 1 << 16;
const NTWE: u64 = 1 << 18;

pub(super) fn decode(word: u32) -> Op {
    Op::new(
        word,
        match bits(word, 11, 5) {
            1 => yield_cpu,
            2 => wait_for_event,
            3 => wait_for_interrupt,
            4 => send_event,
            5 => send_event_local,
            _ => |_, _| {},
        },
    )
}

/// Lets another thread run: most likely the guest waits for one of its own other CPUs.
fn yield_cpu(cpu: &mut Cpu, _: &Op) {
    if cpu.cluster.vcpu_count() > 1 {
        cpu.step_outside();
        std::thread::yield_now();
        cpu.step_inside();
    }
}

fn wait_for_event(cpu: &mut Cpu, _: &Op) {
    if cpu.shared().take_event() {
        return;
    }
    if cpu.el == 0 && cpu.sys.sctlr & NTWE == 0 {
        cpu.wait_trap(true);
    } else {
        cpu.wait_for_event();
    }
}

fn wait_for_interrupt(cpu: &mut Cpu, _: &Op) {
    if cpu.el == 0 && cpu.sys.sctlr & NTWI == 0 {
        cpu.wait_trap(false);
    } else {
        cpu.wait_for_interrupt();
    }
}

fn send_event(cpu: &mut Cpu, op: &Op) {
    send_event_local(cpu, op);
    cpu.cluster.others(cpu.index).for_each(|(_, other)| other.send_event());
}

fn send_event_local(cpu: &mut Cpu, _: &Op) {
    cpu.shared().set_event(true);
}
