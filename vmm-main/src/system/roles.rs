// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The role templates of a VM: program, confinement, instances, connections, and the consequence of a death.
//!
//! A new role is an entry in [`TEMPLATES`], in the order of pausing: the CPUs first, so that devices get no new work;
//! each device before what it depends on, its server and the vSMMU that records its faults. Resuming is in reverse
//! order. Templates of one `tier` are paused together.

use std::collections::BTreeSet;

use ipc::hello::Role;
use ipc::protocol::function_link::{VECTORS_MAX, WINDOWS_MAX};
use sandbox::{Profile, profiles};

use super::edge::{EdgeKind, IrqLine};
use super::shape::{CpuKind, DeviceKind, Shape};

/// The program of guests on the host's own CPUs.
pub const VCPU_KVM_PROGRAM: &str = "bulkhead-vcpu";
/// The program that checks a host for physical devices, and serves them.
pub const VFIO_KERNEL_PROGRAM: &str = "bulkhead-vfio-kernel";

/// What all processes of one kind have in common.
#[derive(Debug)]
pub struct Template {
    /// The role on the control channel. Templates of one role have instances with different indexes.
    pub role: Role,
    /// The program, in the folder of `bulkhead`.
    pub program: &'static str,
    /// Makes the sandbox profile.
    profile: fn() -> Profile,
    /// The consequence if a process of it dies.
    pub restart: Restart,
    /// Processes of one tier are paused together, lower tiers first.
    pub tier: u8,
    /// The kind of its configuration message.
    pub told: Told,
    /// Which instances a VM of this shape has.
    pub indexes: fn(&Shape) -> Vec<u8>,
    /// The edges of each, in groups that templates share.
    pub links: &'static [&'static [Link]],
    /// The growth of its limits, if any.
    pub growth: Option<Growth>,
}

/// The kind of a configuration message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The guest's CPUs, and every device that they may access.
    Cpus,
    /// A vSMMUv3, and what is behind it.
    Smmu,
    /// A PCI function.
    Function,
    /// An NVMe controller.
    Nvme,
    /// One end of a migration, which the coordinator makes for each.
    Migration,
    /// None: its descriptors say all. So it is for the coordinator, whose configuration is one of them.
    Nothing,
}

/// What the coordinator does if a process dies unexpectedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The VM ends with a report.
    EndsVm,
    /// Its next life goes on from its checkpoint while the guest runs; if it dies too often, as with `Asks`.
    StartsAnew,
    /// The guest is held until somebody orders its next life, which goes on from its checkpoint.
    Asks,
    /// The VM goes on without the device that the process served: its registers read as all ones.
    DeviceFails,
    /// The migration that it was started for is over; what becomes of the VM is as with any lost connection.
    MigrationFails,
}

/// An edge that every instance of a template has.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// What connects the two.
    pub kind: EdgeKind,
    /// The other end.
    pub peer: Peer,
}

/// The other end of an edge, as a template names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The parent: of the coordinator the launcher, of all others the coordinator.
    Parent,
    /// The launcher, through the coordinator.
    Launcher,
    /// The vCPU process.
    Vcpu,
    /// The vSMMU that the device is behind.
    Smmu,
    /// The server behind the device of the same index: a process of this VM, or a foreign one, to which the launcher
    /// connects.
    Server,
}

/// The growth of limits for each edge of one kind that another process has with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// The kind.
    pub per: EdgeKind,
    /// Descriptors that the process makes or is sent.
    pub nofile_count: u64,
    /// Threads.
    pub nproc_count: u64,
}

impl Template {
    /// The edges of each instance, in the order of its descriptors.
    pub fn links(&self) -> impl Iterator<Item = &'static Link> {
        COMMON.iter().chain(self.links.iter().copied().flatten())
    }

    /// Its sandbox profile, as it is for the smallest VM, with the numbers of the descriptors that its rules are about.
    /// The coordinator's filter also covers all processes that it starts: there the numbers are theirs.
    pub fn profile(&self) -> Profile {
        let holders = if self.role == Role::Coordinator { children().collect() } else { vec![self] };
        (self.profile)().with_numbers(|slot| {
            let numbers: BTreeSet<u32> =
                holders.iter().copied().filter_map(|holder| holder.number(slot)).collect();
            numbers.into_iter().collect()
        })
    }

    /// The number, in every instance, of a descriptor of one of its own edges; those of other instances' edges come
    /// after.
    pub fn number(&self, slot: &str) -> Option<u32> {
        let objects = self.links().flat_map(|link| link.kind.spec().objects);
        let place = objects.filter_map(|object| object.owner).position(|end| end.slot.as_str() == slot);
        place.and_then(|place| u32::try_from(place).ok())
    }
}

impl Restart {
    /// The text in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndsVm => "ends the VM",
            Self::StartsAnew => "starts anew",
            Self::Asks => "the guest is held",
            Self::DeviceFails => "its device fails",
            Self::MigrationFails => "its migration fails",
        }
    }
}

const fn to(peer: Peer, kind: EdgeKind) -> Link {
    Link { kind, peer }
}

/// The edges of every process.
pub static COMMON: [Link; 4] = [
    to(Peer::Parent, EdgeKind::Control),
    to(Peer::Parent, EdgeKind::CrashPage),
    to(Peer::Parent, EdgeKind::Log),
    to(Peer::Launcher, EdgeKind::Program),
];

