// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each process is told about its role: filled from the configuration, the machine's map and the topology.

use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::protocol::control::RoleConfig;
use ipc::protocol::nvme::NvmeConfig;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{Model, SmmuConfig, SmmuDevice};
use ipc::protocol::vcpu::{
    FunctionWindow, RemoteFunction, RemoteIntx, RemoteIrq, RemoteMmio, RemotePage, VcpuConfig,
};
use ipc::protocol::vfio::{self, BarAreas, VfioConfig};
use machine::boot::BootInfo;
use machine::layout;

use super::handover::Handover;
use super::process::Fault;
use crate::problem::Problem;
use crate::topology::{self, DeviceKind, IrqLine, Object, Row, Shape, Side};

/// The number that requests for the first SMMU carry in its ring.
const SMMU0_REGION: u16 = 0;
/// `SMMU_CMDQ_PROD` and, in page 1, `SMMU_EVENTQ_CONS` (IHI 0070 section 6.3): the guest alone writes these two.
const GUEST_OWNED: [u32; 2] = [0x0098, 0x1_00ac];

/// Bytes in a logical block of our own disks: an image is a whole number of them.
pub const NVME_BLOCK_LEN: u32 = 512;

/// The configuration messages of one generation.
#[derive(Debug, Clone)]
pub struct Configs {
    vcpu: VcpuConfig,
    smmu0: SmmuConfig,
    vfio: Vec<VfioConfig>,
    nvme: Vec<NvmeConfig>,
}

/// A device number on the guest's bus 0, and what of the address map comes with it.
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

    fn function(
        &self,
        name: &'static str,
        numbers: Numbers<'_>,
        host_device: Option<u64>,
    ) -> Result<RemoteFunction, Problem> {
        let named = |object: fn(&'static str) -> Object| numbers.vcpu(object(name));
        Ok(RemoteFunction {
            name: name.to_owned(),
            bdf: self.bdf,
            ring_fd: named(Object::Ring)?,
            windows: vec![
                FunctionWindow { region: vfio::CONFIG_REGION, range: self.config },
                FunctionWindow { region: vfio::AREA32_REGION, range: self.areas.memory32 },
                FunctionWindow { region: vfio::AREA64_REGION, range: self.areas.memory64 },
                FunctionWindow { region: vfio::IO_REGION, range: self.areas.io },
            ],
            msi_board_fd: named(Object::MsiBoard)?,
            msi_doorbell_fd: named(Object::MsiDoorbell)?,
            bus_fd: named(|name| Object::Bus(name, Side::Peer))?,
            intx: RemoteIntx {
                raised_fd: named(Object::Intx)?,
                ended_fd: named(Object::IntxEnd)?,
                spi: layout::spi::pci_inta(self.slot),
            },
            host_device,
        })
    }

    fn vfio(&self, name: &str, ram: RamLayout, direct_dma: bool, model: Model) -> VfioConfig {
        VfioConfig {
            name: name.to_owned(),
            bdf: self.bdf,
            stream: self.stream(),
            areas: self.areas,
            doorbell: Gpa(layout::GITS_TRANSLATER),
            ram,
            direct_dma,
            model,
        }
    }
}

/// The guest's RAM: one region from the machine's base.
pub fn ram_layout(memory_len: u64) -> Result<RamLayout, Problem> {
    RamLayout::new(vec![RamRegion { gpa: Gpa(layout::RAM_BASE), len: memory_len, file_offset: 0 }])
        .map_err(|rule| Problem::usage(rule, "memory", "give another size"))
}

