// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The performance monitors: what counts, what filters, what overflows, and what EL0 may access.

use super::machine::{DATA, Guest, NOP, VECTORS};
use crate::Vcpu;

const fn mrs(op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    0xd538_0000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// The MSR of x0 to the register that an MRS reads.
const fn msr(of: u32) -> u32 {
    of & !(1 << 21)
}

const PMCR: u32 = mrs(3, 9, 12, 0);
const PMCNTENSET: u32 = mrs(3, 9, 12, 1);
const PMCNTENCLR: u32 = mrs(3, 9, 12, 2);
const PMOVSCLR: u32 = mrs(3, 9, 12, 3);
const PMSWINC: u32 = mrs(3, 9, 12, 4);
const PMSELR: u32 = mrs(3, 9, 12, 5);
const PMCEID0: u32 = mrs(3, 9, 12, 6);
const PMCCNTR: u32 = mrs(3, 9, 13, 0);
const PMXEVTYPER: u32 = mrs(3, 9, 13, 1);
const PMXEVCNTR: u32 = mrs(3, 9, 13, 2);
const PMUSERENR: u32 = mrs(3, 9, 14, 0);
const PMINTENSET: u32 = mrs(0, 9, 14, 1);
const PMCCFILTR: u32 = mrs(3, 14, 15, 7);

const fn counter(n: u32) -> u32 {
    mrs(3, 14, 8, n)
}

const fn kind(n: u32) -> u32 {
    mrs(3, 14, 12, n)
}

const SW_INCR: u64 = 0;
const INST_RETIRED: u64 = 8;
const MEM_ACCESS: u64 = 0x13;
const CHAIN: u64 = 0x1e;
const NOT_EL1: u64 = 1 << 31;
const NOT_EL0: u64 = 1 << 30;
const CYCLES: u64 = 1 << 31;

fn write(guest: &mut Guest, register: u32, value: u64) {
    guest.set_x(0, value);
    guest.step(msr(register));
}

fn read(guest: &mut Guest, register: u32) -> u64 {
    guest.step(register);
    guest.x(0)
}

/// A guest whose counters of `kinds` are enabled, and all of them on.
fn counting(kinds: &[u64]) -> Guest {
    let mut guest = Guest::new();
    for (n, &of) in (0..).zip(kinds) {
        write(&mut guest, kind(n), of);
    }
    write(&mut guest, PMCNTENSET, CYCLES | ((1 << kinds.len()) - 1));
    write(&mut guest, PMCR, 1);
    guest
}

#[test]
fn cycles_and_instructions_count_what_ran() {
    let mut guest = counting(&[INST_RETIRED]);
    let (cycles, instructions) = (read(&mut guest, PMCCNTR), read(&mut guest, counter(0)));
    guest.run(&[NOP; 100]);
    // The two reads count too.
    assert_eq!(read(&mut guest, PMCCNTR) - cycles, 100 + 2);
    assert_eq!(read(&mut guest, counter(0)) - instructions, 100 + 2);
}

#[test]
fn nothing_counts_while_disabled() {
    for (text, register, value) in [("PMCR.E", PMCR, 0), ("PMCNTENCLR", PMCNTENCLR, u64::MAX)] {
        let mut guest = counting(&[INST_RETIRED, MEM_ACCESS]);
        write(&mut guest, register, value);
        let all = [PMCCNTR, counter(0), counter(1)];
        let before = all.map(|register| read(&mut guest, register));
        guest.set_x(1, DATA);
        guest.run(&[0xf940_0020; 10]); // ldr x0, [x1]
        assert_eq!(all.map(|register| read(&mut guest, register)), before, "{text}");
    }
}

#[test]
fn filters_choose_the_level() {
    let mut guest = counting(&[INST_RETIRED | NOT_EL1, INST_RETIRED | NOT_EL0]);
    write(&mut guest, PMCCFILTR, NOT_EL1);
    assert_eq!(read(&mut guest, counter(0)), 0);
    write(&mut guest, PMCR, 1 | 2 | 4);
    guest.drop_to_el0();
    guest.run(&[NOP; 50]);
    guest.step(0xd400_0001); // svc #0
    // The call itself began at EL0.
    assert_eq!((read(&mut guest, counter(0)), read(&mut guest, PMCCNTR)), (51, 51));
    assert!(read(&mut guest, counter(1)) < 10);
}

#[test]
fn memory_accesses_are_counted_one_by_one() {
    let mut guest = counting(&[MEM_ACCESS]);
    guest.set_x(1, DATA);
    // ldr x2, [x1]; nop; stp x2, x2, [x1]; add x0, x0, #1
    guest.run(&[0xf940_0022, NOP, 0xa900_0822, 0x9100_0400]);
    assert_eq!(read(&mut guest, counter(0)), 2);
}

#[test]
fn overflow_sets_its_flag_and_raises_the_interrupt_where_enabled() {
    let mut guest = counting(&[INST_RETIRED]);
    write(&mut guest, counter(0), 0xffff_fff0);
    guest.run(&[NOP; 20]);
    assert_eq!(read(&mut guest, PMOVSCLR), 1);
    assert!(guest.world.levels.lock().unwrap().is_empty(), "not enabled");
    write(&mut guest, PMINTENSET, 1);
    guest.step(NOP);
    assert_eq!(*guest.world.levels.lock().unwrap(), [(23, true)]);
    write(&mut guest, PMOVSCLR, 1);
    guest.step(NOP);
    assert_eq!(*guest.world.levels.lock().unwrap(), [(23, true), (23, false)]);
    assert_eq!(read(&mut guest, PMOVSCLR), 0);
}

#[test]
fn software_increments_count_where_they_are_asked_for() {
    let mut guest = counting(&[SW_INCR, SW_INCR]);
    write(&mut guest, PMSWINC, 0b01);
    write(&mut guest, PMSWINC, 0b11);
    assert_eq!((read(&mut guest, counter(0)), read(&mut guest, counter(1))), (2, 1));
    write(&mut guest, PMCR, 0);
    write(&mut guest, PMSWINC, 0b11);
    assert_eq!((read(&mut guest, counter(0)), read(&mut guest, counter(1))), (2, 1));
}

#[test]
fn chained_counter_counts_overflows_of_the_even_one_below() {
    let mut guest = counting(&[SW_INCR, CHAIN]);
    write(&mut guest, counter(0), 0xffff_ffff);
    write(&mut guest, counter(1), 0xffff_ffff);
    write(&mut guest, PMSWINC, 1);
    assert_eq!((read(&mut guest, counter(0)), read(&mut guest, counter(1))), (0, 0));
    assert_eq!(read(&mut guest, PMOVSCLR), 0b11);
    // Not enabled, it does not count.
    write(&mut guest, PMCNTENCLR, 0b10);
    write(&mut guest, counter(0), 0xffff_ffff);
    write(&mut guest, PMSWINC, 1);
    assert_eq!(read(&mut guest, counter(1)), 0);
}

#[test]
fn control_register_resets_counters_and_keeps_what_exists() {
    let mut guest = counting(&[SW_INCR]);
    write(&mut guest, PMSWINC, 1);
    write(&mut guest, PMCR, !1);
    assert_eq!(read(&mut guest, PMCR), 6 << 11 | 1 << 6 | 1 << 5);
    assert_eq!((read(&mut guest, counter(0)), read(&mut guest, PMCCNTR)), (0, 0));
}

#[test]
fn selected_counter_is_reached_through_the_selection() {
    let mut guest = Guest::new();
    write(&mut guest, PMSELR, 3);
    write(&mut guest, PMXEVTYPER, 0xea);
    write(&mut guest, PMXEVCNTR, 0xdead_beef);
    assert_eq!((read(&mut guest, kind(3)), read(&mut guest, counter(3))), (0xea, 0xdead_beef));
    write(&mut guest, PMSELR, 31);
    write(&mut guest, PMXEVTYPER, NOT_EL0);
    assert_eq!(read(&mut guest, PMCCFILTR), NOT_EL0);
    // No such counter: reads as zero, writes are ignored.
    write(&mut guest, PMSELR, 7);
    write(&mut guest, PMXEVCNTR, 1);
    assert_eq!(read(&mut guest, PMXEVCNTR), 0);
    guest.expect_none();
}

#[test]
fn counters_that_are_not_there_cannot_be_enabled() {
    let mut guest = Guest::new();
    write(&mut guest, PMCNTENSET, u64::MAX);
    assert_eq!(read(&mut guest, PMCNTENSET), CYCLES | 0x3f);
    assert_eq!(read(&mut guest, PMCEID0), 1 | 1 << 8 | 1 << 0x11 | 1 << 0x13 | 1 << 0x1e);
}

#[test]
fn el0_reaches_what_pmuserenr_allows() {
    for (text, word, allowed_by) in [
        ("PMCR_EL0", PMCR, 0b0001),
        ("PMSWINC_EL0", msr(PMSWINC), 0b0011),
        ("PMCCNTR_EL0", PMCCNTR, 0b0101),
        ("PMCCNTR_EL0, written", msr(PMCCNTR), 0b0001),
        ("PMEVCNTR0_EL0", counter(0), 0b1001),
        ("PMSELR_EL0", msr(PMSELR), 0b1001),
        ("PMUSERENR_EL0", PMUSERENR, 0b1111),
    ] {
        for bit in 0..4 {
            let mut guest = Guest::new();
            write(&mut guest, PMUSERENR, 1 << bit);
            guest.drop_to_el0();
            guest.step(word);
            let trapped = guest.vcpu.cpu.pc == VECTORS + 0x400;
            assert_eq!(trapped, allowed_by >> bit & 1 == 0, "{text}, bit {bit}");
            assert!(!trapped || guest.syndrome().0 == 0x18, "{text}");
        }
    }
    let mut guest = Guest::new();
    write(&mut guest, PMUSERENR, 0xf);
    guest.drop_to_el0();
    guest.step(msr(PMUSERENR));
    guest.expect_exception(0, 0, 0x400);
}

#[test]
fn counters_go_on_after_a_move() {
    let mut guest = counting(&[INST_RETIRED]);
    guest.run(&[NOP; 40]);
    guest.vcpu.cpu.count_instructions();
    let saved = guest.vcpu.save();
    assert!(saved.pmu.pmevcntr[0] >= 40);
    let mut other = Vcpu::restore(0, guest.parts.clone(), &saved).unwrap();
    other.run_steps(3);
    other.cpu.count_instructions();
    assert_eq!(other.save().pmu.pmevcntr[0], saved.pmu.pmevcntr[0] + 3);
}
