// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system as one table: every process of a VM, what it runs, what it holds, how it is confined, and what
//! happens when it dies. Nothing else in this crate names a descriptor number.
//!
//! The launcher spawns from the coordinator's row, the coordinator from the others; the sandbox gives a process
//! exactly the descriptors of its row. Tests hold the table against its own rules and against live processes.

use ipc::hello::Role;
use sandbox::Profile;

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
    profile: fn() -> Profile,
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

const fn fd(number: i32, object: Object, rights: Rights) -> FdRow {
    FdRow { number, object, rights, optional: false }
}

/// The vCPU process's name.
pub const VCPU: &str = "vcpu";
/// The first vSMMU's name.
pub const SMMU0: &str = "smmu0";
/// The names of the processes of assigned devices; as many devices as a VM can have.
pub const VFIO: [&str; 4] = ["vfio0", "vfio1", "vfio2", "vfio3"];
/// The names of the NVMe controllers behind them.
pub const NVME: [&str; 4] = ["nvme0", "nvme1", "nvme2", "nvme3"];
/// The vCPU process's program, with software CPUs.
pub const VCPU_SOFT_PROGRAM: &str = "bulkhead-vcpu-soft";
/// The vCPU process's program, with the host's CPUs.
pub const VCPU_KVM_PROGRAM: &str = "bulkhead-vcpu";
/// A vSMMU's.
pub const SMMU_PROGRAM: &str = "bulkhead-smmu";
/// An assigned device's, with a server behind it.
pub const VFIO_PROGRAM: &str = "bulkhead-vfio";
/// A real device's.
pub const VFIO_KERNEL_PROGRAM: &str = "bulkhead-vfio-kernel";
/// The NVMe controller's.
pub const NVME_PROGRAM: &str = "bulkhead-nvme";

/// The coordinator: started by the launcher, parent of all others.
pub static COORDINATOR: Row = Row {
    name: "coordinator",
    role: Role::Coordinator,
    program: "bulkhead",
    profile: sandbox::profiles::coordinator,
    fds: &[
        fd(0, Object::Control, Rights::ReadWrite),
        fd(1, Object::CrashPage, Rights::Write),
        fd(2, Object::Log, Rights::Write),
        fd(3, Object::Handover, Rights::Read),
        // Only to be handed on: the coordinator never reads what the guest or the user types.
        fd(4, Object::Console, Rights::ReadWrite),
        fd(5, Object::Kernel, Rights::Read),
        fd(6, Object::Program(VCPU_SOFT_PROGRAM), Rights::Execute),
        fd(7, Object::Program(SMMU_PROGRAM), Rights::Execute),
        fd(8, Object::Program(VFIO_PROGRAM), Rights::Execute),
        fd(9, Object::Program(NVME_PROGRAM), Rights::Execute),
        // Only to be handed on, like the console.
        fd(10, Object::DeviceSource(VFIO[0]), Rights::ReadWrite),
        fd(11, Object::DeviceSource(VFIO[1]), Rights::ReadWrite),
        fd(12, Object::DeviceSource(VFIO[2]), Rights::ReadWrite),
        fd(13, Object::DeviceSource(VFIO[3]), Rights::ReadWrite),
        fd(14, Object::Program(VCPU_KVM_PROGRAM), Rights::Execute),
        // Only to be handed on as well: a VM is made by the process that maps its memory.
        fd(15, Object::Kvm, Rights::ReadWrite),
        fd(16, Object::Program(VFIO_KERNEL_PROGRAM), Rights::Execute),
        fd(17, Object::Iommufd(VFIO[0]), Rights::ReadWrite),
        fd(18, Object::Iommufd(VFIO[1]), Rights::ReadWrite),
        fd(19, Object::Iommufd(VFIO[2]), Rights::ReadWrite),
        fd(20, Object::Iommufd(VFIO[3]), Rights::ReadWrite),
        FdRow { number: 21, object: Object::Initramfs, rights: Rights::Read, optional: true },
    ],
    restart: Restart::EndsVm,
    needed: Needed::Always,
};