impl Configs {
    /// The messages for a machine with this RAM that starts at `boot`. `host_device` knows the number of the character device behind
    /// the process of a real device.
    pub fn new(
        handover: &Handover,
        ram: &RamLayout,
        boot: BootInfo,
        host_device: impl Fn(&'static str) -> Result<u64, Problem>,
    ) -> Result<Self, Problem> {
        let shape = handover.shape();
        let numbers = Numbers(&shape);
        let model = handover.smmu;
        let mut functions = Vec::new();
        let mut behind_smmu0 = Vec::new();
        let mut vfio = Vec::new();
        let mut nvme: Vec<NvmeConfig> = Vec::new();
        for (name, device) in topology::VFIO.into_iter().zip(&handover.devices) {
            let slot = PciSlot::new(device.slot)?;
            let real = device.kind == DeviceKind::Real;
            let host_device = real.then(|| host_device(name)).transpose()?;
            functions.push(slot.function(name, numbers, host_device)?);
            let fd = numbers.of(topology::SMMU0, Object::Stage1(name, Side::Peer))?;
            behind_smmu0.push(SmmuDevice { name: name.to_owned(), stream: slot.stream(), fd });
            let disk = device.disk.as_ref();
            nvme.push(NvmeConfig {
                name: topology::NVME.get(nvme.len()).copied().unwrap_or_default().to_owned(),
                serial: disk.and_then(|disk| disk.serial.clone()),
                block_len: NVME_BLOCK_LEN,
                readonly: disk.is_some_and(|disk| disk.readonly),
                image: disk.map(|disk| disk.image_name.clone()).unwrap_or_default(),
            });
            vfio.push(slot.vfio(name, ram.clone(), device.direct_dma, model));
        }
        Ok(Self {
            vcpu: VcpuConfig {
                machine: layout::MACHINE_NAME.to_owned(),
                vcpu_count: u32::from(handover.vcpu_count),
                pmu: handover.pmu,
                ram: ram.clone(),
                entry: Gpa(boot.entry),
                fdt: Gpa(boot.fdt),
                devices: vec![RemoteMmio {
                    name: topology::SMMU0.to_owned(),
                    region: SMMU0_REGION,
                    base: Gpa(layout::SMMU0.base),
                    len: layout::SMMU0.len,
                    ring_fd: numbers.vcpu(Object::Ring(topology::SMMU0))?,
                    page: Some(RemotePage {
                        fd: numbers.vcpu(Object::RegisterPage(topology::SMMU0))?,
                        guest_owned: GUEST_OWNED.to_vec(),
                        posted: GUEST_OWNED.to_vec(),
                    }),
                    irqs: vec![
                        numbers.irq(IrqLine::EventQueue, layout::spi::SMMU0_EVENTQ)?,
                        numbers.irq(IrqLine::GlobalError, layout::spi::SMMU0_GERROR)?,
                        numbers.irq(IrqLine::CommandSync, layout::spi::SMMU0_CMD_SYNC)?,
                    ],
                }],
                functions,
            },
            smmu0: SmmuConfig {
                name: topology::SMMU0.to_owned(),
                region: SMMU0_REGION,
                base: Gpa(layout::SMMU0.base),
                len: layout::SMMU0.len,
                ram: ram.clone(),
                model,
                devices: behind_smmu0,
            },
            vfio,
            nvme,
        })
    }

    /// The message for the process of `row`.
    pub fn of(&self, row: &Row) -> Result<RoleConfig, Fault> {
        match row.name {
            topology::VCPU => Ok(RoleConfig::Vcpu(self.vcpu.clone())),
            topology::SMMU0 => Ok(RoleConfig::Smmu(self.smmu0.clone())),
            name => {
                let vfio = self.vfio.iter().find(|config| config.name == name);
                let vfio = vfio.map(|config| RoleConfig::Vfio(config.clone()));
                let nvme = self.nvme.iter().find(|config| config.name == name);
                let nvme = nvme.map(|config| RoleConfig::Nvme(config.clone()));
                vfio.or(nvme)
                    .ok_or_else(|| Fault::Refused(bug(format!("process {name} has no configuration"))))
            }
        }
    }
}

/// Descriptor numbers in a VM of this shape.
#[derive(Clone, Copy)]
struct Numbers<'a>(&'a Shape);