/// The coordinator: started by the launcher, parent of all others.
pub static COORDINATOR: Template = Template {
    role: Role::Coordinator,
    program: "bulkhead",
    profile: profiles::coordinator,
    restart: Restart::EndsVm,
    tier: 0,
    told: Told::Nothing,
    indexes: |_| vec![0],
    links: &[&[
        to(Peer::Launcher, EdgeKind::Handover),
        to(Peer::Launcher, EdgeKind::Kernel),
        to(Peer::Launcher, EdgeKind::Initramfs),
    ]],
    growth: None,
};

/// The mover: started for a migration, and ended after it; no part of a guest that runs.
pub static MOVER: Template = Template {
    role: Role::Mover,
    program: "bulkhead-mover",
    profile: profiles::mover,
    restart: Restart::MigrationFails,
    tier: 0,
    told: Told::Migration,
    indexes: |_| vec![],
    links: &[&[to(Peer::Parent, EdgeKind::CarriedRam), to(Peer::Parent, EdgeKind::OwedMap)]],
    growth: None,
};

/// The templates of all processes that the coordinator may start.
pub fn children() -> impl Iterator<Item = &'static Template> {
    TEMPLATES.iter().chain([&MOVER])
}

/// Guest RAM, which the process maps and writes, and its dirty log.
const RAM: [Link; 2] = [to(Peer::Parent, EdgeKind::Ram), to(Peer::Parent, EdgeKind::DirtyLog)];

/// A PCI function, whatever does its DMA.
const FUNCTION: [Link; 5] = [
    to(Peer::Vcpu, EdgeKind::Ring),
    to(Peer::Smmu, EdgeKind::Stage1),
    to(Peer::Vcpu, EdgeKind::Vectors),
    to(Peer::Vcpu, EdgeKind::FunctionLink),
    to(Peer::Vcpu, EdgeKind::Pin),
];

/// The templates of all processes that the coordinator starts, in the order of pausing.
pub static TEMPLATES: [Template; 6] = [
    Template {
        role: Role::Vcpu,
        program: "bulkhead-vcpu-soft",
        profile: profiles::vcpu_soft,
        restart: Restart::EndsVm,
        tier: 0,
        told: Told::Cpus,
        indexes: |shape| if shape.cpu == CpuKind::Soft { vec![0] } else { vec![] },
        links: &[&RAM, &[to(Peer::Launcher, EdgeKind::Console)]],
        // For each of two lives of its process a descriptor for each window; the channel to the second; the threads of
        // both.
        growth: Some(Growth {
            per: EdgeKind::FunctionLink,
            nofile_count: 2 * WINDOWS_MAX as u64 + 1,
            nproc_count: 2,
        }),
    },
    Template {
        role: Role::Vcpu,
        program: VCPU_KVM_PROGRAM,
        profile: profiles::vcpu_kvm,
        restart: Restart::EndsVm,
        tier: 0,
        told: Told::Cpus,
        indexes: |shape| if shape.cpu == CpuKind::Kvm { vec![0] } else { vec![] },
        links: &[&RAM, &[to(Peer::Launcher, EdgeKind::Console), to(Peer::Launcher, EdgeKind::Kvm)]],
        // The same, and a descriptor for each vector.
        growth: Some(Growth {
            per: EdgeKind::FunctionLink,
            nofile_count: 2 * WINDOWS_MAX as u64 + 1 + VECTORS_MAX as u64,
            nproc_count: 2,
        }),
    },
    Template {
        role: Role::Vfio,
        program: "bulkhead-vfio",
        profile: profiles::vfio,
        restart: Restart::DeviceFails,
        tier: 1,
        told: Told::Function,
        indexes: |shape| shape.indexes(|kind| kind != DeviceKind::Physical),
        links: &[
            &RAM,
            &FUNCTION,
            &[to(Peer::Parent, EdgeKind::Checkpoint), to(Peer::Server, EdgeKind::VfioUser)],
        ],
        growth: None,
    },
    Template {
        role: Role::Vfio,
        program: VFIO_KERNEL_PROGRAM,
        profile: profiles::vfio_kernel,
        restart: Restart::DeviceFails,
        tier: 1,
        told: Told::Function,
        indexes: |shape| shape.indexes(|kind| kind == DeviceKind::Physical),
        links: &[
            &[to(Peer::Parent, EdgeKind::PinnedRam), to(Peer::Parent, EdgeKind::DirtyLog)],
            &FUNCTION,
            &[
                to(Peer::Parent, EdgeKind::Checkpoint),
                to(Peer::Launcher, EdgeKind::PhysicalDevice),
                to(Peer::Launcher, EdgeKind::Iommufd),
            ],
        ],
        growth: None,
    },
    Template {
        role: Role::Nvme,
        program: "bulkhead-nvme",
        profile: profiles::nvme,
        restart: Restart::DeviceFails,
        tier: 2,
        told: Told::Nvme,
        indexes: |shape| shape.indexes(|kind| kind == DeviceKind::Nvme),
        links: &[&[to(Peer::Launcher, EdgeKind::Image), to(Peer::Parent, EdgeKind::Checkpoint)]],
        growth: None,
    },
    Template {
        role: Role::Smmu,
        program: "bulkhead-smmu",
        profile: profiles::smmu,
        restart: Restart::StartsAnew,
        tier: 3,
        told: Told::Smmu,
        indexes: |_| vec![0],
        links: &[
            &RAM,
            &[
                to(Peer::Parent, EdgeKind::Checkpoint),
                to(Peer::Vcpu, EdgeKind::Ring),
                to(Peer::Vcpu, EdgeKind::RegisterPage),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::EventQueue)),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::GlobalError)),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::CommandSync)),
            ],
        ],
        // For each of two lives of the device's process a thread; the channel to the second.
        growth: Some(Growth { per: EdgeKind::Stage1, nofile_count: 1, nproc_count: 2 }),
    },
];