/// The process of the assigned device `index`, if a server is behind it: it runs the device's DMA.
const fn vfio_row(index: usize, name: &'static str, fds: &'static [FdRow]) -> Row {
    Row {
        name,
        role: Role::Vfio,
        program: VFIO_PROGRAM,
        profile: sandbox::profiles::vfio,
        fds,
        restart: Restart::EndsVm,
        needed: Needed::ByServed(index),
    }
}

/// The descriptors of the process of an assigned device.
macro_rules! vfio_fds {
    ($name:expr) => {
        &[
            fd(0, Object::Control, Rights::ReadWrite),
            fd(1, Object::CrashPage, Rights::Write),
            fd(2, Object::Log, Rights::Write),
            fd(3, Object::GuestRam, Rights::ReadWrite),
            fd(4, Object::DirtyLog($name), Rights::Write),
            fd(5, Object::Ring($name), Rights::ReadWrite),
            fd(6, Object::Stage1($name, Side::Device), Rights::ReadWrite),
            fd(7, Object::VfioUser($name, Side::Device), Rights::ReadWrite),
            fd(8, Object::MsiBoard($name), Rights::Write),
            fd(9, Object::MsiDoorbell($name), Rights::Write),
            fd(10, Object::Bus($name, Side::Device), Rights::ReadWrite),
            fd(11, Object::Intx($name), Rights::Write),
            fd(12, Object::IntxEnd($name), Rights::Read),
        ]
    };
}

/// The process of the assigned device `index`, if it is a real one: the host's IOMMU runs its DMA.
const fn vfio_kernel_row(index: usize, name: &'static str, fds: &'static [FdRow]) -> Row {
    Row {
        name,
        role: Role::Vfio,
        program: VFIO_KERNEL_PROGRAM,
        profile: sandbox::profiles::vfio_kernel,
        fds,
        restart: Restart::EndsVm,
        needed: Needed::ByReal(index),
    }
}

/// The descriptors of the process of a real device. Its profile names five of them by number.
macro_rules! vfio_kernel_fds {
    ($name:expr) => {
        &[
            fd(0, Object::Control, Rights::ReadWrite),
            fd(1, Object::CrashPage, Rights::Write),
            fd(2, Object::Log, Rights::Write),
            // Handed to the kernel and closed: the process may not map it.
            fd(3, Object::GuestRam, Rights::ReadWrite),
            fd(4, Object::DirtyLog($name), Rights::Write),
            fd(5, Object::Ring($name), Rights::ReadWrite),
            fd(6, Object::Stage1($name, Side::Device), Rights::ReadWrite),
            fd(7, Object::DeviceSource($name), Rights::ReadWrite),
            fd(8, Object::MsiBoard($name), Rights::Write),
            fd(9, Object::MsiDoorbell($name), Rights::Write),
            fd(10, Object::Bus($name, Side::Device), Rights::ReadWrite),
            fd(11, Object::Intx($name), Rights::Write),
            fd(12, Object::IntxEnd($name), Rights::Read),
            fd(13, Object::Iommufd($name), Rights::ReadWrite),
        ]
    };
}

/// The NVMe controller behind the assigned device `index`.
const fn nvme_row(index: usize, name: &'static str, fds: &'static [FdRow]) -> Row {
    Row {
        name,
        role: Role::Nvme,
        program: NVME_PROGRAM,
        profile: sandbox::profiles::nvme,
        fds,
        restart: Restart::DeviceFails,
        needed: Needed::ByNvme(index),
    }
}

/// The descriptors of an NVMe controller: no memory of the guest's.
macro_rules! nvme_fds {
    ($index:expr) => {
        &[
            fd(0, Object::Control, Rights::ReadWrite),
            fd(1, Object::CrashPage, Rights::Write),
            fd(2, Object::Log, Rights::Write),
            fd(3, Object::VfioUser(VFIO[$index], Side::Peer), Rights::ReadWrite),
            fd(4, Object::DeviceSource(VFIO[$index]), Rights::ReadWrite),
        ]
    };
}

