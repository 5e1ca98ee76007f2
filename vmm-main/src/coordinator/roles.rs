// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration message of each process, from the VM's configuration, the machine's address map and the system
//! table.

use std::collections::BTreeMap;

use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::instance::InstanceId;
use ipc::protocol::control::RoleConfig;
use ipc::protocol::nvme::NvmeConfig;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{Model, SmmuConfig, SmmuDevice};
use ipc::protocol::vcpu::{FunctionWindow, RemoteFunction, RemoteIrq, RemoteMmio, RemotePage, VcpuConfig};
use ipc::protocol::vfio::{self, BarAreas, IdempotentRegisters, VfioConfig};
use machine::boot::BootInfo;
use machine::layout;

use super::handover::{HandedDevice, Handover};
use crate::problem::Problem;
use crate::system::{DeviceKind, IrqLine, SMMU0, System, Told};

/// The region number of accesses to the first SMMU in its ring.
const SMMU0_REGION: u16 = 0;
/// `SMMU_CMDQ_PROD` and, in page 1, `SMMU_EVENTQ_CONS` (IHI 0070 section 6.3): the guest alone writes these two.
const GUEST_OWNED: [u32; 2] = [0x0098, 0x1_00ac];

/// Bytes in a logical block of our own NVMe disks; an image is a multiple of it.
pub const NVME_BLOCK_LEN: u32 = 512;

/// The configuration messages of one generation.
#[derive(Debug, Clone)]
pub struct Configs(BTreeMap<InstanceId, RoleConfig>);

/// A device number on the guest's bus 0, and its part of the address map.
#[derive(Debug, Clone, Copy)]
struct PciSlot {
    slot: u8,
    bdf: Bdf,
    config: GpaRange,
    areas: BarAreas,
}

impl PciSlot {
    fn new(slot: u8) -> Result<Self, Problem> {
        let window = |window: layout::Window| {
            GpaRange::new(Gpa(window.base), window.len)
                .ok_or_else(|| bug(format!("slot {slot} is outside the address map")))
        };
        Ok(Self {
            slot,
            bdf: Bdf(u16::from(slot) << 3),
            config: window(layout::pci_config(slot))?,
            areas: BarAreas {
                memory32: window(layout::pci_area32(slot))?,
                memory64: window(layout::pci_area64(slot))?,
                io: window(layout::pci_area_io(slot))?,
                io_base: Gpa(layout::PCI_IO.base),
            },
        })
    }

    /// The device tree's `iommu-map` and `msi-map` give every function its requester id.
    fn stream(&self) -> StreamId {
        StreamId(self.bdf.0.into())
    }

    fn function(&self, peer: InstanceId, host_device: Option<u64>, has_next_life: bool) -> RemoteFunction {
        RemoteFunction {
            peer,
            bdf: self.bdf,
            windows: vec![
                FunctionWindow { region: vfio::CONFIG_REGION, range: self.config },
                FunctionWindow { region: vfio::AREA32_REGION, range: self.areas.memory32 },
                FunctionWindow { region: vfio::AREA64_REGION, range: self.areas.memory64 },
                FunctionWindow { region: vfio::IO_REGION, range: self.areas.io },
            ],
            intx_spi: layout::spi::pci_inta(self.slot),
            host_device,
            has_next_life,
        }
    }

    fn vfio(&self, id: InstanceId, ram: RamLayout, device: &HandedDevice, model: Model) -> VfioConfig {
        VfioConfig {
            id,
            bdf: self.bdf,
            stream: self.stream(),
            areas: self.areas,
            doorbell: Gpa(layout::GITS_TRANSLATER),
            ram,
            direct_dma: device.direct_dma,
            model,
            // A foreign server, with one connection.
            keeps_server: device.kind == DeviceKind::VfioUser,
            next_life: device.comes_back().then(|| match device.kind {
                DeviceKind::Nvme => IdempotentRegisters::nvme(),
                DeviceKind::VfioUser | DeviceKind::Physical => IdempotentRegisters::none(),
            }),
        }
    }
}

/// The guest's RAM: one region from the machine's base.
pub fn ram_layout(memory_len: u64) -> Result<RamLayout, Problem> {
    RamLayout::new(vec![RamRegion { gpa: Gpa(layout::RAM_BASE), len: memory_len, file_offset: 0 }])
        .map_err(|rule| Problem::usage(rule, "memory", "give another size"))
}

