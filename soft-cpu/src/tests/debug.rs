// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Breakpoints and watchpoints: what matches, what does not, and what the exception says.

use super::machine::{CODE, DATA, DEVICE, Guest, NOP, VECTORS};
use crate::debug::DebugRegister::{
    self, BreakpointControl, BreakpointValue, WatchpointControl, WatchpointValue,
};

const ENABLED: u64 = 1;
const EL1: u64 = 1 << 1;
const EL0: u64 = 2 << 1;
const LOADS: u64 = 1 << 3;
const STORES: u64 = 2 << 3;
const ALL_BYTES: u64 = 0xff << 5;
const MDE_KDE: u64 = 1 << 15 | 1 << 13;
/// The status of debug exceptions.
const STATUS: u64 = 0b100010;

const LDR: u32 = 0xf940_0020; // ldr x0, [x1]
const STR: u32 = 0xf900_0020; // str x0, [x1]

/// A guest at EL1 with these registers, debug enabled and unmasked, and x1 at `DATA`.
fn armed(registers: &[(DebugRegister, u64)]) -> Guest {
    armed_in(Guest::new(), registers)
}

fn armed_in(mut guest: Guest, registers: &[(DebugRegister, u64)]) -> Guest {
    for &(register, value) in registers {
        guest.vcpu.cpu.debug.write(register, value);
    }
    guest.vcpu.cpu.sys.mdscr = MDE_KDE;
    guest.vcpu.cpu.sys.os_locked = false;
    guest.vcpu.cpu.daif = 0;
    guest.vcpu.cpu.arm_debug();
    guest.set_x(1, DATA);
    guest
}

fn breakpoint(n: usize, control: u64, address: u64) -> [(DebugRegister, u64); 2] {
    [(BreakpointValue(n), address), (BreakpointControl(n), control)]
}

fn watchpoint(control: u64, address: u64) -> [(DebugRegister, u64); 2] {
    [(WatchpointValue(0), address), (WatchpointControl(0), control)]
}

#[test]
fn breakpoint_stops_before_its_instruction_and_no_other() {
    let mut guest = armed(&breakpoint(0, ENABLED | EL1, CODE + 8));
    guest.run(&[0x9100_0400; 3]); // add x0, x0, #1
    guest.expect_exception(0x31, STATUS, 0x200);
    assert_eq!((guest.x(0), guest.vcpu.cpu.sys.elr), (2, CODE + 8));
}

#[test]
fn page_with_a_breakpoint_is_run_to_its_end_within_one_slice() {
    let mut guest = armed(&breakpoint(5, ENABLED | EL1, CODE + 0x100));
    guest.place(CODE, &[0x9100_0400; 64]);
    guest.vcpu.cpu.pc = CODE;
    guest.vcpu.run_steps(65);
    guest.expect_exception(0x31, STATUS, 0x200);
    assert_eq!((guest.x(0), guest.vcpu.cpu.sys.elr), (64, CODE + 0x100));
}

#[test]
fn breakpoint_from_el0_is_of_the_lower_level_and_needs_no_kde() {
    let mut guest = armed(&breakpoint(1, ENABLED | EL0, CODE));
    guest.vcpu.cpu.sys.mdscr = 1 << 15;
    guest.vcpu.cpu.arm_debug();
    guest.step(NOP);
    guest.expect_none();
    guest.drop_to_el0();
    guest.step(NOP);
    guest.expect_exception(0x30, STATUS, 0x400);
}

#[test]
fn breakpoint_that_may_not_stop_does_not() {
    let control = ENABLED | EL1;
    for (why, change) in [
        ("OS lock", (|guest| guest.vcpu.cpu.sys.os_locked = true) as fn(&mut Guest)),
        ("MDE", |guest| guest.vcpu.cpu.sys.mdscr = 1 << 13),
        ("KDE", |guest| guest.vcpu.cpu.sys.mdscr = 1 << 15),
        ("PSTATE.D", |guest| guest.vcpu.cpu.daif = 8),
        ("E", |guest| guest.vcpu.cpu.debug.write(BreakpointControl(0), EL1)),
        ("PMC", |guest| guest.vcpu.cpu.debug.write(BreakpointControl(0), ENABLED | EL0)),
        ("HMC", |guest| guest.vcpu.cpu.debug.write(BreakpointControl(0), ENABLED | EL1 | 1 << 13)),
        ("SSC", |guest| guest.vcpu.cpu.debug.write(BreakpointControl(0), ENABLED | EL1 | 2 << 14)),
    ] {
        let mut guest = armed(&breakpoint(0, control, CODE));
        change(&mut guest);
        guest.vcpu.cpu.arm_debug();
        guest.step(NOP);
        assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "{why}");
    }
}