/// The vCPU process of one kind.
const fn vcpu_row(
    cpu: CpuKind,
    program: &'static str,
    profile: fn() -> Profile,
    fds: &'static [FdRow],
) -> Row {
    Row {
        name: VCPU,
        role: Role::Vcpu,
        program,
        profile,
        fds,
        restart: Restart::EndsVm,
        needed: Needed::ByCpu(cpu),
    }
}

/// The descriptors of the vCPU process: those of its kind, then those of the machine, devices last.
macro_rules! vcpu_fds {
    ($($own:expr)?) => {
        &numbered([
            (Object::Control, Rights::ReadWrite),
            (Object::CrashPage, Rights::Write),
            (Object::Log, Rights::Write),
            (Object::GuestRam, Rights::ReadWrite),
            (Object::DirtyLog(VCPU), Rights::Write),
            (Object::Console, Rights::ReadWrite),
            $(($own, Rights::ReadWrite),)?
            (Object::Ring(SMMU0), Rights::ReadWrite),
            // The guest's own registers are stored here by the vCPU, all others by the device.
            (Object::RegisterPage(SMMU0), Rights::ReadWrite),
            (Object::Irq(SMMU0, IrqLine::EventQueue), Rights::Read),
            (Object::Irq(SMMU0, IrqLine::GlobalError), Rights::Read),
            (Object::Irq(SMMU0, IrqLine::CommandSync), Rights::Read),
            (Object::Ring(VFIO[0]), Rights::ReadWrite),
            (Object::MsiBoard(VFIO[0]), Rights::ReadWrite),
            (Object::MsiDoorbell(VFIO[0]), Rights::Read),
            (Object::Bus(VFIO[0], Side::Peer), Rights::ReadWrite),
            (Object::Intx(VFIO[0]), Rights::Read),
            (Object::IntxEnd(VFIO[0]), Rights::Write),
            (Object::Ring(VFIO[1]), Rights::ReadWrite),
            (Object::MsiBoard(VFIO[1]), Rights::ReadWrite),
            (Object::MsiDoorbell(VFIO[1]), Rights::Read),
            (Object::Bus(VFIO[1], Side::Peer), Rights::ReadWrite),
            (Object::Intx(VFIO[1]), Rights::Read),
            (Object::IntxEnd(VFIO[1]), Rights::Write),
            (Object::Ring(VFIO[2]), Rights::ReadWrite),
            (Object::MsiBoard(VFIO[2]), Rights::ReadWrite),
            (Object::MsiDoorbell(VFIO[2]), Rights::Read),
            (Object::Bus(VFIO[2], Side::Peer), Rights::ReadWrite),
            (Object::Intx(VFIO[2]), Rights::Read),
            (Object::IntxEnd(VFIO[2]), Rights::Write),
            (Object::Ring(VFIO[3]), Rights::ReadWrite),
            (Object::MsiBoard(VFIO[3]), Rights::ReadWrite),
            (Object::MsiDoorbell(VFIO[3]), Rights::Read),
            (Object::Bus(VFIO[3], Side::Peer), Rights::ReadWrite),
            (Object::Intx(VFIO[3]), Rights::Read),
            (Object::IntxEnd(VFIO[3]), Rights::Write),
        ])
    };
}

/// Descriptors numbered from 0 in their order.
#[expect(clippy::indexing_slicing, reason = "a constant function has no iterators; the index is below COUNT")]
const fn numbered<const COUNT: usize>(objects: [(Object, Rights); COUNT]) -> [FdRow; COUNT] {
    let mut rows = [fd(0, Object::Control, Rights::ReadWrite); COUNT];
    let mut index = 0;
    let mut number = 0;
    while index < COUNT {
        let (object, rights) = objects[index];
        rows[index] = fd(number, object, rights);
        index += 1;
        number += 1;
    }
    rows
}

