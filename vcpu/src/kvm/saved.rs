// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State units of the host's CPUs and of KVM's interrupt controller: frozen structs of plain integers.
//!
//! KVM's state is not that of the software engine and has kinds of its own. Values are in the orders that
//! [`super::registers`] fixes for version 1. Saved state is untrusted: KVM validates each value as any register
//! write, and lists of another length are refused.

use crate::saved::{Units, unit};
use ipc::protocol::features::Feature;
use ipc::saved::{Reader, SavedError, Writer};
use serde::{Deserialize, Serialize};

/// The guest's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmClockV1 {
    /// CNTVCT_EL0 when it was stopped, in ticks of the host's counter.
    pub ticks: u64,
    /// CNTFRQ_EL0 of that host, which a guest reads only once.
    pub hz: u64,
}

/// One vCPU's registers by KVM's own ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmVcpuV1 {
    /// All that KVM lists, but the counters: those are [`KvmClockV1`]'s.
    pub registers: Vec<KvmRegisterV1>,
    /// `kvm_mp_state`.
    pub mp_state: u32,
    /// A virtual SError is pending.
    pub serror_pending: bool,
    /// Its syndrome (ESR), if it has one.
    pub serror_syndrome: Option<u64>,
}

/// A register of a vCPU, by KVM's id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmRegisterV1 {
    /// KVM's id, which has its size in it.
    pub id: u64,
    /// Its value, little-endian.
    pub value: Vec<u8>,
}

/// Distributor, redistributors and CPU interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmGicV1 {
    /// Words of the distributor.
    pub distributor: Vec<u32>,
    /// Input levels of the SPIs, 32 to a word.
    pub levels: Vec<u32>,
    /// By vCPU.
    pub redistributors: Vec<KvmRedistributorV1>,
    /// By vCPU: the ICC registers.
    pub cpu_interfaces: Vec<Vec<u64>>,
}

/// One vCPU's redistributor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmRedistributorV1 {
    /// Its words.
    pub registers: Vec<u32>,
    /// Input levels of its PPIs.
    pub levels: u32,
}

/// The ITS's registers; its tables are in guest memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmItsV1 {
    /// GITS_CBASER first, GITS_CTLR last.
    pub registers: Vec<u64>,
    /// Messages that devices sent after the ITS's tables were written, oldest first.
    pub late_messages: Vec<KvmMessageV1>,
}

/// An MSI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmMessageV1 {
    /// DeviceID.
    pub device_id: u32,
    /// EventID.
    pub event_id: u32,
}

/// Everything a KVM engine saves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedKvm {
    /// The guest's time.
    pub clock: KvmClockV1,
    /// Every vCPU, in order.
    pub vcpus: Vec<KvmVcpuV1>,
    /// The interrupt controller.
    pub gic: KvmGicV1,
    /// Its ITS.
    pub its: KvmItsV1,
}

unit!(ClockUnit, KvmClockV1, "kvm-clock", 1);
unit!(VcpuUnit, KvmVcpuV1, "kvm-vcpu", 1);
unit!(GicUnit, KvmGicV1, "kvm-gic", 1);
unit!(ItsUnit, KvmItsV1, "kvm-its", 1);

impl Units for SavedKvm {
    fn versions() -> Vec<Feature> {
        vec![
            Feature::state::<ClockUnit>(),
            Feature::state::<VcpuUnit>(),
            Feature::state::<GicUnit>(),
            Feature::state::<ItsUnit>(),
        ]
    }

    fn append(self, writer: &mut Writer) -> Result<(), SavedError> {
        let Self { clock, vcpus, gic, its } = self;
        writer.append(&ClockUnit(clock))?;
        vcpus.into_iter().try_for_each(|vcpu| writer.append(&VcpuUnit(vcpu)))?;
        writer.append(&GicUnit(gic))?;
        writer.append(&ItsUnit(its))
    }

    fn take(reader: &mut Reader<'_>, vcpu_count: usize) -> Result<Self, SavedError> {
        Ok(Self {
            clock: reader.take::<ClockUnit>()?.0,
            vcpus: (0..vcpu_count)
                .map(|_| Ok(reader.take::<VcpuUnit>()?.0))
                .collect::<Result<_, SavedError>>()?,
            gic: reader.take::<GicUnit>()?.0,
            its: reader.take::<ItsUnit>()?.0,
        })
    }
}

#[cfg(test)]
mod tests;
