// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device: a register file and counters. Its methods are in the other files of this folder.
//!
//! `mmio` handles accesses, `cmdq` steps the Command queue, `eventq` records events, `gerror` keeps the error
//! handshake, `saved` saves and restores it. The device has no state outside its registers: caches of configuration
//! and translations belong to the devices behind it, so a new process resumes from the register file and the guest's
//! memory alone, after a crash too ([`crate::checkpoint`]).

use crate::inspect::Counters;
use crate::regfile::RegisterFile;
use smmu_arch::Model;

/// One SMMUv3 as a guest sees it.
#[derive(Clone, Debug)]
pub struct Smmu {
    pub(crate) registers: RegisterFile,
    pub(crate) counters: Counters,
}

impl Smmu {
    /// A device out of reset.
    pub fn new(model: Model) -> Smmu {
        Smmu { registers: RegisterFile::reset(model), counters: Counters::default() }
    }

    /// The registers, as software reads them.
    pub fn registers(&self) -> &RegisterFile {
        &self.registers
    }

    /// What has been counted since this process began.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
