// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GITS registers (IHI 0069 §12.19).
//!
//! CBASER and the BASERs can change only while the ITS is disabled. Each write goes through the one
//! `set_*` function that restore uses too.

use super::commands::BUDGET_PER_ACCESS;
use super::{Its, Targets};
use crate::gic::TableMemory;
use crate::gic::redistributor::Redistributor;
use crate::gic::saved::ItsV1;
use crate::gic::spec;
use crate::gic::spec::access::{Access, Refused};
use crate::gic::spec::its::{self, Baser, Cbaser, TableKind};
use crate::gic::state::VcpuSet;

impl Its {
    /// A guest read. Reading CREADR lets waiting commands run.
    pub fn read(
        &mut self,
        access: Access,
        redists: &mut [Redistributor],
        memory: &dyn TableMemory,
        touched: &mut VcpuSet,
    ) -> Result<u64, Refused> {
        match access.qw_offset() {
            its::TYPER => access.read_qw(its::TYPER_VALUE),
            its::CBASER => access.read_qw(self.cbaser.bits()),
            its::CWRITER => access.read_qw(self.cwriter),
            its::CREADR => {
                self.run(&mut Targets { redists, memory, touched }, BUDGET_PER_ACCESS);
                access.read_qw(self.creadr | its::CREADR_STALLED.of(self.stalled.into()))
            }
            its::BASER_DEVICES => access.read_qw(self.devices.bits()),
            its::BASER_COLLECTIONS => access.read_qw(self.collections.bits()),
            // The BASERs that are not implemented are 64-bit registers that read as zero.
            0x0110..=0x0138 => access.read_qw(0),
            _ => {
                access.only_word()?;
                Ok(match access.offset {
                    its::CTLR => {
                        its::CTLR_ENABLED.of(self.enabled.into())
                            | its::CTLR_QUIESCENT.of((!self.enabled).into())
                    }
                    its::IIDR => spec::IIDR.into(),
                    offset => spec::id_register(offset).unwrap_or(0).into(),
                })
            }
        }
    }

    /// A guest write. A vCPU's own write to GITS_TRANSLATER carries no DeviceID and is ignored.
    pub fn write(
        &mut self,
        access: Access,
        value: u64,
        redists: &mut [Redistributor],
        memory: &dyn TableMemory,
        touched: &mut VcpuSet,
    ) -> Result<(), Refused> {
        match access.qw_offset() {
            its::CBASER => self.set_cbaser(access.merge_qw(self.cbaser.bits(), value)?),
            its::CWRITER => self.set_cwriter(access.merge_qw(self.cwriter, value)?),
            its::BASER_DEVICES => {
                self.set_baser(TableKind::Devices, access.merge_qw(self.devices.bits(), value)?);
            }
            its::BASER_COLLECTIONS => {
                self.set_baser(TableKind::Collections, access.merge_qw(self.collections.bits(), value)?);
            }
            its::TYPER | its::CREADR | 0x0110..=0x0138 => {
                access.merge_qw(0, value)?;
            }
            its::TRANSLATER if access.size == 2 => {}
            _ => {
                access.only_word()?;
                if access.offset == its::CTLR {
                    self.set_enabled(its::CTLR_ENABLED.is_set(value));
                }
            }
        }
        self.run(&mut Targets { redists, memory, touched }, BUDGET_PER_ACCESS);
        Ok(())
    }

    fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        // The guest may have used the time to change tables.
        self.cache.clear();
    }

    /// A new queue is empty.
    fn set_cbaser(&mut self, value: u64) {
        if !self.enabled {
            self.cbaser = Cbaser::sanitise(value);
            self.cwriter = 0;
            self.creadr = 0;
            self.stalled = false;
        }
    }

    /// An offset beyond the queue is ignored. Retry ends a stall.
    fn set_cwriter(&mut self, value: u64) {
        if let Some(offset) = its::queue_offset(value, self.cbaser) {
            self.cwriter = offset;
        }
        if its::CWRITER_RETRY.is_set(value) {
            self.stalled = false;
        }
    }

    fn set_baser(&mut self, kind: TableKind, value: u64) {
        if !self.enabled {
            let table = match kind {
                TableKind::Devices => &mut self.devices,
                TableKind::Collections => &mut self.collections,
            };
            *table = Baser::sanitise(kind, value);
        }
    }

    /// Runs waiting commands; true if some are left.
    pub fn step(
        &mut self,
        budget: u32,
        redists: &mut [Redistributor],
        memory: &dyn TableMemory,
        touched: &mut VcpuSet,
    ) -> bool {
        self.run(&mut Targets { redists, memory, touched }, budget);
        self.has_work()
    }

    /// The saved form; tables and queue are in guest memory.
    pub fn save(&self) -> ItsV1 {
        // The cache is filled again from the tables; counters describe this process.
        let Self { enabled, cbaser, cwriter, creadr, stalled, devices, collections, cache: _, counters: _ } =
            self;
        ItsV1 {
            enabled: *enabled,
            cbaser: cbaser.bits(),
            cwriter: *cwriter,
            creadr: *creadr,
            stalled: *stalled,
            devices: devices.bits(),
            collections: collections.bits(),
        }
    }

    /// An ITS with the saved values, each through its sanitiser. Runs no command.
    pub fn restore(saved: &ItsV1) -> Self {
        let ItsV1 { enabled, cbaser, cwriter, creadr, stalled, devices, collections } = *saved;
        let mut this = Self::new();
        this.set_cbaser(cbaser);
        this.set_cwriter(cwriter);
        this.creadr = its::queue_offset(creadr, this.cbaser).unwrap_or(0);
        this.stalled = stalled;
        this.set_baser(TableKind::Devices, devices);
        this.set_baser(TableKind::Collections, collections);
        // Last: it makes the others read-only.
        this.set_enabled(enabled);
        this
    }
}
