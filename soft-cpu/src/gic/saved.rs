// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saved form of the GIC and of the ITS, version 1. Frozen: a change is a new struct and a conversion.
//!
//! Plain integers that share nothing with the runtime types. Restoring goes through the functions that
//! guest writes go through, so a hostile state can be no worse than a hostile guest; only a state of
//! another shape (numbers of vCPUs, of SPIs, with or without ITS) is an error.
//!
//! Pending LPIs are in here and are *not* written to the pending tables in guest memory: saving happens after
//! the last harvest of the dirty log, and must not change memory any more. ITS tables are in guest memory already.

use serde::{Deserialize, Serialize};

use super::bank::{Bank, Word};
use super::its::{Its, ItsRegisters};
use super::redistributor::Redistributor;
use super::state::State;
use super::{GicError, TableMemory};

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

/// Up to 64 pending LPIs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingLpisV1 {
    /// LPI 8192 + 64 * index is bit 0.
    pub index: u32,
    /// Pending ones.
    pub bits: u64,
}

/// One vCPU's redistributor and CPU interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicVcpuV1 {
    /// GICR_WAKER.ProcessorSleep.
    pub asleep: bool,
    /// GICR_CTLR.EnableLPIs.
    pub lpis_enabled: bool,
    /// GICR_PROPBASER.
    pub propbaser: u64,
    /// GICR_PENDBASER, with PTZ.
    pub pendbaser: u64,
    /// SGIs and PPIs.
    pub private: IrqWordV1,
    /// Priorities of SGIs and PPIs: 32.
    pub private_priorities: Vec<u8>,
    /// Pending LPIs, by rising index.
    pub pending_lpis: Vec<PendingLpisV1>,
    /// (register, value) of the CPU interface, in the order in which they are written back.
    pub icc: Vec<(u16, u64)>,
}

/// Distributor, redistributors and CPU interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicV1 {
    /// GICD_CTLR.
    pub ctlr: u64,
    /// SPIs from INTID 32.
    pub spis: Vec<IrqWordV1>,
    /// Priorities of the SPIs.
    pub spi_priorities: Vec<u8>,
    /// GICD_IROUTER of the SPIs.
    pub routes: Vec<u64>,
    /// By vCPU.
    pub vcpus: Vec<GicVcpuV1>,
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

impl From<&Word> for IrqWordV1 {
    fn from(word: &Word) -> Self {
        // What is fixed at creation comes from the machine's shape.
        let Word { implemented: _, always_edge: _, group1, enabled, latch, active, line, edge } = *word;
        Self { group1, enabled, latch, active, line, edge }
    }
}

impl From<&IrqWordV1> for Word {
    fn from(saved: &IrqWordV1) -> Self {
        let IrqWordV1 { group1, enabled, latch, active, line, edge } = *saved;
        Self { implemented: 0, always_edge: 0, group1, enabled, latch, active, line, edge }
    }
}

fn words_of(bank: &Bank) -> Vec<IrqWordV1> {
    bank.words().iter().map(IrqWordV1::from).collect()
}

/// Everything but the ITS.
pub(super) fn save(state: &State) -> GicV1 {
    // `its` is a unit of its own; `touched` is empty between calls; `refused` counts for this process.
    let State { dist, redists, cpus, its: _, touched: _, refused: _ } = state;
    let vcpu = |(redist, cpu): (&Redistributor, &super::cpu_interface::CpuInterface)| {
        let (asleep, lpis_enabled, propbaser, pendbaser) = redist.registers();
        let pending = redist.lpis().words();
        GicVcpuV1 {
            asleep,
            lpis_enabled,
            propbaser,
            pendbaser,
            private: words_of(redist.private_ref()).pop().unwrap_or_default(),
            private_priorities: redist.private_ref().priorities().to_vec(),
            pending_lpis: pending
                .map(|(index, bits)| PendingLpisV1 { index: super::spec::low32(index as u64), bits })
                .collect(),
            icc: cpu.saved_registers().to_vec(),
        }
    };
    GicV1 {
        ctlr: dist.ctlr(),
        spis: words_of(dist.spis_ref()),
        spi_priorities: dist.spis_ref().priorities().to_vec(),
        routes: dist.routes().to_vec(),
        vcpus: redists.iter().zip(cpus).map(vcpu).collect(),
    }
}

/// The ITS.
pub(super) fn save_its(its: &Its) -> ItsV1 {
    let ItsRegisters { enabled, cbaser, cwriter, creadr, stalled, devices, collections } = its.registers();
    ItsV1 { enabled, cbaser, cwriter, creadr, stalled, devices, collections }
}

/// Fills a state at reset.
pub(super) fn restore(
    state: &mut State,
    memory: &dyn TableMemory,
    gic: &GicV1,
    its: Option<&ItsV1>,
) -> Result<(), GicError> {
    let GicV1 { ctlr, spis, spi_priorities, routes, vcpus } = gic;
    if vcpus.len() != state.redists.len() {
        return Err(GicError::Shape("vCPUs"));
    }
    if routes.len() != state.dist.routes().len() {
        return Err(GicError::Shape("SPI routes"));
    }
    let words: Vec<Word> = spis.iter().map(Word::from).collect();
    if !state.dist.spis().restore(&words, spi_priorities) {
        return Err(GicError::Shape("SPIs"));
    }
    state.dist.set_ctlr(*ctlr);
    for (intid, route) in (super::spec::SPI_FIRST..).zip(routes) {
        state.dist.set_route(intid, *route);
    }
    for ((redist, cpu), vcpu) in state.redists.iter_mut().zip(&mut state.cpus).zip(vcpus) {
        let GicVcpuV1 {
            asleep,
            lpis_enabled,
            propbaser,
            pendbaser,
            private,
            private_priorities,
            pending_lpis,
            icc,
        } = vcpu;
        if !redist.private().restore(&[Word::from(private)], private_priorities) {
            return Err(GicError::Shape("private interrupts"));
        }
        redist.restore_registers(*asleep, *lpis_enabled, *propbaser, *pendbaser);
        let pending = pending_lpis
            .iter()
            .map(|PendingLpisV1 { index, bits }| (usize::try_from(*index).unwrap_or(usize::MAX), *bits));
        redist.add_lpis(pending, memory);
        for (register, value) in icc {
            // A register that this interface does not have is not an error for a guest, so not here either.
            cpu.write(*register, *value);
        }
    }
    match (&mut state.its, its) {
        (Some(at_reset), Some(saved)) => {
            let ItsV1 { enabled, cbaser, cwriter, creadr, stalled, devices, collections } = *saved;
            *at_reset = Its::restore(&ItsRegisters {
                enabled,
                cbaser,
                cwriter,
                creadr,
                stalled,
                devices,
                collections,
            });
        }
        (None, None) => {}
        _ => return Err(GicError::Shape("interrupt translation services")),
    }
    state.touched.add_all();
    Ok(())
}
