// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the table of processes is written in: objects, rights, rows.

use ipc::hello::Role;
use sandbox::Profile;

use super::row;

/// Something a process may hold at exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// The channel to whoever started it.
    Control,
    /// Where it leaves word of its own death.
    CrashPage,
    /// Where its log lines go.
    Log,
    /// The configuration, from launcher to coordinator.
    Handover,
    /// The guest's kernel.
    Kernel,
    /// The guest's initramfs.
    Initramfs,
    /// The program with this name, in the folder of `bulkhead`.
    Program(&'static str),
    /// What is behind the assigned device with this name: its image, a connection to its server, or a real device's own
    /// file. Something empty if the VM has no such device.
    DeviceSource(&'static str),
    /// The iommufd of the real device with this name, its alone. Something empty if the VM has no such device.
    Iommufd(&'static str),
    /// The host's KVM: `/dev/kvm`, opened. Something empty if the VM's CPUs are software.
    Kvm,
    /// The guest's serial line: the process's end of a stream socket pair.
    Console,
    /// The guest's memory.
    GuestRam,
    /// The dirty log of the process with this name.
    DirtyLog(&'static str),
    /// The MMIO ring to the device process with this name.
    Ring(&'static str),
    /// The register page of the device process with this name.
    RegisterPage(&'static str),
    /// A wired interrupt of the device process with this name.
    Irq(&'static str, IrqLine),
    /// The stage 1 channel between a vSMMU and the device process with this name.
    Stage1(&'static str, Side),
    /// The connection of the device process with this name to its vfio-user server.
    VfioUser(&'static str, Side),
    /// Pending MSIs of the device process with this name.
    MsiBoard(&'static str),
    /// Says that there are some.
    MsiDoorbell(&'static str),
    /// The device process with this name asserts its function's INTx pin.
    Intx(&'static str),
    /// It is told that the guest has ended that interrupt.
    IntxEnd(&'static str),
    /// The channel on which the device process with this name tells what of its BARs is memory.
    Bus(&'static str, Side),
}

/// The ends of a connection about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The device process's.
    Device,
    /// That of whoever is at the other end: the vSMMU, the server, the vCPU process.
    Peer,
}

/// The wires of an SMMUv3 (IHI 0070 section 3.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IrqLine {
    /// The event queue has something.
    EventQueue,
    /// `SMMU_GERROR` has changed.
    GlobalError,
    /// A CMD_SYNC has completed.
    CommandSync,
}

/// What a process does with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Reads or receives only.
    Read,
    /// Writes or signals only.
    Write,
    /// Both.
    ReadWrite,
    /// Executes, once, to start the process.
    Execute,
}

/// One descriptor of a row.
#[derive(Debug, Clone, Copy)]
pub struct FdRow {
    /// Its number in the process.
    pub number: i32,
    /// What it is.
    pub object: Object,
    /// What for.
    pub rights: Rights,
    /// Whether the process may start without it. Such rows stand last.
    pub optional: bool,
}

/// What the supervisor does when a process dies unexpectedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The VM ends with a report.
    EndsVm,
    /// The VM goes on; the device that the process served has failed, and its guest is told by all ones.
    DeviceFails,
}

/// When a process exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// In every VM.
    Always,
    /// If the VM's CPUs are of this kind.
    ByCpu(CpuKind),
    /// If the VM has more assigned devices than this, and a server is behind this one.
    ByServed(usize),
    /// If that device is a real one.
    ByReal(usize),
    /// If that device is an NVMe controller of ours.
    ByNvme(usize),
}

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CpuKind {
    /// The host's own CPUs, by KVM.
    Kvm,
    /// CPUs in software, on any host.
    Soft,
}

impl CpuKind {
    /// As configuration and API show it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        }
    }
}

/// What decides which processes a VM has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// What executes guest code.
    pub cpu: CpuKind,
    /// The assigned devices, in order.
    pub devices: Vec<DeviceKind>,
}

/// What is behind an assigned device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceKind {
    /// A vfio-user server that somebody else started.
    VfioUser,
    /// An NVMe controller of ours, over an image.
    Nvme,
    /// A real device of the host's, by its kernel.
    Real,
}

/// One process.
#[derive(Debug)]
pub struct Row {
    /// Its name: in the log, the API and the guest's absence of knowledge of it.
    pub name: &'static str,
    /// Its role on the control channel.
    pub role: Role,
    /// Its program, in the folder of `bulkhead`.
    pub program: &'static str,
    /// Makes its sandbox profile.
    pub(super) profile: fn() -> Profile,
    /// Its descriptors, numbered without a gap.
    pub fds: &'static [FdRow],
    /// What happens when it dies.
    pub restart: Restart,
    /// When it exists.
    pub needed: Needed,
}

impl Row {
    /// Its sandbox profile.
    pub fn profile(&self) -> Profile {
        (self.profile)()
    }

    /// Whether a VM of this shape has it.
    pub fn is_needed(&self, shape: &Shape) -> bool {
        match self.needed {
            Needed::Always => true,
            Needed::ByCpu(cpu) => cpu == shape.cpu,
            Needed::ByServed(index) => shape.devices.get(index).is_some_and(|kind| *kind != DeviceKind::Real),
            Needed::ByReal(index) => shape.devices.get(index) == Some(&DeviceKind::Real),
            Needed::ByNvme(index) => shape.devices.get(index) == Some(&DeviceKind::Nvme),
        }
    }

    /// Its descriptors in a VM of this shape: those of devices that are not there stand last and are left out.
    pub fn fds_with(&self, shape: &Shape) -> impl Iterator<Item = &'static FdRow> {
        let absent = |fd: &FdRow| fd.object.owner().is_some_and(|owner| row(owner, shape).is_none());
        let count = self.fds.iter().filter(|fd| !absent(fd)).count();
        self.fds.iter().take(count)
    }

    /// The number under which it holds `object`.
    pub fn number_of(&self, object: Object) -> Option<i32> {
        self.fds.iter().find(|row| row.object == object).map(|row| row.number)
    }
}

impl Object {
    /// The process without which there is no such object, if there is one.
    pub const fn owner(self) -> Option<&'static str> {
        match self {
            Self::DirtyLog(of)
            | Self::Ring(of)
            | Self::RegisterPage(of)
            | Self::Irq(of, _)
            | Self::Stage1(of, _)
            | Self::VfioUser(of, _)
            | Self::MsiBoard(of)
            | Self::MsiDoorbell(of)
            | Self::Intx(of)
            | Self::IntxEnd(of)
            | Self::Bus(of, _) => Some(of),
            Self::Control
            | Self::CrashPage
            | Self::Log
            | Self::Handover
            | Self::Kernel
            | Self::Initramfs
            | Self::Program(_)
            | Self::DeviceSource(_)
            | Self::Iommufd(_)
            | Self::Kvm
            | Self::Console
            | Self::GuestRam => None,
        }
    }
}

impl Restart {
    /// As the API shows it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EndsVm => "ends the VM",
            Self::DeviceFails => "its device fails",
        }
    }
}

/// A descriptor that the process cannot start without.
pub(super) const fn fd(number: i32, object: Object, rights: Rights) -> FdRow {
    FdRow { number, object, rights, optional: false }
}