/// Everything the coordinator starts, in the order in which the guest is resumed last to first: CPUs stand
/// first, so "pause in order, resume in reverse" keeps the CPUs quiet while devices are not ready, and assigned devices
/// stand before what they need: their servers, and the vSMMU that records their faults.
pub static PROCESSES: &[Row] = &[
    vcpu_row(CpuKind::Soft, VCPU_SOFT_PROGRAM, sandbox::profiles::vcpu_soft, vcpu_fds!()),
    vcpu_row(CpuKind::Kvm, VCPU_KVM_PROGRAM, sandbox::profiles::vcpu_kvm, vcpu_fds!(Object::Kvm)),
    vfio_row(0, VFIO[0], vfio_fds!(VFIO[0])),
    vfio_row(1, VFIO[1], vfio_fds!(VFIO[1])),
    vfio_row(2, VFIO[2], vfio_fds!(VFIO[2])),
    vfio_row(3, VFIO[3], vfio_fds!(VFIO[3])),
    vfio_kernel_row(0, VFIO[0], vfio_kernel_fds!(VFIO[0])),
    vfio_kernel_row(1, VFIO[1], vfio_kernel_fds!(VFIO[1])),
    vfio_kernel_row(2, VFIO[2], vfio_kernel_fds!(VFIO[2])),
    vfio_kernel_row(3, VFIO[3], vfio_kernel_fds!(VFIO[3])),
    nvme_row(0, NVME[0], nvme_fds!(0)),
    nvme_row(1, NVME[1], nvme_fds!(1)),
    nvme_row(2, NVME[2], nvme_fds!(2)),
    nvme_row(3, NVME[3], nvme_fds!(3)),
    Row {
        name: SMMU0,
        role: Role::Smmu,
        program: SMMU_PROGRAM,
        profile: sandbox::profiles::smmu,
        fds: &[
            fd(0, Object::Control, Rights::ReadWrite),
            fd(1, Object::CrashPage, Rights::Write),
            fd(2, Object::Log, Rights::Write),
            fd(3, Object::GuestRam, Rights::ReadWrite),
            fd(4, Object::DirtyLog(SMMU0), Rights::Write),
            fd(5, Object::Ring(SMMU0), Rights::ReadWrite),
            fd(6, Object::RegisterPage(SMMU0), Rights::ReadWrite),
            fd(7, Object::Irq(SMMU0, IrqLine::EventQueue), Rights::Write),
            fd(8, Object::Irq(SMMU0, IrqLine::GlobalError), Rights::Write),
            fd(9, Object::Irq(SMMU0, IrqLine::CommandSync), Rights::Write),
            fd(10, Object::Stage1(VFIO[0], Side::Peer), Rights::ReadWrite),
            fd(11, Object::Stage1(VFIO[1], Side::Peer), Rights::ReadWrite),
            fd(12, Object::Stage1(VFIO[2], Side::Peer), Rights::ReadWrite),
            fd(13, Object::Stage1(VFIO[3], Side::Peer), Rights::ReadWrite),
        ],
        restart: Restart::EndsVm,
        needed: Needed::Always,
    },
];

/// The processes of a VM of this shape.
pub fn processes(shape: &Shape) -> impl Iterator<Item = &'static Row> {
    PROCESSES.iter().filter(|row| row.is_needed(shape))
}

/// The sandbox profiles of all rows, the coordinator's first.
pub fn profiles() -> impl Iterator<Item = Profile> {
    std::iter::once(&COORDINATOR).chain(PROCESSES).map(Row::profile)
}

/// The row of the process called `name` in a VM of this shape, the coordinator's included.
pub fn row(name: &str, shape: &Shape) -> Option<&'static Row> {
    std::iter::once(&COORDINATOR).chain(processes(shape)).find(|row| row.name == name)
}

#[cfg(test)]
mod tests;
