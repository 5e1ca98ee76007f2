// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taking exceptions and returning from them.

use super::machine::{CODE, Guest, VECTORS};
use crate::cpu::Flags;
use crate::op::SP;

const ERET: u32 = 0xd69f_03e0;

#[test]
fn system_call_saves_state_and_returns_after_itself() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.flags = Flags::from_bits(0b1010);
    guest.vcpu.cpu.daif = 0b0101;
    guest.step(0xd402_4681); // svc #0x1234
    guest.expect_exception(0x15, 0x1234, 0x200);
    let sys = &guest.vcpu.cpu.sys;
    assert_eq!((sys.elr, sys.spsr), (CODE + 4, 0xa000_0145));
    assert_eq!(guest.vcpu.cpu.daif, 0xf);
}

#[test]
fn vector_depends_on_where_it_comes_from() {
    let mut lower = Guest::new();
    lower.drop_to_el0();
    lower.step(0xd400_0001); // svc #0
    assert_eq!(lower.vcpu.cpu.pc, VECTORS + 0x400);
    assert_eq!(lower.vcpu.cpu.el, 1);
    let mut other_stack = Guest::new();
    other_stack.run(&[0xd500_40bf, 0xd400_0001]); // msr spsel, #0; svc #0
    assert_eq!(other_stack.vcpu.cpu.pc, VECTORS);
}

#[test]
fn interrupt_is_taken_when_unmasked_and_not_before() {
    let mut guest = Guest::new();
    guest.world.line.store(true, std::sync::atomic::Ordering::SeqCst);
    guest.step(0xd503_201f); // nop
    assert_eq!(guest.vcpu.cpu.pc, CODE + 4);
    guest.run(&[0xd503_42ff, 0xd503_201f]); // msr daifclr, #2; nop
    // The instruction after the unmasking is the first of the vector.
    assert_eq!(guest.vcpu.cpu.sys.elr, CODE + 4);
    assert_eq!(guest.vcpu.cpu.pc, VECTORS + 0x280);
}

#[test]
fn stack_pointers_follow_the_level() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.w(SP, 0x1110);
    guest.vcpu.cpu.sp_el[0] = 0x2220;
    guest.drop_to_el0();
    assert_eq!(guest.vcpu.cpu.r(SP), 0x2220);
    guest.run(&[0xd100_43ff]); // sub sp, sp, #16
    guest.step(0xd400_0001); // svc #0
    assert_eq!(guest.vcpu.cpu.r(SP), 0x1110);
    guest.step(0xd538_4100); // mrs x0, sp_el0
    assert_eq!(guest.x(0), 0x2210);
}

#[test]
fn return_restores_flags_masks_and_level() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.sys.elr = CODE + 0x100;
    guest.vcpu.cpu.sys.spsr = 0x6000_0080;
    guest.step(ERET);
    let cpu = &guest.vcpu.cpu;
    assert_eq!((cpu.pc, cpu.el, cpu.daif, cpu.flags.bits()), (CODE + 0x100, 0, 0b0010, 0b0110));
}

#[test]
fn illegal_return_ends_in_an_illegal_state_exception() {
    // AArch32; EL2; EL0 with the other stack pointer; a reserved bit.
    for spsr in [0x10, 0x9, 0x1, 0x6] {
        let mut guest = Guest::new();
        guest.vcpu.cpu.sys.elr = CODE + 0x100;
        guest.vcpu.cpu.sys.spsr = spsr;
        guest.run(&[ERET, 0]);
        let (class, _) = guest.syndrome();
        assert_eq!((class, guest.vcpu.cpu.sys.elr, guest.vcpu.cpu.el), (0x0e, CODE + 0x100, 1), "{spsr:#x}");
        assert_eq!(guest.vcpu.cpu.sys.spsr >> 20 & 1, 1);
    }
}

#[test]
fn misaligned_program_counter_faults() {
    let mut guest = Guest::new();
    guest.set_x(1, CODE + 2);
    guest.run(&[0xd61f_0020, 0]); // br x1
    assert_eq!((guest.syndrome().0, guest.vcpu.cpu.sys.far), (0x22, CODE + 2));
}

#[test]
fn code_outside_memory_is_an_external_abort() {
    let mut guest = Guest::new();
    guest.set_x(1, 0x0a00_0000);
    guest.run(&[0xd61f_0020, 0]); // br x1
    assert_eq!((guest.syndrome(), guest.vcpu.cpu.sys.far), ((0x21, 0b01_0000), 0x0a00_0000));
}

#[test]
fn vectors_outside_memory_leave_the_cpu_stoppable() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.sys.vbar = 0x0a00_0000;
    // Returns at all: every failed fetch is paid for.
    guest.run(&[0xd400_0001; 8]);
    assert_eq!(guest.vcpu.cpu.sys.far, 0x0a00_0200);
}

#[test]
fn breakpoint_points_at_itself_and_the_rest_is_undefined() {
    let mut guest = Guest::new();
    guest.step(0xd420_00e0); // brk #7
    guest.expect_exception(0x3c, 7, 0x200);
    assert_eq!(guest.vcpu.cpu.sys.elr, CODE);
    for word in [0xd440_0000, 0xd400_0003, 0xd4a0_0001] {
        // hlt, smc, dcps1
        let mut guest = Guest::new();
        guest.step(word);
        guest.expect_exception(0, 0, 0x200);
    }
}

#[test]
fn privileged_instructions_are_undefined_at_el0() {
    // eret, hvc, msr spsel, tlbi vmalle1, ic iallu, at, mrs sctlr_el1, dc isw
    for word in
        [ERET, 0xd400_0002, 0xd500_40bf, 0xd508_871f, 0xd508_751f, 0xd508_7801, 0xd538_1000, 0xd508_7641]
    {
        let mut guest = Guest::new();
        guest.drop_to_el0();
        guest.step(word);
        guest.expect_exception(0, 0, 0x400);
        assert_eq!(guest.vcpu.cpu.sys.elr, CODE, "{word:08x}");
    }
}

#[test]
fn floating_point_traps_as_cpacr_says() {
    const FMOV: u32 = 0x9e67_0020; // fmov d0, x1
    for (fpen, el, trapped) in [(0, 1, true), (1, 1, false), (1, 0, true), (2, 1, true), (3, 0, false)] {
        let mut guest = Guest::new();
        guest.vcpu.cpu.sys.cpacr = fpen << 20;
        if el == 0 {
            guest.drop_to_el0();
        }
        guest.step(FMOV);
        if trapped {
            guest.expect_exception(0x07, 0x1e0_0000, if el == 0 { 0x400 } else { 0x200 });
        } else {
            guest.expect_none();
        }
    }
}

#[test]
fn software_step_stops_after_one_instruction() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.sys.mdscr = 1;
    guest.vcpu.cpu.sys.os_locked = false;
    guest.place(CODE, &[0x9100_0400, 0x9100_0400]); // add x0, x0, #1, twice
    guest.vcpu.cpu.sys.elr = CODE;
    guest.vcpu.cpu.sys.spsr = 1 << 21;
    guest.vcpu.cpu.exception_return();
    guest.vcpu.run_steps(2);
    assert_eq!((guest.x(0), guest.syndrome().0, guest.vcpu.cpu.sys.elr), (1, 0x32, CODE + 4));
    assert_eq!(guest.vcpu.cpu.sys.spsr >> 21 & 1, 0);
}
