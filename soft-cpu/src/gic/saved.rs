// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saved form of the GIC and of the ITS, version 1. Frozen: a change is a new struct and a conversion.
//!
//! Plain integers that share nothing with the runtime types; each part's `save` and `restore` stand beside
//! its registers. Restoring goes through the functions that guest writes go through, so a hostile state can
//! be no worse than a hostile guest; only a state of another shape (numbers of vCPUs, of SPIs, with or
//! without ITS) is an error.
//!
//! Pending LPIs are in here and are *not* written to the pending tables in guest memory: saving happens after
//! the last harvest of the dirty log, and must not change memory any more. ITS tables are in guest memory
//! already.

use serde::{Deserialize, Serialize};

/// 32 wired interrupts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqWordV1 {
    /// IGROUPR.
    pub group1: u32,
    /// ISENABLER.
    pub enabled: u32,
    /// Pending by an edge or by software, not by the line.
    pub latch: u32,
    /// ISACTIVER.
    pub active: u32,
    /// Input wires.
    pub line: u32,
    /// Edge-triggered ones.
    pub edge: u32,
}

/// Consecutive wired interrupts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqBankV1 {
    /// In INTID order.
    pub words: Vec<IrqWordV1>,
    /// IPRIORITYR bytes, in INTID order.
    pub priorities: Vec<u8>,
}

/// GICD: its control register, SPIs and their routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributorV1 {
    /// GICD_CTLR.
    pub ctlr: u64,
    /// SPIs from INTID 32.
    pub spis: IrqBankV1,
    /// GICD_IROUTER of the SPIs.
    pub routes: Vec<u64>,
}

/// Up to 64 pending LPIs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingLpisV1 {
    /// LPI 8192 + 64 * index is bit 0.
    pub index: u32,
    /// Pending ones.
    pub bits: u64,
}

/// One vCPU's redistributor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedistributorV1 {
    /// GICR_WAKER.
    pub waker: u64,
    /// GICR_CTLR.EnableLPIs.
    pub lpis_enabled: bool,
    /// GICR_PROPBASER.
    pub propbaser: u64,
    /// GICR_PENDBASER, with PTZ.
    pub pendbaser: u64,
    /// SGIs and PPIs: one word.
    pub private: IrqBankV1,
    /// Pending LPIs by rising index, words without any left out.
    pub pending_lpis: Vec<PendingLpisV1>,
}

/// One vCPU's CPU interface: the ICC registers of these names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuInterfaceV1 {
    /// ICC_PMR_EL1.
    pub pmr: u64,
    /// ICC_BPR0_EL1.
    pub bpr0: u64,
    /// ICC_BPR1_EL1, also while CBPR hides it.
    pub bpr1: u64,
    /// ICC_CTLR_EL1.
    pub ctlr: u64,
    /// ICC_IGRPEN0_EL1.
    pub igrpen0: u64,
    /// ICC_IGRPEN1_EL1.
    pub igrpen1: u64,
    /// ICC_AP1R0_EL1.
    pub ap1r0: u64,
}

/// Distributor, redistributors and CPU interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicV1 {
    /// GICD.
    pub distributor: DistributorV1,
    /// By vCPU.
    pub redistributors: Vec<RedistributorV1>,
    /// By vCPU.
    pub cpu_interfaces: Vec<CpuInterfaceV1>,
}

/// The ITS's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItsV1 {
    /// GITS_CTLR.Enabled.
    pub enabled: bool,
    /// GITS_CBASER.
    pub cbaser: u64,
    /// GITS_CWRITER offset.
    pub cwriter: u64,
    /// GITS_CREADR offset.
    pub creadr: u64,
    /// GITS_CREADR.Stalled.
    pub stalled: bool,
    /// GITS_BASER0.
    pub devices: u64,
    /// GITS_BASER1.
    pub collections: u64,
}
