// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each process is told about its role: filled from the configuration, the machine's map and the topology.

use ipc::addr::Gpa;
use ipc::protocol::control::RoleConfig;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{SmmuConfig, SmmuModel};
use ipc::protocol::vcpu::{RemoteIrq, RemoteMmio, RemotePage, VcpuConfig};

use super::process::Fault;
use crate::config;
use crate::machine::boot::BootInfo;
use crate::machine::layout;
use crate::problem::Problem;
use crate::topology::{self, IrqLine, Object, Row};

/// The number that requests for the first SMMU carry in its ring.
const SMMU0_REGION: u16 = 0;
/// `SMMU_CMDQ_PROD` and, in page 1, `SMMU_EVENTQ_CONS` (IHI 0070 section 6.3): the guest alone writes these two.
const GUEST_OWNED: [u32; 2] = [0x0098, 0x1_00ac];

/// The configuration messages of one generation.
#[derive(Debug, Clone)]
pub struct Configs {
    vcpu: VcpuConfig,
    smmu0: SmmuConfig,
}

/// The guest's RAM: one region from the machine's base.
pub fn ram_layout(memory_len: u64) -> Result<RamLayout, Problem> {
    RamLayout::new(vec![RamRegion { gpa: Gpa(layout::RAM_BASE), len: memory_len, file_offset: 0 }])
        .map_err(|rule| Problem::usage(rule, "memory", "give another size"))
}

impl Configs {
    /// The messages for a machine of `memory_len` bytes that starts at `boot`.
    pub fn new(
        vcpu_count: u16,
        ram: &RamLayout,
        smmu: &config::SmmuModel,
        boot: BootInfo,
    ) -> Result<Self, Problem> {
        Ok(Self {
            vcpu: VcpuConfig {
                machine: layout::MACHINE_NAME.to_owned(),
                vcpu_count: u32::from(vcpu_count),
                ram: ram.clone(),
                entry: Gpa(boot.entry),
                fdt: Gpa(boot.fdt),
                devices: vec![RemoteMmio {
                    name: topology::SMMU0.to_owned(),
                    region: SMMU0_REGION,
                    base: Gpa(layout::SMMU0.base),
                    len: layout::SMMU0.len,
                    ring_fd: vcpu_fd(Object::Ring(topology::SMMU0))?,
                    page: Some(RemotePage {
                        fd: vcpu_fd(Object::RegisterPage(topology::SMMU0))?,
                        guest_owned: GUEST_OWNED.to_vec(),
                        posted: GUEST_OWNED.to_vec(),
                    }),
                    irqs: vec![
                        irq(IrqLine::EventQueue, layout::spi::SMMU0_EVENTQ)?,
                        irq(IrqLine::GlobalError, layout::spi::SMMU0_GERROR)?,
                        irq(IrqLine::CommandSync, layout::spi::SMMU0_CMD_SYNC)?,
                    ],
                }],
            },
            smmu0: SmmuConfig {
                name: topology::SMMU0.to_owned(),
                region: SMMU0_REGION,
                base: Gpa(layout::SMMU0.base),
                len: layout::SMMU0.len,
                ram: ram.clone(),
                model: smmu_model(smmu),
            },
        })
    }

    /// The message for the process of `row`.
    pub fn of(&self, row: &Row) -> Result<RoleConfig, Fault> {
        match row.name {
            topology::VCPU => Ok(RoleConfig::Vcpu(self.vcpu.clone())),
            topology::SMMU0 => Ok(RoleConfig::Smmu(self.smmu0.clone())),
            other => Err(Fault::Refused(bug(format!("process {other} has no configuration")))),
        }
    }
}

fn smmu_model(model: &config::SmmuModel) -> SmmuModel {
    SmmuModel {
        profile: SmmuModel::default().profile,
        stream_id_bits: model.stream_id_bits,
        substream_id_bits: model.ssid_bits,
        output_bits: model.oas_bits,
        granule_4k: model.granules.k4,
        granule_16k: model.granules.k16,
        granule_64k: model.granules.k64,
        range_invalidation: model.range_invalidation,
        stream_table_2_level: model.stream_table_levels == 2,
    }
}

fn irq(line: IrqLine, spi: u32) -> Result<RemoteIrq, Problem> {
    Ok(RemoteIrq { fd: vcpu_fd(Object::Irq(topology::SMMU0, line))?, spi })
}

fn vcpu_fd(object: Object) -> Result<u8, Problem> {
    topology::row(topology::VCPU)
        .and_then(|row| row.number_of(object))
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| bug(format!("the vCPU process does not hold {object:?}")))
}

fn bug(what: String) -> Problem {
    Problem::host(what, "topology", "report this as a bug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_configs_cover_every_row_and_name_its_descriptors() {
        let ram = ram_layout(1 << 29).unwrap();
        let boot = BootInfo { entry: layout::RAM_BASE, fdt: layout::RAM_BASE };
        let configs = Configs::new(1, &ram, &config::SmmuModel::default(), boot).unwrap();
        for row in topology::PROCESSES {
            assert!(configs.of(row).is_ok(), "{}", row.name);
        }
        let device = &configs.vcpu.devices[0];
        let irqs: Vec<_> = device.irqs.iter().map(|irq| (irq.fd, irq.spi)).collect();
        assert_eq!((device.ring_fd, device.page.as_ref().unwrap().fd), (6, 7));
        assert_eq!(irqs, [(8, 3), (9, 4), (10, 5)]);
    }

    #[test]
    fn role_model_default_is_the_contracts_default() {
        assert_eq!(smmu_model(&config::SmmuModel::default()), SmmuModel::default());
    }
}
