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
    /// The program of the process with this name.
    Program(&'static str),
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
}

impl Row {
    /// Its sandbox profile.
    pub fn profile(&self) -> Profile {
        (self.profile)()
    }

    /// The number under which it holds `object`.
    pub fn number_of(&self, object: Object) -> Option<i32> {
        self.fds.iter().find(|row| row.object == object).map(|row| row.number)
    }
}

impl Restart {
    /// As the API shows it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EndsVm => "ends the VM",
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
        fd(6, Object::Program(VCPU), Rights::Execute),
        fd(7, Object::Program(SMMU0), Rights::Execute),
        FdRow { number: 8, object: Object::Initramfs, rights: Rights::Read, optional: true },
    ],
    restart: Restart::EndsVm,
};

/// Everything the coordinator starts, in the order in which the guest is resumed last to first: CPUs stand
/// first, so "pause in order, resume in reverse" keeps the CPUs quiet while devices are not ready.
pub static PROCESSES: &[Row] = &[
    Row {
        name: VCPU,
        role: Role::Vcpu,
        program: "bulkhead-vcpu-soft",
        profile: sandbox::profiles::vcpu_soft,
        fds: &[
            fd(0, Object::Control, Rights::ReadWrite),
            fd(1, Object::CrashPage, Rights::Write),
            fd(2, Object::Log, Rights::Write),
            fd(3, Object::GuestRam, Rights::ReadWrite),
            fd(4, Object::DirtyLog(VCPU), Rights::Write),
            fd(5, Object::Console, Rights::ReadWrite),
            fd(6, Object::Ring(SMMU0), Rights::ReadWrite),
            // The guest's own registers are stored here by the vCPU, all others by the device.
            fd(7, Object::RegisterPage(SMMU0), Rights::ReadWrite),
            fd(8, Object::Irq(SMMU0, IrqLine::EventQueue), Rights::Read),
            fd(9, Object::Irq(SMMU0, IrqLine::GlobalError), Rights::Read),
            fd(10, Object::Irq(SMMU0, IrqLine::CommandSync), Rights::Read),
        ],
        restart: Restart::EndsVm,
    },
    Row {
        name: SMMU0,
        role: Role::Smmu,
        program: "bulkhead-smmu",
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
        ],
        restart: Restart::EndsVm,
    },
];

/// The row of the process called `name`, the coordinator's included.
pub fn row(name: &str) -> Option<&'static Row> {
    std::iter::once(&COORDINATOR).chain(PROCESSES).find(|row| row.name == name)
}

#[cfg(test)]
mod tests;
