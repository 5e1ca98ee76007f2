// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System registers: what there is, what EL0 may reach, what writes keep.

use super::machine::Guest;

const fn mrs(op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    0xd538_0000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

const fn msr(op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    mrs(op1, crn, crm, op2) & !(1 << 21)
}

#[test]
fn identification_space_reads_zero_where_nothing_is_defined() {
    let mut guest = Guest::new();
    for crm in 1..8 {
        for op2 in 0..8 {
            guest.set_x(0, 99);
            guest.step(mrs(0, 0, crm, op2));
            guest.expect_none();
            let known = matches!((crm, op2), (4, 0) | (5, 0) | (6, 0) | (6, 1) | (7, 0));
            assert_eq!(guest.x(0) != 0, known, "crm {crm} op2 {op2}: {:#x}", guest.x(0));
        }
    }
}

#[test]
fn identification_says_what_is_implemented() {
    let mut guest = Guest::new();
    guest.step(mrs(0, 0, 6, 0));
    assert_eq!(guest.x(0), 0x1000_0021_1120, "AES, SHA, CRC32, atomics, dot product");
    guest.step(mrs(0, 0, 6, 1));
    assert_eq!(guest.x(0), 0x10_0000, "LDAPR");
    guest.step(mrs(0, 0, 7, 0));
    assert_eq!(guest.x(0), 0x10_0022, "40 bits, 16-bit ASIDs, all granules");
    guest.step(mrs(0, 0, 0, 5));
    assert_eq!(guest.x(0), 0x8000_0000, "MPIDR_EL1");
    guest.step(mrs(3, 0, 0, 7));
    assert_eq!(guest.x(0), 4, "DCZID_EL0");
}

#[test]
fn unknown_registers_and_read_only_writes_are_undefined() {
    for word in [
        mrs(3, 14, 8, 6), // PMEVCNTR6_EL0
        mrs(3, 9, 12, 4), // PMSWINC_EL0
        mrs(0, 4, 2, 3),  // PAN
        mrs(4, 1, 0, 0),  // SCTLR_EL2
        mrs(6, 1, 1, 0),  // SCR_EL3
        mrs(0, 15, 0, 0), // implementation defined
        msr(0, 0, 0, 0),  // MIDR_EL1
        msr(0, 0, 6, 0),  // ID_AA64ISAR0_EL1
        msr(3, 14, 0, 2), // CNTVCT_EL0
        msr(3, 0, 0, 1),  // CTR_EL0
        msr(3, 9, 12, 6), // PMCEID0_EL0
    ] {
        let mut guest = Guest::new();
        guest.step(word);
        guest.expect_exception(0, 0, 0x200);
    }
}

#[test]
fn writes_keep_the_bits_that_exist() {
    let mut guest = Guest::new();
    guest.set_x(0, !1);
    guest.run(&[msr(0, 1, 0, 0), mrs(0, 1, 0, 0)]);
    // Big endian bits stay clear, the ones of AArch32 stay set.
    assert_eq!(guest.x(0) & (1 << 25 | 1 << 24 | 1), 0);
    assert_eq!(guest.x(0) & 0x30d0_0980, 0x30d0_0980);
    let mut guest = Guest::new();
    guest.set_x(0, u64::MAX);
    for (register, mask) in [
        ((0, 12, 0, 0), !0x7ff),      // VBAR_EL1
        ((0, 1, 0, 2), 3 << 20),      // CPACR_EL1
        ((0, 13, 0, 1), 0xffff_ffff), // CONTEXTIDR_EL1
        ((0, 13, 0, 4), u64::MAX),    // TPIDR_EL1
        ((0, 4, 0, 0), 0xf030_03df),  // SPSR_EL1
        ((0, 14, 1, 0), 0x3ff),       // CNTKCTL_EL1
        ((3, 4, 4, 0), 0x07c0_0000),  // FPCR
        ((3, 4, 2, 0), 0xf000_0000),  // NZCV
    ] {
        let (op1, crn, crm, op2) = register;
        guest.set_x(0, u64::MAX);
        guest.vcpu.cpu.sys.cpacr = 3 << 20;
        guest.run(&[msr(op1, crn, crm, op2), mrs(op1, crn, crm, op2)]);
        guest.expect_none();
        assert_eq!(guest.x(0), mask, "{register:?}");
    }
}

#[test]
fn el0_accesses_trap_as_the_control_bits_say() {
    // Register or operation; SCTLR_EL1 and CNTKCTL_EL1 bits that allow it.
    for (text, word, sctlr, kctl) in [
        ("CTR_EL0", mrs(3, 0, 0, 1), 1 << 15, 0),
        ("DAIF", mrs(3, 4, 2, 1), 1 << 9, 0),
        ("DAIFSet", 0xd503_42df, 1 << 9, 0),
        ("CNTVCT_EL0", mrs(3, 14, 0, 2), 0, 2),
        ("CNTPCT_EL0", mrs(3, 14, 0, 1), 0, 1),
        ("CNTFRQ_EL0", mrs(3, 14, 0, 0), 0, 1),
        ("CNTV_CTL_EL0", mrs(3, 14, 3, 1), 0, 1 << 8),
        ("CNTP_CTL_EL0", msr(3, 14, 2, 1), 0, 1 << 9),
        ("IC IVAU", 0xd50b_7521, 1 << 26, 0),
        ("DC CIVAC", 0xd50b_7e21, 1 << 26, 0),
        ("DC ZVA", 0xd50b_7421, 1 << 14, 0),
    ] {
        let guest = |sctlr: u64, kctl: u64| {
            let mut guest = Guest::new();
            guest.vcpu.cpu.sys.sctlr |= sctlr;
            guest.vcpu.cpu.sys.cntkctl = kctl;
            guest.vcpu.cpu.update_regime();
            guest.set_x(1, super::machine::DATA);
            guest.drop_to_el0();
            guest.step(word);
            guest
        };
        let trapped = guest(0, 0);
        let field = |low: u32, width: u32| u64::from(word >> low & ((1 << width) - 1));
        let iss = field(19, 2) << 20
            | field(5, 3) << 17
            | field(16, 3) << 14
            | field(12, 4) << 10
            | field(0, 5) << 5
            | field(8, 4) << 1
            | field(21, 1);
        assert_eq!(trapped.syndrome(), (0x18, iss), "{text}");
        if text == "DC ZVA" {
            // Allowed, but with translation off the memory is a device's.
            assert_eq!(guest(sctlr, kctl).syndrome().0, 0x24);
        } else {
            guest(sctlr, kctl).expect_none();
        }
    }
}

#[test]
fn el0_has_its_own_registers_and_no_others() {
    let mut guest = Guest::new();
    guest.drop_to_el0();
    guest.set_x(0, 42);
    guest.run(&[0xd51b_d040, 0xd53b_d041]); // msr tpidr_el0, x0; mrs x1, tpidr_el0
    assert_eq!(guest.x(1), 42);
    guest.step(0xd51b_d060); // msr tpidrro_el0, x0
    guest.expect_exception(0, 0, 0x400);
}

#[test]
fn waiting_traps_at_el0_unless_allowed() {
    for (word, bit, trap) in [(0xd503_207f, 16, 0), (0xd503_205f, 18, 1)] {
        let mut guest = Guest::new();
        guest.drop_to_el0();
        guest.step(word);
        guest.expect_exception(0x01, 0x1e0_0000 | trap, 0x400);
        let mut guest = Guest::new();
        guest.vcpu.cpu.sys.sctlr |= 1 << bit;
        guest.drop_to_el0();
        guest.step(word);
        guest.expect_none();
    }
}