#[test]
fn breakpoint_kinds_that_are_reserved_are_disabled() {
    // Mismatch, VMID, EL2 contexts; and context kinds of a breakpoint that is not context-aware.
    for (n, kinds) in [(5, 4..=15), (0, 2..=15)] {
        for kind in kinds {
            let mut guest = armed(&breakpoint(n, ENABLED | EL1 | kind << 20, CODE));
            guest.vcpu.cpu.sys.contextidr = CODE;
            guest.step(NOP);
            assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "breakpoint {n}, kind {kind}");
        }
    }
}

#[test]
fn context_breakpoint_stops_at_any_address_of_its_context() {
    let mut guest = armed(&breakpoint(4, ENABLED | EL1 | 2 << 20, 0x1_2345_6783));
    guest.step(NOP);
    guest.expect_none();
    guest.vcpu.cpu.sys.contextidr = 0x2345_6783;
    guest.step(NOP);
    guest.expect_exception(0x31, STATUS, 0x200);
}

#[test]
fn linked_breakpoint_needs_address_and_context() {
    let linked_to = |n: u64| ENABLED | EL1 | 1 << 20 | n << 16;
    let mut registers = breakpoint(0, linked_to(5), CODE).to_vec();
    registers.extend(breakpoint(5, ENABLED | EL1 | 3 << 20, 77));
    let mut guest = armed(&registers);
    guest.step(NOP);
    guest.expect_none();
    guest.vcpu.cpu.sys.contextidr = 77;
    guest.step(NOP);
    guest.expect_exception(0x31, STATUS, 0x200);
    // Not linked to one that can be: one that is not context-aware, one that is not there, one of another kind.
    for (n, kind) in [(1, 3), (9, 3), (5, 0)] {
        let mut registers = breakpoint(0, linked_to(n), CODE).to_vec();
        registers.extend(breakpoint(if n < 6 { n as usize } else { 5 }, ENABLED | EL1 | kind << 20, 77));
        let mut guest = armed(&registers);
        guest.vcpu.cpu.sys.contextidr = 77;
        guest.step(NOP);
        assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "linked to {n}");
    }
}

#[test]
fn watchpoint_stops_the_access_before_it_is_made() {
    let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | STORES | ALL_BYTES, DATA));
    guest.write(DATA, 5);
    guest.set_x(0, 9);
    guest.step(STR);
    guest.expect_exception(0x35, 1 << 6 | STATUS, 0x200);
    assert_eq!((guest.vcpu.cpu.sys.far, guest.vcpu.cpu.sys.elr, guest.read(DATA)), (DATA, CODE, 5));
    guest.vcpu.cpu.daif = 0;
    guest.step(LDR);
    guest.expect_exception(0x35, STATUS, 0x200);
    assert_eq!(guest.x(0), 9, "nothing was loaded");
}

#[test]
fn watched_page_is_looked_at_again_after_each_access() {
    let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | ALL_BYTES, DATA + 8));
    for _ in 0..2 {
        guest.step(LDR);
        guest.expect_none();
        guest.step(0xf940_0420); // ldr x0, [x1, #8]
        guest.expect_exception(0x35, STATUS, 0x200);
        guest.vcpu.cpu.daif = 0;
    }
}

#[test]
fn every_kind_of_access_meets_the_watchpoint() {
    let watched = DATA + 8;
    for (text, word, x1, write) in [
        ("ldp x0, x2, [x1]", 0xa940_0820, DATA, 0),
        ("stp x0, x2, [x1]", 0xa900_0820, DATA, 1),
        ("ldr q0, [x1]", 0x3dc0_0020, DATA, 0),
        ("str q0, [x1]", 0x3d80_0020, DATA, 1),
        ("ldr x0, [x1], unaligned", LDR, DATA + 3, 0),
        ("str x0, [x1], unaligned", STR, DATA + 3, 1),
        ("ldxr x0, [x1]", 0xc85f_7c20, DATA + 8, 0),
        ("ldadd x0, x2, [x1]", 0xf820_0022, DATA + 8, 0),
        ("cas x0, x2, [x1]", 0xc8a0_7c22, DATA + 8, 0),
        ("dc zva, x1", 0xd50b_7421, DATA, 1),
        ("dc ivac, x1", 0xd508_7621, DATA, 1),
        ("ldtr x0, [x1]", 0xf840_0820, DATA + 8, 0),
    ] {
        let levels = EL1 | EL0;
        // Some need normal memory, and all is device memory while translation is off; EL0 may reach none while it is
        // on.
        let guest = if text.starts_with("ldtr") { Guest::new() } else { Guest::translated() };
        let mut guest = armed_in(guest, &watchpoint(ENABLED | levels | LOADS | STORES | ALL_BYTES, watched));
        guest.set_x(1, x1);
        guest.step(word);
        assert_eq!(guest.vcpu.cpu.pc, VECTORS + 0x200, "{text}");
        let (class, iss) = guest.syndrome();
        assert_eq!((class, iss >> 6 & 1, iss & 0x3f), (0x35, write, STATUS), "{text}: {iss:#x}");
        assert_eq!(guest.vcpu.cpu.sys.far, watched.max(x1), "{text}");
    }
}

