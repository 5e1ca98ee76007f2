// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saved form of a CPU and of the counter: frozen structures of plain integers.
//!
//! They share no type with the running state. A released version is never edited; a change is a new version.
//! A saved state is untrusted: restoring passes every register through the mask of its live writes, and refuses
//! what no CPU can be in.

use serde::{Deserialize, Serialize};

/// The system counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockV1 {
    /// Counter value at the time of saving, in ticks of 62.5 MHz.
    pub ticks: u64,
}

/// One CPU, at an instruction boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuV1 {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// Address of the next instruction.
    pub pc: u64,
    /// PSTATE in the layout of SPSR_EL1.
    pub pstate: u64,
    /// v0 to v31.
    pub v: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// CPACR_EL1.
    pub cpacr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// MAIR_EL1.
    pub mair: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// PAR_EL1.
    pub par: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// CONTEXTIDR_EL1.
    pub contextidr: u64,
    /// TPIDR_EL0.
    pub tpidr_el0: u64,
    /// TPIDRRO_EL0.
    pub tpidrro_el0: u64,
    /// TPIDR_EL1.
    pub tpidr_el1: u64,
    /// CNTKCTL_EL1.
    pub cntkctl: u64,
    /// CSSELR_EL1.
    pub csselr: u64,
    /// MDSCR_EL1.
    pub mdscr: u64,
    /// OSLSR_EL1.OSLK: 0 or 1.
    pub os_lock: u64,
    /// DBGBCRn_EL1 and DBGBVRn_EL1.
    pub breakpoints: [DebugPointV1; 6],
    /// DBGWCRn_EL1 and DBGWVRn_EL1.
    pub watchpoints: [DebugPointV1; 4],
    /// The performance monitors.
    pub pmu: PmuV1,
    /// CNTV_CTL_EL0, without ISTATUS.
    pub cntv_ctl: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval: u64,
    /// CNTP_CTL_EL0, without ISTATUS.
    pub cntp_ctl: u64,
    /// CNTP_CVAL_EL0.
    pub cntp_cval: u64,
    /// The event register of WFE: 0 or 1.
    pub event: u64,
    /// 0 off, 1 on, 2 asked to come on at `power_entry` with `power_context` in x0.
    pub power: u64,
    /// Where a CPU that was asked to come on will start.
    pub power_entry: u64,
    /// What it will have in x0.
    pub power_context: u64,
}

/// A breakpoint or watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugPointV1 {
    /// Control register.
    pub control: u64,
    /// Value register.
    pub value: u64,
}

/// The performance monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmuV1 {
    /// PMCR_EL0.
    pub pmcr: u64,
    /// PMCNTENSET_EL0.
    pub pmcntenset: u64,
    /// PMOVSSET_EL0.
    pub pmovsset: u64,
    /// PMINTENSET_EL1.
    pub pmintenset: u64,
    /// PMSELR_EL0.
    pub pmselr: u64,
    /// PMUSERENR_EL0.
    pub pmuserenr: u64,
    /// PMCCNTR_EL0.
    pub pmccntr: u64,
    /// PMCCFILTR_EL0.
    pub pmccfiltr: u64,
    /// PMEVCNTRn_EL0.
    pub pmevcntr: [u32; 6],
    /// PMEVTYPERn_EL0.
    pub pmevtyper: [u64; 6],
}

/// Why a saved CPU cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The saved PSTATE is not one of EL0 or EL1 in AArch64.
    #[error("saved PSTATE {0:#x} is not of EL0 or EL1 in AArch64 state")]
    Pstate(u64),
    /// The power state is not 0 (off), 1 (on) or 2 (pending).
    #[error("saved power state {0} is not 0 (off), 1 (on) or 2 (pending)")]
    Power(u64),
}