impl Configs {
    /// The messages for the processes of `system` in a machine with this RAM that starts at `boot`. `host_device`
    /// returns the number (`st_rdev`) of the character device of a physical device.
    pub fn new(
        system: &System,
        handover: &Handover,
        ram: &RamLayout,
        boot: BootInfo,
        host_device: impl Fn(InstanceId) -> Result<u64, Problem>,
    ) -> Result<Self, Problem> {
        let mut functions = Vec::new();
        let mut behind_smmu0 = Vec::new();
        for (id, device) in handover.named() {
            let slot = PciSlot::new(device.slot)?;
            let physical = device.kind == DeviceKind::Physical;
            let host_device = physical.then(|| host_device(id)).transpose()?;
            functions.push(slot.function(id, host_device, device.comes_back()));
            behind_smmu0.push(SmmuDevice { peer: id, stream: slot.stream() });
        }
        let device_of = |id: InstanceId| {
            let device = handover.devices.get(usize::from(id.index));
            device.ok_or_else(|| bug(format!("process {id} has no device")))
        };
        let config = |id: InstanceId, told: Told| {
            Ok(match told {
                Told::Cpus => RoleConfig::Vcpu(cpus(handover, ram, boot, functions.clone())),
                Told::Smmu => RoleConfig::Smmu(smmu(id, handover, ram, behind_smmu0.clone())),
                Told::Function => {
                    let device = device_of(id)?;
                    let slot = PciSlot::new(device.slot)?;
                    RoleConfig::Vfio(slot.vfio(id, ram.clone(), device, handover.smmu))
                }
                Told::Nvme => RoleConfig::Nvme(nvme(id, device_of(id)?)),
                Told::Nothing => RoleConfig::Nothing,
                Told::Migration => return Err(bug(format!("process {id} is configured for each migration"))),
            })
        };
        let all = system
            .processes()
            .iter()
            .map(|process| Ok((process.id, config(process.id, process.template.told)?)));
        Ok(Self(all.collect::<Result<_, Problem>>()?))
    }

    /// The message for the process `id`.
    pub fn of(&self, id: InstanceId) -> Result<RoleConfig, Problem> {
        self.0.get(&id).cloned().ok_or_else(|| bug(format!("process {id} has no configuration")))
    }
}

fn cpus(handover: &Handover, ram: &RamLayout, boot: BootInfo, functions: Vec<RemoteFunction>) -> VcpuConfig {
    VcpuConfig {
        machine: layout::MACHINE_NAME.to_owned(),
        vcpu_count: u32::from(handover.vcpu_count),
        pmu: handover.pmu,
        ram: ram.clone(),
        entry: Gpa(boot.entry),
        fdt: Gpa(boot.fdt),
        devices: vec![RemoteMmio {
            peer: SMMU0,
            region: SMMU0_REGION,
            base: Gpa(layout::SMMU0.base),
            len: layout::SMMU0.len,
            page: Some(RemotePage { guest_owned: GUEST_OWNED.to_vec(), posted: GUEST_OWNED.to_vec() }),
            irqs: vec![
                RemoteIrq { line: IrqLine::EventQueue, spi: layout::spi::SMMU0_EVENTQ },
                RemoteIrq { line: IrqLine::GlobalError, spi: layout::spi::SMMU0_GERROR },
                RemoteIrq { line: IrqLine::CommandSync, spi: layout::spi::SMMU0_CMD_SYNC },
            ],
        }],
        functions,
    }
}

fn smmu(id: InstanceId, handover: &Handover, ram: &RamLayout, devices: Vec<SmmuDevice>) -> SmmuConfig {
    SmmuConfig {
        id,
        region: SMMU0_REGION,
        base: Gpa(layout::SMMU0.base),
        len: layout::SMMU0.len,
        ram: ram.clone(),
        model: handover.smmu,
        devices,
    }
}

fn nvme(id: InstanceId, device: &HandedDevice) -> NvmeConfig {
    let disk = device.disk.as_ref();
    NvmeConfig {
        id,
        serial: disk.and_then(|disk| disk.serial.clone()),
        block_len: NVME_BLOCK_LEN,
        readonly: disk.is_some_and(|disk| disk.readonly),
        image: disk.map(|disk| disk.image_name.clone()).unwrap_or_default(),
    }
}

