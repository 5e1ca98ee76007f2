// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system as one table: every process of a VM, what it runs, what it holds, how it is confined, and what
//! happens when it dies. Nothing else in this crate names a descriptor number.
//!
//! The launcher spawns from the coordinator's row, the coordinator from the others; the sandbox gives a process
//! exactly the descriptors of its row. Tests hold the table against its own rules and against live processes.

use ipc::hello::Role;
use sandbox::Profile;

mod row;
mod size;

use row::fd;
pub use row::{CpuKind, DeviceKind, FdRow, IrqLine, Needed, Object, Restart, Rights, Row, Shape, Side};
pub use size::Size;

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
        restart: Restart::DeviceFails,
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
        restart: Restart::DeviceFails,
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

/// The NVMe controller's process behind the device process called `device`.
pub fn server_of(device: &str) -> Option<&'static str> {
    VFIO.iter().zip(NVME).find_map(|(name, server)| (*name == device).then_some(server))
}

/// The assigned device that a process is for: the one that it is the process of, or the server of.
pub fn device_of(process: &str) -> Option<&'static str> {
    VFIO.into_iter().zip(NVME).find_map(|(name, server)| [name, server].contains(&process).then_some(name))
}

#[cfg(test)]
mod tests;
