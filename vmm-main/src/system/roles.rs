// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every role of a VM, once: what it runs, how it is confined, when it exists, what it is connected to, what its death
//! costs.
//!
//! A new role is an entry in [`TEMPLATES`]. It stands in the order of pausing: the CPUs first, so that devices see no
//! new work, and every device before what it needs, its server and the vSMMU that records its faults. Resuming goes the
//! other way round. Templates of one `tier` are asked together.

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
    /// What happens when a process of it dies.
    pub restart: Restart,
    /// Processes of one tier are paused together, lower tiers first.
    pub tier: u8,
    /// What it is told when it is configured, beside what its descriptors say.
    pub told: Told,
    /// Which instances a VM of this shape has.
    pub indexes: fn(&Shape) -> Vec<u8>,
    /// What each has, and with whom, in groups that templates share.
    pub links: &'static [&'static [Link]],
    /// What its limits grow by, if they do.
    pub growth: Option<Growth>,
}

/// What a process is told when it is configured.
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
    /// Nothing: it knows what it is from its descriptors. So is the coordinator, whose configuration is one of them.
    Nothing,
}

/// What the supervisor does when a process dies unexpectedly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The VM ends with a report.
    EndsVm,
    /// The VM goes on; the device that the process served has failed, and its guest is told by all ones.
    DeviceFails,
}

/// An edge that every instance of a template has.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// What it is.
    pub kind: EdgeKind,
    /// Who is at the other end.
    pub peer: Peer,
}

/// The other end of an edge, as a template names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Who started the process: the launcher of the coordinator, the coordinator of all others.
    Parent,
    /// The launcher. What it gives goes through the coordinator.
    Launcher,
    /// The vCPU process.
    Vcpu,
    /// The vSMMU that the device is behind.
    Smmu,
    /// The server of ours behind the device of the same index; the launcher, where somebody else's is.
    Server,
}

/// What limits grow by for each edge of one kind that another process has with this one.
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
    /// What each instance has, in the order of its descriptors.
    pub fn links(&self) -> impl Iterator<Item = &'static Link> {
        COMMON.iter().chain(self.links.iter().copied().flatten())
    }

    /// Its sandbox profile, as it is for the smallest VM, with the numbers of the descriptors that its rules are about.
    /// The coordinator's filter is over those of all that it starts: there the numbers are theirs.
    pub fn profile(&self) -> Profile {
        let holders =
            if self.role == Role::Coordinator { &TEMPLATES[..] } else { std::slice::from_ref(self) };
        (self.profile)().with_numbers(|slot| {
            let numbers: BTreeSet<u32> = holders.iter().filter_map(|holder| holder.number(slot)).collect();
            numbers.into_iter().collect()
        })
    }

    /// The number, in every instance, of a descriptor that it has of itself: those that others share with it come
    /// behind.
    pub fn number(&self, slot: &str) -> Option<u32> {
        let objects = self.links().flat_map(|link| link.kind.spec().objects);
        let place = objects.filter_map(|object| object.owner).position(|end| end.slot.as_str() == slot);
        place.and_then(|place| u32::try_from(place).ok())
    }
}

impl Restart {
    /// As the API shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndsVm => "ends the VM",
            Self::DeviceFails => "its device fails",
        }
    }
}

const fn to(peer: Peer, kind: EdgeKind) -> Link {
    Link { kind, peer }
}

/// What every process has.
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

/// Guest RAM, which the process maps and writes, and the log of what it wrote.
const RAM: [Link; 2] = [to(Peer::Parent, EdgeKind::Ram), to(Peer::Parent, EdgeKind::DirtyLog)];

/// A function that runs in a process of its own, whoever does its DMA.
const FUNCTION: [Link; 5] = [
    to(Peer::Vcpu, EdgeKind::Ring),
    to(Peer::Smmu, EdgeKind::Stage1),
    to(Peer::Vcpu, EdgeKind::Vectors),
    to(Peer::Vcpu, EdgeKind::FunctionLink),
    to(Peer::Vcpu, EdgeKind::Pin),
];

/// Everything that the coordinator starts, in the order of pausing.
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
        // A descriptor for each window; the thread of its link.
        growth: Some(Growth {
            per: EdgeKind::FunctionLink,
            nofile_count: WINDOWS_MAX as u64,
            nproc_count: 1,
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
        // A descriptor for each window and each vector; the thread of its link.
        growth: Some(Growth {
            per: EdgeKind::FunctionLink,
            nofile_count: WINDOWS_MAX as u64 + VECTORS_MAX as u64,
            nproc_count: 1,
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
        links: &[&RAM, &FUNCTION, &[to(Peer::Server, EdgeKind::VfioUser)]],
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
            &[to(Peer::Launcher, EdgeKind::PhysicalDevice), to(Peer::Launcher, EdgeKind::Iommufd)],
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
        links: &[&[to(Peer::Launcher, EdgeKind::Image)]],
        growth: None,
    },
    Template {
        role: Role::Smmu,
        program: "bulkhead-smmu",
        profile: profiles::smmu,
        restart: Restart::EndsVm,
        tier: 3,
        told: Told::Smmu,
        indexes: |_| vec![0],
        links: &[
            &RAM,
            &[
                to(Peer::Vcpu, EdgeKind::Ring),
                to(Peer::Vcpu, EdgeKind::RegisterPage),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::EventQueue)),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::GlobalError)),
                to(Peer::Vcpu, EdgeKind::Irq(IrqLine::CommandSync)),
            ],
        ],
        // The thread of its channel.
        growth: Some(Growth { per: EdgeKind::Stage1, nofile_count: 0, nproc_count: 1 }),
    },
];
