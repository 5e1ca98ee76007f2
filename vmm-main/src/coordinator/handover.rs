// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the launcher tells the coordinator: the checked configuration without the paths, in a sealed memory file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::smmu::Model;
use machine::boot::{BootError, BootFile};
use serde::{Deserialize, Serialize};

use crate::config::{Behind, Disk, OnReset, RestartPolicy, VmConfig};
use crate::printable;
use crate::problem::Problem;
use crate::system::{self, CpuKind, DeviceKind, Restart, Shape, Template};

/// Longest handover: a command line and a page of numbers.
const HANDOVER_LEN_MAX: u64 = 64 * 1024;

/// The coordinator's configuration; files and connections come as descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// Name of the VM.
    pub name: String,
    /// Kernel command line.
    pub cmdline: String,
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Number of virtual CPUs.
    pub vcpu_count: u16,
    /// What executes guest code.
    pub cpu: CpuKind,
    /// Whether the guest has performance monitors.
    pub pmu: bool,
    /// Whether the guest is given one.
    pub initramfs: bool,
    /// Log as JSON lines.
    pub json_log: bool,
    /// What a guest reset does.
    pub on_reset: OnReset,
    /// The SMMU model.
    pub smmu: Model,
    /// What the death of its process comes to.
    pub smmu_restart: RestartPolicy,
    /// How many deaths of it within a minute are survived.
    pub smmu_restarts: u32,
    /// After how many seconds a process that does not make progress counts as hung; 0: never.
    pub hang_deadline: u32,
    /// The assigned devices, in order.
    pub devices: Vec<HandedDevice>,
    /// The kernel's name in messages.
    pub kernel_name: String,
    /// The initramfs's name in messages, if there is one.
    pub initramfs_name: String,
    /// The guest is not booted, but comes from another host.
    pub receive: Option<HandedReceive>,
}

/// How a guest comes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandedReceive {
    /// What both coordinators know, and nobody else.
    pub secret: Vec<u8>,
    /// TLS is spoken, with a host of this name; the files come as descriptors.
    pub tls_peer: Option<String>,
}

impl fmt::Debug for HandedReceive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _, tls_peer } = self;
        f.debug_struct("HandedReceive").field("tls_peer", tls_peer).finish_non_exhaustive()
    }
}

/// An assigned device; what is behind it comes as a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandedDevice {
    /// What is behind it.
    pub kind: DeviceKind,
    /// Its device number on the guest's bus 0.
    pub slot: u8,
    /// Whether its server is given guest RAM while its stream is in bypass.
    pub direct_dma: bool,
    /// Whether the VM ends without it.
    pub required: bool,
    /// Why its server could not be reached at the start, if the VM starts without it.
    pub unreachable: Option<String>,
    /// Its disk, if it is a controller of ours.
    pub disk: Option<HandedDisk>,
    /// What the death of its processes comes to, if they leave what they can be started anew from.
    pub restart: RestartPolicy,
    /// How many deaths of one of them within a minute are survived.
    pub restarts: u32,
}

impl HandedDevice {
    /// Whether its processes are started anew if one dies. That of a server that was given guest memory is not: nobody
    /// would take that back when the guest's tables say so.
    pub fn comes_back(&self) -> bool {
        let can = match self.kind {
            DeviceKind::Nvme | DeviceKind::Physical => true,
            DeviceKind::VfioUser => !self.direct_dma,
        };
        can && self.restart != RestartPolicy::Never
    }
}

/// A disk; its image comes as a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandedDisk {
    /// The image's name in messages.
    pub image_name: String,
    /// The guest cannot write to it.
    pub readonly: bool,
    /// The serial number, if it is not derived from the image.
    pub serial: Option<String>,
}

impl HandedDisk {
    fn of(behind: &Behind) -> Option<Self> {
        let Behind::Nvme(Disk { image, readonly, serial }) = behind else { return None };
        Some(Self { image_name: printable::path(image), readonly: *readonly, serial: serial.clone() })
    }
}

impl Handover {
    /// The shape, which decides the processes of the VM.
    pub fn shape(&self) -> Shape {
        let devices = self.devices.iter().map(|device| device.kind).collect();
        Shape { cpu: self.cpu, initramfs: self.initramfs, devices }
    }

    /// What the death of this process comes to, which is of this template.
    pub fn restart_of(&self, id: InstanceId, template: &Template) -> Restart {
        match (template.restart, self.restarts_of(id)) {
            (Restart::StartsAnew, None) => Restart::EndsVm,
            (Restart::StartsAnew | Restart::DeviceFails, Some(0)) => Restart::Asks,
            (Restart::DeviceFails, Some(_)) => Restart::StartsAnew,
            (restart, _) => restart,
        }
    }

