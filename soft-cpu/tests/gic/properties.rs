// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random guests: whatever is written in whatever order, the lines say what the registers imply.

use proptest::prelude::*;

use crate::machine::{
    AP1R0, BPR0, BPR1, CTLR, DIR, EOIR1, HPPIR1, IAR1, IGRPEN1, ITTS, Machine, PMR, RPR, SGI1R, SPURIOUS,
};
use crate::naive;

const VCPU_COUNT: usize = 3;

/// Something that a guest or a device does.
#[derive(Clone, Debug)]
enum Op {
    Dist { offset: u64, size: u8, value: u64 },
    Redist { vcpu: usize, offset: u64, size: u8, value: u64 },
    Its { offset: u64, size: u8, value: u64 },
    Icc { vcpu: usize, register: u16, value: u64 },
    Acknowledge { vcpu: usize },
    EndLast { vcpu: usize },
    Level { intid: u32, high: bool },
    Ppi { vcpu: usize, intid: u32, high: bool },
    Pulse { intid: u32 },
    Message { event: u32 },
    Command { qw: [u64; 4] },
    LpiConfig { number: u64, byte: u8 },
    Migrate,
}

/// Values of which registers see interesting bits.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0..64u64, (0..64u32).prop_map(|bit| 1 << bit)]
}

fn size() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(4u8), 2 => Just(8), 2 => Just(1), 1 => Just(2), 1 => any::<u8>()]
}

fn dist_offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        (0..8u64, 1..4u64).prop_map(|(block, word)| 0x80 + block * 0x80 + word * 4),
        0x420..0x480u64,
        (0xc08..0xc18u64).prop_map(|offset| offset & !3),
        (0x6100..0x6300u64).prop_map(|offset| offset & !7),
        Just(0x40),
        Just(0x48),
        0..0x1_0000u64,
    ]
}

fn redist_offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0x14u64),
        (0..8u64).prop_map(|block| 0x1_0080 + block * 0x80),
        0x1_0400..0x1_0420u64,
        Just(0x1_0c04),
        Just(0xa0),
        Just(0xb0),
        0..0x2_0000u64,
    ]
}

fn icc_register() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => prop::sample::select(vec![PMR, BPR0, BPR1, CTLR, DIR, EOIR1, IGRPEN1, SGI1R, AP1R0]),
        1 => any::<u16>(),
    ]
}

fn command() -> impl Strategy<Value = [u64; 4]> {
    let plausible = (0..0x11u64, 0..6u64, 0..18u64, 0..5u64, any::<bool>(), 0..3u64).prop_map(
        |(opcode, device, event, collection, valid, vcpu)| {
            let target = if opcode == 8 { ITTS + device * 0x100 } else { vcpu << 16 | collection };
            let qw1 = if opcode == 8 { 3 } else { (8190 + event) << 32 | event };
            [device << 32 | opcode, qw1, u64::from(valid) << 63 | target, vcpu << 16]
        },
    );
    prop_oneof![8 => plausible, 1 => any::<[u64; 4]>()]
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = 0..VCPU_COUNT;
    prop_oneof![
        4 => (dist_offset(), size(), value()).prop_map(|(offset, size, value)| Op::Dist { offset, size, value }),
        3 => (vcpu.clone(), redist_offset(), size(), value())
            .prop_map(|(vcpu, offset, size, value)| Op::Redist { vcpu, offset, size, value }),
        1 => (prop_oneof![0..0x140u64, 0..0x2_0000u64], size(), value())
            .prop_map(|(offset, size, value)| Op::Its { offset, size, value }),
        3 => (vcpu.clone(), icc_register(), value())
            .prop_map(|(vcpu, register, value)| Op::Icc { vcpu, register, value }),
        6 => vcpu.clone().prop_map(|vcpu| Op::Acknowledge { vcpu }),
        5 => vcpu.clone().prop_map(|vcpu| Op::EndLast { vcpu }),
        3 => (30..100u32, any::<bool>()).prop_map(|(intid, high)| Op::Level { intid, high }),
        2 => (vcpu, 14..34u32, any::<bool>()).prop_map(|(vcpu, intid, high)| Op::Ppi { vcpu, intid, high }),
        3 => (32..96u32).prop_map(|intid| Op::Pulse { intid }),
        4 => (0..18u32).prop_map(|event| Op::Message { event }),
        3 => command().prop_map(|qw| Op::Command { qw }),
        1 => (0..18u64, any::<u8>()).prop_map(|(number, byte)| Op::LpiConfig { number, byte }),
        1 => Just(Op::Migrate),
    ]
}

/// A machine in which many interrupts are enabled, so that most operations matter.
fn lively() -> Machine {
    let machine = Machine::with_lpis(VCPU_COUNT);
    for word in 1..3 {
        machine.set_dist(0x100 + 4 * word, 0xffff_ffff);
        machine.set_dist(0xc00 + 8 * word, 0xaaaa_aaaa);
    }
    for intid in 32..96 {
        machine.set_priority(intid, intid * 37);
        machine.gic.dist_write(0x6000 + intid * 8, 8, intid % VCPU_COUNT as u64);
    }
    for vcpu in 0..VCPU_COUNT {
        machine.set_redist(vcpu, 0x1_0100, 0xffff_ffff);
    }
    machine.mapd(0, 5, ITTS);
    for event in 0..18 {
        machine.mapti(0, event, 8192 + event, event % VCPU_COUNT as u64);
    }
    machine
}