#[test]
fn atomic_update_after_a_miss_is_watched_the_next_time() {
    let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | STORES | ALL_BYTES, DATA + 8));
    guest.step(0xf820_0022); // ldadd x0, x2, [x1]
    guest.expect_none();
    guest.step(0xf940_0420); // ldr x0, [x1, #8]
    guest.expect_exception(0x35, STATUS, 0x200);
}

#[test]
fn watchpoint_lets_other_accesses_pass() {
    let control = ENABLED | EL1 | LOADS | STORES;
    for (why, control, address, word) in [
        ("loads only", ENABLED | EL1 | LOADS | ALL_BYTES, DATA, STR),
        ("stores only", ENABLED | EL1 | STORES | ALL_BYTES, DATA, LDR),
        ("EL0 only", ENABLED | EL0 | LOADS | ALL_BYTES, DATA, LDR),
        ("the next bytes", control | ALL_BYTES, DATA + 8, LDR),
        ("no byte", control, DATA, LDR),
        ("two runs of bytes", control | 0b101 << 5, DATA, LDR),
        ("a reserved mask", control | ALL_BYTES | 2 << 24, DATA, LDR),
        ("a mask with some bytes", control | 1 << 5 | 12 << 24, DATA, LDR),
        ("linked to nothing", control | ALL_BYTES | 1 << 20 | 5 << 16, DATA, LDR),
    ] {
        let mut guest = armed(&watchpoint(control, address));
        guest.step(word);
        assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "{why}");
    }
}

#[test]
fn byte_select_watches_single_bytes() {
    let load_byte = 0x3940_0020; // ldrb w0, [x1]
    for byte in 0..8 {
        let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | 0b100 << 5, DATA));
        guest.set_x(1, DATA + byte);
        guest.step(load_byte);
        assert_eq!(guest.vcpu.cpu.pc == VECTORS + 0x200, byte == 2, "byte {byte}");
    }
}

#[test]
fn masked_watchpoint_watches_a_range_of_pages() {
    let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | ALL_BYTES | 13 << 24, DATA));
    for (offset, hit) in [(0, true), (0x1ff8, true), (0x2000, false)] {
        guest.vcpu.cpu.daif = 0;
        guest.set_x(1, DATA + offset);
        guest.step(LDR);
        assert_eq!(guest.vcpu.cpu.pc == VECTORS + 0x200, hit, "offset {offset:#x}");
    }
}

#[test]
fn watchpoint_on_a_device_stops_before_the_bus_sees_it() {
    let mut guest = armed(&watchpoint(ENABLED | EL1 | LOADS | ALL_BYTES, DEVICE));
    guest.set_x(1, DEVICE);
    guest.step(LDR);
    guest.expect_exception(0x35, STATUS, 0x200);
    assert!(guest.world.accesses.lock().unwrap().is_empty());
}

#[test]
fn registers_keep_what_exists_and_those_that_do_not_are_undefined() {
    let mrs = |crm: u32, op2: u32| 0xd530_0000 | crm << 8 | op2 << 5;
    let msr = |crm: u32, op2: u32| mrs(crm, op2) & !(1 << 21);
    for (crm, op2, kept) in [
        (0, 4, !3),          // DBGBVR0_EL1
        (5, 4, u64::MAX),    // DBGBVR5_EL1, context-aware
        (0, 5, 0x00ff_e1e7), // DBGBCR0_EL1
        (3, 6, !3),          // DBGWVR3_EL1
        (3, 7, 0x1f1f_ffff), // DBGWCR3_EL1
    ] {
        let mut guest = Guest::new();
        guest.set_x(0, u64::MAX);
        guest.run(&[msr(crm, op2), mrs(crm, op2)]);
        assert_eq!(guest.x(0), kept, "crm {crm} op2 {op2}");
    }
    for (crm, op2) in [(6, 4), (6, 5), (4, 6), (4, 7), (15, 4)] {
        let mut guest = Guest::new();
        guest.step(mrs(crm, op2));
        guest.expect_exception(0, 0, 0x200);
    }
}