fn bug(what: String) -> Problem {
    Problem::host(what, "system table", "report this as a bug")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{CpuKind, VCPU, device};
    use ipc::slot::SlotKind::{self, FunctionLink, Intx, IntxEnd, MsiBoard, MsiDoorbell, Ring};

    #[test]
    fn role_configs_cover_every_process_and_name_its_peers() {
        let ram = ram_layout(1 << 29).unwrap();
        let boot = BootInfo { entry: layout::RAM_BASE, fdt: layout::RAM_BASE };
        let handed = |slot| HandedDevice {
            kind: DeviceKind::VfioUser,
            slot,
            direct_dma: slot == 31,
            required: false,
            unreachable: None,
            disk: None,
            restart: crate::config::RestartPolicy::Always,
            restarts: 5,
        };
        let number = |id: InstanceId| if id == device(1) { Ok(0x1234) } else { Err(bug(id.to_string())) };
        let handover = Handover {
            name: "vm".into(),
            cmdline: String::new(),
            memory_len: 1 << 29,
            vcpu_count: 1,
            pmu: true,
            cpu: CpuKind::Soft,
            initramfs: false,
            json_log: false,
            on_reset: crate::config::OnReset::Reboot,
            smmu: Model::default(),
            smmu_restart: crate::config::RestartPolicy::Always,
            smmu_restarts: 5,
            hang_deadline: 10,
            devices: vec![handed(1), handed(31)],
            kernel_name: "Image".into(),
            initramfs_name: String::new(),
            receive: None,
        };
        let system = System::new(&handover.shape());
        let configs = Configs::new(&system, &handover, &ram, boot, number).unwrap();
        for process in system.processes() {
            assert!(configs.of(process.id).is_ok(), "{}", process.id);
        }
        assert!(configs.of(device(2)).is_err());
        // What each is told of another process, it shares with it.
        let holds = |holder: InstanceId, kind: SlotKind, peer: InstanceId| {
            assert!(
                system.get(holder).unwrap().number(&kind.of(peer)).is_some(),
                "{holder}: {kind} of {peer}"
            );
        };
        let RoleConfig::Vcpu(cpus) = configs.of(VCPU).unwrap() else { panic!("another role's") };
        let RoleConfig::Smmu(smmu0) = configs.of(SMMU0).unwrap() else { panic!("another role's") };
        let vfio = [0, 1].map(|index| match configs.of(device(index)).unwrap() {
            RoleConfig::Vfio(config) => config,
            other => panic!("{other:?}"),
        });
        let smmu = &cpus.devices[0];
        holds(VCPU, SlotKind::Ring, smmu.peer);
        holds(VCPU, SlotKind::RegisterPage, smmu.peer);
        smmu.irqs.iter().for_each(|irq| holds(VCPU, SlotKind::Irq(irq.line), smmu.peer));
        assert_eq!(smmu.irqs.iter().map(|irq| irq.spi).collect::<Vec<_>>(), [3, 4, 5]);
        for function in &cpus.functions {
            for kind in [Ring, MsiBoard, MsiDoorbell, FunctionLink, Intx, IntxEnd] {
                holds(VCPU, kind, function.peer);
            }
        }
        smmu0.devices.iter().for_each(|behind| holds(SMMU0, SlotKind::Stage1, behind.peer));
        let last = &cpus.functions[1];
        assert_eq!((last.peer, smmu0.devices[1].peer, last.intx_spi), (device(1), device(1), 11));
        assert_eq!(last.windows[0].range.start(), Gpa(0x300f_8000));
        assert_eq!(vfio[1].stream, StreamId(0xf8));
        assert_eq!([vfio[0].direct_dma, vfio[1].direct_dma], [false, true]);
        assert!(vfio[0].keeps_server, "who started it is not of this VM");
        assert_eq!(vfio[1].areas.memory64.end(), Gpa(1 << 40));
        assert_eq!(vfio[1].areas.io.end(), Gpa(0x0f10_0000));
        assert_eq!(last.host_device, None);
        let physical = HandedDevice { kind: DeviceKind::Physical, direct_dma: false, ..handed(31) };
        let handover = Handover { cpu: CpuKind::Kvm, devices: vec![handed(1), physical], ..handover };
        let system = System::new(&handover.shape());
        let configs = Configs::new(&system, &handover, &ram, boot, number).unwrap();
        let RoleConfig::Vcpu(cpus) = configs.of(VCPU).unwrap() else { panic!("another role's") };
        let devices: Vec<_> = cpus.functions.iter().map(|function| function.host_device).collect();
        assert_eq!(devices, [None, Some(0x1234)], "only the file of a physical device may be mapped");
        let RoleConfig::Vfio(config) = configs.of(device(1)).unwrap() else { panic!("another role's") };
        assert_eq!(config.next_life, Some(IdempotentRegisters::none()), "of its BARs nothing is known");
        let server = |direct_dma| HandedDevice { direct_dma, ..handed(1) };
        let disk = HandedDevice { kind: DeviceKind::Nvme, ..server(false) };
        let physical = HandedDevice { kind: DeviceKind::Physical, ..server(false) };
        let never = HandedDevice { restart: crate::config::RestartPolicy::Never, ..disk.clone() };
        for (device, restarts) in [
            (disk, Some(5)),
            (never, None),
            (server(false), Some(5)),
            // What it was given of the guest's memory nobody would take back.
            (server(true), None),
            (physical, Some(5)),
        ] {
            let handover = Handover { devices: vec![device], ..handover.clone() };
            assert_eq!(handover.restarts_of(crate::system::device(0)), restarts, "{:?}", handover.devices);
        }
    }
}
