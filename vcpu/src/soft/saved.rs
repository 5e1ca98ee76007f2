// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State units of software CPUs and their GIC: the structs are frozen where the state is, in `soft_cpu`.

use crate::saved::{Units, unit};
use ipc::protocol::features::Feature;
use ipc::saved::{Reader, SavedError, Writer};
use soft_cpu::gic::saved::{GicV1, ItsV1};
use soft_cpu::saved::{ClockV1, VcpuV1};

/// Everything a software engine saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSoft {
    /// The system counter.
    pub clock: ClockV1,
    /// Distributor, redistributors, CPU interfaces.
    pub gic: GicV1,
    /// The ITS.
    pub its: Option<ItsV1>,
    /// Every vCPU, in order.
    pub vcpus: Vec<VcpuV1>,
}

unit!(ClockUnit, ClockV1, "clock", 1);
unit!(GicUnit, GicV1, "gic", 1);
unit!(ItsUnit, ItsV1, "its", 1);
unit!(VcpuUnit, VcpuV1, "vcpu", 1);

impl Units for SavedSoft {
    fn versions() -> Vec<Feature> {
        vec![
            Feature::state::<ClockUnit>(),
            Feature::state::<VcpuUnit>(),
            Feature::state::<GicUnit>(),
            Feature::state::<ItsUnit>(),
        ]
    }

    fn append(self, writer: &mut Writer) -> Result<(), SavedError> {
        let Self { clock, gic, its, vcpus } = self;
        writer.append(&ClockUnit(clock))?;
        writer.append(&GicUnit(gic))?;
        if let Some(its) = its {
            writer.append(&ItsUnit(its))?;
        }
        vcpus.into_iter().try_for_each(|vcpu| writer.append(&VcpuUnit(vcpu)))
    }

    fn take(reader: &mut Reader<'_>, vcpu_count: usize) -> Result<Self, SavedError> {
        Ok(Self {
            clock: reader.take::<ClockUnit>()?.0,
            gic: reader.take::<GicUnit>()?.0,
            its: Some(reader.take::<ItsUnit>()?.0),
            vcpus: (0..vcpu_count)
                .map(|_| Ok(reader.take::<VcpuUnit>()?.0))
                .collect::<Result<_, SavedError>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