impl Numbers<'_> {
    fn irq(self, line: IrqLine, spi: u32) -> Result<RemoteIrq, Problem> {
        Ok(RemoteIrq { fd: self.vcpu(Object::Irq(topology::SMMU0, line))?, spi })
    }

    fn vcpu(self, object: Object) -> Result<u8, Problem> {
        self.of(topology::VCPU, object)
    }

    /// The number under which the process called `name` holds `object`.
    fn of(self, name: &str, object: Object) -> Result<u8, Problem> {
        topology::row(name, self.0)
            .and_then(|row| row.number_of(object))
            .and_then(|number| u8::try_from(number).ok())
            .ok_or_else(|| bug(format!("process {name} does not hold {object:?}")))
    }
}

fn bug(what: String) -> Problem {
    Problem::host(what, "topology", "report this as a bug")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::handover::HandedDevice;
    use crate::topology::CpuKind;

    #[test]
    fn role_configs_cover_every_row_and_name_its_descriptors() {
        let ram = ram_layout(1 << 29).unwrap();
        let boot = BootInfo { entry: layout::RAM_BASE, fdt: layout::RAM_BASE };
        let device = |slot| HandedDevice {
            kind: DeviceKind::VfioUser,
            slot,
            direct_dma: slot == 31,
            required: false,
            unreachable: None,
            disk: None,
        };
        let number = |name: &str| if name == topology::VFIO[1] { Ok(0x1234) } else { Err(bug(name.into())) };
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
            devices: vec![device(1), device(31)],
            kernel_name: "Image".into(),
            initramfs_name: String::new(),
        };
        let configs = Configs::new(&handover, &ram, boot, number).unwrap();
        for row in topology::processes(&handover.shape()) {
            assert!(configs.of(row).is_ok(), "{}", row.name);
        }
        assert!(
            configs
                .of(topology::PROCESSES.iter().find(|row| row.name == topology::VFIO[2]).unwrap())
                .is_err()
        );
        let smmu = &configs.vcpu.devices[0];
        let irqs: Vec<_> = smmu.irqs.iter().map(|irq| (irq.fd, irq.spi)).collect();
        assert_eq!((smmu.ring_fd, smmu.page.as_ref().unwrap().fd), (6, 7));
        assert_eq!(irqs, [(8, 3), (9, 4), (10, 5)]);
        let last = &configs.vcpu.functions[1];
        let fds = [last.ring_fd, last.msi_board_fd, last.msi_doorbell_fd, last.bus_fd];
        assert_eq!(fds, [17, 18, 19, 20]);
        assert_eq!(last.intx, RemoteIntx { raised_fd: 21, ended_fd: 22, spi: 11 });
        assert_eq!(last.windows[0].range.start(), Gpa(0x300f_8000));
        assert_eq!(configs.smmu0.devices[1].fd, 11);
        assert_eq!(configs.vfio[1].stream, StreamId(0xf8));
        assert_eq!([configs.vfio[0].direct_dma, configs.vfio[1].direct_dma], [false, true]);
        assert_eq!(configs.vfio[1].areas.memory64.end(), Gpa(1 << 40));
        assert_eq!(configs.vfio[1].areas.io.end(), Gpa(0x0f10_0000));
        assert_eq!(last.host_device, None);
        // A vCPU process on KVM holds one descriptor more, before those of devices.
        let real = HandedDevice { kind: DeviceKind::Real, direct_dma: false, ..device(31) };
        let handover = Handover { cpu: CpuKind::Kvm, devices: vec![device(1), real], ..handover };
        let configs = Configs::new(&handover, &ram, boot, number).unwrap();
        assert_eq!((configs.vcpu.devices[0].ring_fd, configs.vcpu.functions[1].ring_fd), (7, 18));
        let devices: Vec<_> = configs.vcpu.functions.iter().map(|function| function.host_device).collect();
        assert_eq!(devices, [None, Some(0x1234)], "only the file of a real device may be mapped");
    }
}