/// Guests of the property keep their LPI tables where the naive model looks for them.
fn moves_tables(op: &Op) -> bool {
    matches!(op, Op::Redist { offset, .. } if (0x70..0x80).contains(offset) || *offset < 4)
}

fn invalidate_all(machine: &Machine) {
    for vcpu in 0..VCPU_COUNT {
        machine.set_redist_qw(vcpu, 0xb0, 0);
    }
}

fn apply(machine: &mut Machine, op: Op, taken: &mut [Vec<u64>; VCPU_COUNT]) {
    match op {
        Op::Dist { offset, size, value } => {
            machine.gic.dist_write(offset, size, value);
            machine.gic.dist_read(offset, size);
        }
        Op::Redist { vcpu, offset, size, value } => {
            machine.gic.redist_write(vcpu as u64 * 0x2_0000 + offset, size, value);
            machine.gic.redist_read(vcpu as u64 * 0x2_0000 + offset, size);
        }
        Op::Its { offset, size, value } => {
            machine.gic.its_write(offset, size, value);
            machine.gic.its_read(offset, size);
            machine.gic.its_step(10);
        }
        Op::Icc { vcpu, register, value } => _ = machine.gic.icc_write(vcpu, register, value),
        Op::Acknowledge { vcpu } => acknowledge(machine, vcpu, taken),
        Op::EndLast { vcpu } => {
            if let Some(intid) = taken[vcpu].pop() {
                machine.eoi(vcpu, intid);
                machine.set_icc(vcpu, DIR, intid);
            }
        }
        Op::Level { intid, high } => machine.gic.set_level(intid, high),
        Op::Ppi { vcpu, intid, high } => machine.gic.set_ppi_level(vcpu, intid, high),
        Op::Pulse { intid } => machine.gic.pulse(intid),
        Op::Message { event } => _ = machine.gic.signal_msi(0, event),
        Op::Command { qw } => {
            let at = machine.gic.its_read(0x88, 8) & 0xffe0;
            let next = machine.enqueue(at % crate::machine::QUEUE_LEN, qw);
            machine.gic.its_write(0x88, 8, next);
        }
        Op::LpiConfig { number, byte } => machine.set_lpi_config(8192 + number, byte),
        Op::Migrate => {
            let other = machine.migrated();
            assert_eq!(other.gic.save(), machine.gic.save());
            assert_eq!(other.gic.save_its(), machine.gic.save_its());
            *machine = other;
        }
    }
    // A command may have pointed a table at the configuration; what the naive model reads is then what the
    // model must use.
    invalidate_all(machine);
}

/// Acknowledges, holding the answer against the naive model and against the interrupt's own registers.
fn acknowledge(machine: &Machine, vcpu: usize, taken: &mut [Vec<u64>; VCPU_COUNT]) {
    let expected = naive::takeable(machine, vcpu);
    let running = machine.icc(vcpu, RPR);
    let intid = machine.icc(vcpu, IAR1);
    assert_eq!(intid, expected.unwrap_or(SPURIOUS));
    if intid == SPURIOUS {
        assert_eq!(machine.icc(vcpu, RPR), running, "a spurious acknowledge changes nothing");
        return;
    }
    assert!(machine.icc(vcpu, RPR) < running, "an acknowledged interrupt preempted what ran");
    if intid < 1020 {
        let active = match intid {
            0..32 => machine.redist(vcpu, 0x1_0300) >> intid,
            _ => machine.dist(0x300 + intid / 32 * 4) >> (intid % 32),
        };
        assert_eq!(active & 1, 1);
        assert_ne!(machine.icc(vcpu, HPPIR1), intid, "active, so not signalled again");
    }
    taken[vcpu].push(intid);
}

fn check_lines(machine: &Machine, before: &[(bool, usize)], migrated: bool) {
    for (vcpu, (was_high, rises)) in before.iter().copied().enumerate() {
        let highest = naive::highest_pending(machine, vcpu).map_or(SPURIOUS, |(_, intid)| intid);
        assert_eq!(machine.icc(vcpu, HPPIR1), highest, "vCPU {vcpu}");
        assert_eq!(machine.line(vcpu), naive::takeable(machine, vcpu).is_some(), "line of vCPU {vcpu}");
        if !migrated && machine.line(vcpu) && !was_high {
            assert!(machine.rises(vcpu) > rises, "vCPU {vcpu} was not told of its rise");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn lines_are_what_the_registers_imply(ops in prop::collection::vec(op(), 1..60)) {
        let mut machine = lively();
        let mut taken: [Vec<u64>; VCPU_COUNT] = Default::default();
        for op in ops.into_iter().filter(|op| !moves_tables(op)) {
            let before: Vec<_> = (0..VCPU_COUNT).map(|vcpu| (machine.line(vcpu), machine.rises(vcpu))).collect();
            let migrated = matches!(op, Op::Migrate);
            apply(&mut machine, op, &mut taken);
            check_lines(&machine, &before, migrated);
        }
    }
}