    /// Within which time a process of this name has to make progress; none if it is not asked, as the guest's CPUs are
    /// not: the guest would not survive their end, and they may have been stopped by hand.
    pub fn hang_deadline_of(&self, id: InstanceId) -> Option<Duration> {
        let deadline = Duration::from_secs(self.hang_deadline.into());
        (!deadline.is_zero() && id.role != Role::Vcpu).then_some(deadline)
    }

    /// How many deaths of this process within a minute are followed by another life of it without an order; `None`:
    /// there is none in any case.
    pub fn restarts_of(&self, id: InstanceId) -> Option<u32> {
        match system::device_of(id) {
            Some(device) => {
                let mut found = self.named().filter(|(known, _)| *known == device);
                let (_, device) = found.find(|(_, device)| device.comes_back())?;
                device.restart.limit(device.restarts)
            }
            None if id.role == Role::Smmu => self.smmu_restart.limit(self.smmu_restarts),
            None => None,
        }
    }

    /// The processes of the devices whose servers may be given guest RAM.
    pub fn direct_dma(&self) -> impl Iterator<Item = InstanceId> {
        self.named().filter_map(|(id, device)| device.direct_dma.then_some(id))
    }

    /// Whether the VM ends without the device of this process.
    pub fn requires(&self, id: InstanceId) -> bool {
        self.named().any(|(known, device)| known == id && device.required)
    }

    /// The processes of the devices whose servers could not be reached, and why.
    pub fn unreachable(&self) -> BTreeMap<InstanceId, String> {
        self.named().filter_map(|(id, device)| Some((id, device.unreachable.clone()?))).collect()
    }

    /// The devices with their processes.
    pub fn named(&self) -> impl Iterator<Item = (InstanceId, &HandedDevice)> {
        (0..).map(system::device).zip(&self.devices)
    }

    /// The slots of physical devices: the host's SMMU translates their DMA.
    pub fn nested_slots(&self) -> Vec<u8> {
        let physical = self.devices.iter().filter(|device| device.kind == DeviceKind::Physical);
        physical.map(|device| device.slot).collect()
    }

    /// The handover of `config`, with the kind of CPUs chosen for this host, and the devices whose servers could not be
    /// reached.
    pub fn new(config: &VmConfig, cpu: CpuKind, unreachable: &BTreeMap<InstanceId, String>) -> Self {
        Self {
            name: config.name.clone(),
            cmdline: config.cmdline.clone(),
            memory_len: config.memory_len,
            vcpu_count: config.vcpu_count,
            cpu,
            // Decided here and not by the host the guest runs on: it must find the same after a migration.
            pmu: config.pmu.unwrap_or(cpu == CpuKind::Soft),
            initramfs: config.initramfs.is_some(),
            json_log: config.json_log,
            on_reset: config.on_reset,
            smmu_restart: config.smmu_restart,
            smmu_restarts: config.smmu_restarts,
            hang_deadline: config.hang_deadline,
            smmu: config.smmu,
            devices: (0..)
                .map(system::device)
                .zip(&config.devices)
                .map(|(id, device)| HandedDevice {
                    kind: device.kind(),
                    slot: device.slot,
                    direct_dma: device.direct_dma,
                    disk: HandedDisk::of(&device.behind),
                    required: device.required == Some(true),
                    restart: device.restart,
                    restarts: device.restarts,
                    unreachable: unreachable.get(&id).cloned(),
                })
                .collect(),
            kernel_name: printable::path(&config.kernel),
            initramfs_name: config.initramfs.as_deref().map(printable::path).unwrap_or_default(),
            receive: config.receive.as_ref().map(|receive| HandedReceive {
                secret: receive.secret.clone(),
                tls_peer: receive.tls.as_ref().map(|tls| tls.peer.clone()),
            }),
        }
    }

    /// The problem to report if the guest could not be loaded, with the name of the user's file.
    pub fn not_loaded(&self, error: &BootError) -> Problem {
        let place = match error.file() {
            Some(BootFile::Kernel) => &self.kernel_name,
            Some(BootFile::Initramfs) => &self.initramfs_name,
            None => "guest memory",
        };
        let problem = Problem::usage(error.to_string(), place, error.advice());
        match error {
            BootError::Read { source, .. } => problem.because_of(source),
            _ => problem,
        }
    }

    /// Reads it from the file that the launcher made.
    pub fn read(file: File) -> io::Result<Self> {
        use std::os::unix::fs::FileExt;
        let len = file.metadata()?.len().min(HANDOVER_LEN_MAX);
        let mut bytes = Vec::new();
        // The launcher's writes left the file's shared offset at the end.
        Positioned { file: &file, offset: 0 }.take(len).read_to_end(&mut bytes)?;
        return Ok(serde_json::from_slice(&bytes)?);

        struct Positioned<'a> {
            file: &'a File,
            offset: u64,
        }
        impl Read for Positioned<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = self.file.read_at(buffer, self.offset)?;
                self.offset = self.offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
                Ok(len)
            }
        }
    }
}
