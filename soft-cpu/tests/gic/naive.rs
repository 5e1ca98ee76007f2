// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a vCPU should be told, worked out the long way from registers that any guest can read.
//!
//! Shares no code with the model: every interrupt is looked at, one by one, by reading its bits through
//! MMIO. Only pending LPIs, which no register shows, come from the saved form; their configuration
//! comes from guest memory, so callers invalidate after they change it.

use crate::machine::{BPR0, BPR1, CONFIG_TABLE, CTLR, IGRPEN1, Machine, PMR, RPR};
use soft_cpu::gic::TableMemory;

/// An interrupt that could be signalled: (priority, INTID).
pub type Found = (u64, u64);

fn private(machine: &Machine, vcpu: usize, intid: u64) -> Option<Found> {
    let bit = |offset| machine.redist(vcpu, offset) >> intid & 1 == 1;
    let priority = machine.gic.redist_read(vcpu as u64 * 0x2_0000 + 0x1_0400 + intid, 1);
    (bit(0x1_0080) && bit(0x1_0100) && bit(0x1_0200) && !bit(0x1_0300)).then_some((priority, intid))
}

fn shared(machine: &Machine, vcpu: usize, intid: u64) -> Option<Found> {
    let bit = |block| machine.dist(block + intid / 32 * 4) >> (intid % 32) & 1 == 1;
    let route = machine.gic.dist_read(0x6000 + intid * 8, 8);
    let mine = route == (vcpu as u64 / 16 * 0x100) + vcpu as u64 % 16;
    let priority = machine.gic.dist_read(0x400 + intid, 1);
    (mine && bit(0x80) && bit(0x100) && bit(0x200) && !bit(0x300)).then_some((priority, intid))
}

fn lpis(machine: &Machine, vcpu: usize) -> Vec<Found> {
    let mut found = Vec::new();
    for word in &machine.gic.save().redistributors[vcpu].pending_lpis {
        for bit in (0..64).filter(|bit| word.bits >> bit & 1 == 1) {
            let number = u64::from(word.index) * 64 + bit;
            let mut byte = [0];
            assert!(machine.ram.read(CONFIG_TABLE + number, &mut byte));
            if byte[0] & 1 == 1 {
                found.push((u64::from(byte[0] & 0xf8), 8192 + number));
            }
        }
    }
    found
}

/// The most urgent interrupt forwarded to a vCPU, masks and running priority left aside.
pub fn highest_pending(machine: &Machine, vcpu: usize) -> Option<Found> {
    let asleep = machine.redist(vcpu, 0x14) & 0b10 != 0;
    if machine.dist(0) & 0b10 == 0 || machine.icc(vcpu, IGRPEN1) == 0 || asleep {
        return None;
    }
    let spi_end = 32 * ((machine.dist(4) & 0x1f) + 1);
    let wired = (0..32).filter_map(|intid| private(machine, vcpu, intid));
    wired
        .chain((32..spi_end.min(1020)).filter_map(|intid| shared(machine, vcpu, intid)))
        .chain(lpis(machine, vcpu))
        .min()
}

/// What an acknowledge should return, if the line should be high.
pub fn takeable(machine: &Machine, vcpu: usize) -> Option<u64> {
    let (priority, intid) = highest_pending(machine, vcpu)?;
    let common = machine.icc(vcpu, CTLR) & 1 == 1;
    let lowest_group_bit = if common { machine.icc(vcpu, BPR0) + 1 } else { machine.icc(vcpu, BPR1) };
    let group = 1 << lowest_group_bit;
    let group_priority = priority / group * group;
    (priority < machine.icc(vcpu, PMR) && group_priority < machine.icc(vcpu, RPR)).then_some(intid)
}
