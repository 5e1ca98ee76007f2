// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names of system registers: `op0<<14|op1<<11|crn<<7|crm<<3|op2`, which are bits 20..5 of MSR and MRS.

use crate::debug::{BREAKPOINT_COUNT, DebugRegister, WATCHPOINT_COUNT};
use crate::pmu::registers::PmuRegister;

/// The register that an MSR or MRS names.
pub(crate) const fn of(word: u32) -> u16 {
    (word >> 5) as u16
}

const fn name(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// op1 of a name: 3 is what EL0 may try.
pub(crate) const fn op1(name: u16) -> u16 {
    name >> 11 & 7
}

/// The ASID field of a TTBR or TLBI argument: eight bits unless TCR_EL1.AS is set.
pub(crate) const fn asid_of(value: u64, tcr: u64) -> u16 {
    (value >> 48) as u16 & if tcr >> 36 & 1 == 1 { 0xffff } else { 0xff }
}

/// Whether this is a register of the GIC's CPU interface.
pub(crate) const fn is_interrupt_controller(register: u16) -> bool {
    let first = name(3, 0, 12, 8, 0);
    let last = name(3, 0, 12, 15, 7);
    register == ICC_PMR_EL1 || (register >= first && register <= last)
}

/// Whether this is in the identification space, which reads as zero where nothing is defined.
pub(crate) const fn is_identification(register: u16) -> bool {
    register & !0x7f == name(3, 0, 0, 0, 0) && register >> 3 & 0xf != 0
}

/// The breakpoint or watchpoint register of this name, if ID_AA64DFR0_EL1 says that it is there.
pub(crate) fn debug_register(register: u16) -> Option<DebugRegister> {
    if register & !0x7f != name(2, 0, 0, 0, 0) {
        return None;
    }
    let n = usize::from(register >> 3 & 0xf);
    match register & 7 {
        4 if n < BREAKPOINT_COUNT => Some(DebugRegister::BreakpointValue(n)),
        5 if n < BREAKPOINT_COUNT => Some(DebugRegister::BreakpointControl(n)),
        6 if n < WATCHPOINT_COUNT => Some(DebugRegister::WatchpointValue(n)),
        7 if n < WATCHPOINT_COUNT => Some(DebugRegister::WatchpointControl(n)),
        _ => None,
    }
}

/// The register of the performance monitors of this name.
pub(crate) fn pmu_register(register: u16) -> Option<PmuRegister> {
    let in_space = register >> 14 == 3;
    let [crn, crm] = [register >> 7 & 0xf, register >> 3 & 0xf];
    in_space.then(|| PmuRegister::of(op1(register), crn, crm, register & 7)).flatten()
}

macro_rules! names {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        $(pub(crate) const $name: u16 = name($op0, $op1, $crn, $crm, $op2);)*
    };
}

names! {
    MDCCINT_EL1 = 2 0 0 2 0;
    MDSCR_EL1 = 2 0 0 2 2;
    OSDTRRX_EL1 = 2 0 0 0 2;
    OSDTRTX_EL1 = 2 0 0 3 2;
    OSECCR_EL1 = 2 0 0 6 2;
    MDRAR_EL1 = 2 0 1 0 0;
    OSLAR_EL1 = 2 0 1 0 4;
    OSLSR_EL1 = 2 0 1 1 4;
    OSDLR_EL1 = 2 0 1 3 4;
    DBGPRCR_EL1 = 2 0 1 4 4;
    DBGCLAIMSET_EL1 = 2 0 7 8 6;
    DBGCLAIMCLR_EL1 = 2 0 7 9 6;
    DBGAUTHSTATUS_EL1 = 2 0 7 14 6;
    MDCCSR_EL0 = 2 3 0 1 0;
    DBGDTR_EL0 = 2 3 0 4 0;
    DBGDTRRX_EL0 = 2 3 0 5 0;
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    REVIDR_EL1 = 3 0 0 0 6;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    SCTLR_EL1 = 3 0 1 0 0;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    SPSR_EL1 = 3 0 4 0 0;
    ELR_EL1 = 3 0 4 0 1;
    SP_EL0 = 3 0 4 1 0;
    SPSEL = 3 0 4 2 0;
    CURRENT_EL = 3 0 4 2 2;
    ICC_PMR_EL1 = 3 0 4 6 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    ERRIDR_EL1 = 3 0 5 3 0;
    FAR_EL1 = 3 0 6 0 0;
    PAR_EL1 = 3 0 7 4 0;
    MAIR_EL1 = 3 0 10 2 0;
    AMAIR_EL1 = 3 0 10 3 0;
    VBAR_EL1 = 3 0 12 0 0;
    RVBAR_EL1 = 3 0 12 0 1;
    ISR_EL1 = 3 0 12 1 0;
    DISR_EL1 = 3 0 12 1 1;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    CNTKCTL_EL1 = 3 0 14 1 0;
    CCSIDR_EL1 = 3 1 0 0 0;
    CLIDR_EL1 = 3 1 0 0 1;
    AIDR_EL1 = 3 1 0 0 7;
    CSSELR_EL1 = 3 2 0 0 0;
    CTR_EL0 = 3 3 0 0 1;
    DCZID_EL0 = 3 3 0 0 7;
    NZCV = 3 3 4 2 0;
    DAIF = 3 3 4 2 1;
    FPCR = 3 3 4 4 0;
    FPSR = 3 3 4 4 1;
    PMUSERENR_EL0 = 3 3 9 14 0;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
}
