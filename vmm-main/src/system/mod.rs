// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system as one table: which processes a VM has, and what connects them.
//!
//! A role is a template ([`roles`]), a process an instance of it, and what connects two processes is an edge
//! ([`edge`]). [`System::new`] makes the instances and edges of a VM of a given shape. Everything else follows from
//! them: the shared objects and their lifetimes, the descriptors of each process and their names, its limits, the order
//! of pausing, what `bulkhead ps` compares the running processes with, and the map in the documentation. A descriptor's
//! number is its place in its instance's list, and is written down nowhere.

use std::sync::Arc;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::slot::{Slot, SlotKind};

pub mod edge;
pub mod roles;
mod shape;
mod size;

pub use edge::{EdgeKind, IrqLine, Life, Make, ObjectId, Renewal, Rights, Side};
use edge::{EdgeSpec, End};
use roles::Peer;
pub use roles::{COORDINATOR, Restart, TEMPLATES, Template, Told, children};
pub use shape::{CpuKind, DEVICES_MAX, DeviceKind, Shape};
pub use size::Size;

/// The process that starts all others.
pub const COORDINATOR_ID: InstanceId = InstanceId::new(Role::Coordinator, 0);
/// The vCPU process.
pub const VCPU: InstanceId = InstanceId::new(Role::Vcpu, 0);
/// The first vSMMU.
pub const SMMU0: InstanceId = InstanceId::new(Role::Smmu, 0);

/// The mover, while there is one.
pub const MOVER: InstanceId = InstanceId::new(Role::Mover, 0);

/// The process of the assigned device `index`.
pub const fn device(index: u8) -> InstanceId {
    InstanceId::new(Role::Vfio, index)
}

/// The assigned device that a process belongs to, as its function or its server.
pub const fn device_of(process: InstanceId) -> Option<InstanceId> {
    match process.role {
        Role::Vfio | Role::Nvme => Some(device(process.index)),
        _ => None,
    }
}

/// The sandbox profile of this name, for the smallest VM; `None` if no role has it.
pub fn profile(name: &str) -> Option<sandbox::Profile> {
    std::iter::once(&COORDINATOR)
        .chain(children())
        .map(Template::profile)
        .find(|profile| profile.name == name)
}

/// The party at one end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// `bulkhead run`.
    Launcher,
    /// The coordinator, or a process that it starts.
    Instance(InstanceId),
}

/// What connects two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// What it is made of, and for how long it lives.
    pub kind: EdgeKind,
    /// The instance that it belongs to.
    pub owner: InstanceId,
    /// The party at the other end.
    pub peer: Party,
}

/// What is started anew when a process is, under a running guest, and who else notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartGroup {
    /// The processes that are started anew together: the one that was asked for first.
    pub members: Vec<InstanceId>,
    /// Whose channels to them are exchanged.
    pub rewirings: Vec<Rewiring>,
}

/// A process is sent its end of a new channel to the next life of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewiring {
    /// Who is sent it.
    pub peer: InstanceId,
    /// Whose next life is at the other end.
    pub member: InstanceId,
}

/// One descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its name in the process.
    pub slot: Slot,
    /// What the descriptor refers to.
    pub object: ObjectId,
    /// The end of the object.
    pub side: Side,
    /// What the process does with it.
    pub rights: Rights,
}

/// One process.
#[derive(Debug)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// The role that it is an instance of.
    pub template: &'static Template,
    /// The descriptors that it is given at exec, in the order of their numbers.
    pub descriptors: Vec<Descriptor>,
    /// The name of its sandbox profile, which is long to make.
    pub profile_name: &'static str,
    /// The number of edges, to other processes, that its limits grow by.
    growth_count: u64,
}

/// The processes of a VM, and what connects them.
#[derive(Debug)]
pub struct System {
    shape: Shape,
    coordinator: Arc<Instance>,
    processes: Vec<Arc<Instance>>,
    mover: Arc<Instance>,
    edges: Vec<Edge>,
}

impl System {
    /// The system of a VM of this shape.
    pub fn new(shape: &Shape) -> Self {
        let mut found: Vec<(InstanceId, &'static Template)> = Vec::new();
        for template in &TEMPLATES {
            let ids =
                (template.indexes)(shape).into_iter().map(|index| InstanceId::new(template.role, index));
            found.extend(ids.map(|id| (id, template)));
        }
        found.sort_by_key(|(id, template)| (template.tier, *id));
        let has = |id| found.iter().any(|(found, _)| *found == id);
        let started = || found.iter().copied().chain([(MOVER, &roles::MOVER)]);
        let all = || std::iter::once((COORDINATOR_ID, &COORDINATOR)).chain(started());
        let mut edges = Vec::new();
        for (owner, template) in all() {
            for link in template.links() {
                if link.kind == EdgeKind::Initramfs && !shape.initramfs {
                    continue;
                }
                edges.push(Edge { kind: link.kind, owner, peer: peer(owner, link.peer, has) });
            }
        }
        let started: Vec<_> = started().collect();
        let instance = |(id, template)| Arc::new(Instance::new(id, template, &edges, &started));
        Self {
            shape: shape.clone(),
            coordinator: instance((COORDINATOR_ID, &COORDINATOR)),
            processes: found.iter().copied().map(instance).collect(),
            mover: instance((MOVER, &roles::MOVER)),
            edges,
        }
    }

    /// What the table was made for: CPUs and devices.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The instance that starts all others; it is in no set.
    pub const fn coordinator(&self) -> &Arc<Instance> {
        &self.coordinator
    }

    /// The processes that the coordinator starts for the guest, in the order of pausing.
    pub fn processes(&self) -> &[Arc<Instance>] {
        &self.processes
    }

    /// The mover, which the coordinator starts for a migration.
    pub const fn mover(&self) -> &Arc<Instance> {
        &self.mover
    }

    /// Every process of a running guest but the launcher, the coordinator first.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        std::iter::once(&self.coordinator).chain(&self.processes)
    }

    /// All edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The edges of this kind.
    pub fn edges_of(&self, kind: EdgeKind) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.kind == kind)
    }

    /// The process `id`, if the VM has it.
    pub fn get(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.instances().chain([&self.mover]).find(|instance| instance.id == id)
    }

    /// The process that serves the device of process `device`, if it is one of this VM.
    pub fn server_of(&self, device: InstanceId) -> Option<InstanceId> {
        let server = InstanceId::new(Role::Nvme, device.index);
        (device.role == Role::Vfio && self.get(server).is_some()).then_some(server)
    }

    /// What is started anew with the process `id` under a running guest.
    ///
    /// # Errors
    /// What one of them has that no next life can be given.
    pub fn restart_group(&self, id: InstanceId) -> Result<RestartGroup, &'static str> {
        let (mut members, mut rewirings) = (vec![id], Vec::new());
        let mut looked_at = 0;
        while let Some(member) = members.get(looked_at).copied() {
            looked_at += 1;
            for edge in &self.edges {
                let Some(side) = edge.side_of(member) else { continue };
                let other = if side == Side::Owner { edge.peer } else { Party::Instance(edge.owner) };
                match (edge.kind.renewal(side), other) {
                    (Renewal::Kept, _) | (Renewal::Together, Party::Launcher) => {}
                    (Renewal::Together, Party::Instance(other)) if members.contains(&other) => {}
                    (Renewal::Together, Party::Instance(other)) => members.push(other),
                    (Renewal::Rewired, Party::Instance(peer)) => rewirings.push(Rewiring { peer, member }),
                    (Renewal::Rewired, Party::Launcher) | (Renewal::Impossible, _) => {
                        return Err(edge.kind.spec().name);
                    }
                }
            }
        }
        // Both ends of a channel between two of them are given to their next lives.
        rewirings.retain(|rewiring| !members.contains(&rewiring.peer));
        Ok(RestartGroup { members, rewirings })
    }

    /// The executable of this program.
    pub fn program(&self, program: &str) -> Option<ObjectId> {
        let runs = |held: &&Descriptor| matches!(&held.slot, Slot::Program(name) if name == program);
        self.coordinator.descriptors.iter().find(runs).map(|held| held.object)
    }

    /// The programs of all processes that the coordinator may start, once each.
    pub fn programs(&self) -> Vec<&'static str> {
        let processes = self.processes.iter().chain([&self.mover]);
        let mut programs: Vec<_> = processes.map(|process| process.template.program).collect();
        programs.sort_unstable();
        programs.dedup();
        programs
    }
}

/// The party at the other end of an edge of `owner`.
fn peer(owner: InstanceId, peer: Peer, has: impl Fn(InstanceId) -> bool) -> Party {
    match peer {
        Peer::Launcher => Party::Launcher,
        Peer::Parent if owner == COORDINATOR_ID => Party::Launcher,
        Peer::Parent => Party::Instance(COORDINATOR_ID),
        Peer::Vcpu => Party::Instance(VCPU),
        Peer::Smmu => Party::Instance(SMMU0),
        Peer::Server => {
            let server = InstanceId::new(Role::Nvme, owner.index);
            if has(server) { Party::Instance(server) } else { Party::Launcher }
        }
    }
}

impl Edge {
    /// The side of the edge that the process `id` is on, if any.
    pub fn side_of(&self, id: InstanceId) -> Option<Side> {
        match self.peer {
            _ if self.owner == id => Some(Side::Owner),
            Party::Instance(peer) if peer == id => Some(Side::Peer),
            Party::Instance(_) | Party::Launcher => None,
        }
    }

    /// Whether the process at its other end is sent a new one when the process `id` is started anew under a running
    /// guest.
    pub fn is_rewired_by(&self, id: InstanceId) -> bool {
        self.side_of(id).is_some_and(|side| self.kind.renewal(side) == Renewal::Rewired)
    }

    /// Whether its objects are made anew when this process is started anew under a running guest.
    pub fn is_renewed_by(&self, id: InstanceId) -> bool {
        self.side_of(id).is_some_and(|side| match self.kind.renewal(side) {
            Renewal::Rewired => true,
            Renewal::Together => self.peer != Party::Launcher,
            Renewal::Kept | Renewal::Impossible => false,
        })
    }

    /// Its objects, and how each is made.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, Make)> + use<> {
        let Self { kind, owner, peer } = *self;
        // Given by the launcher, whatever its kind.
        let given = peer == Party::Launcher && owner != COORDINATOR_ID;
        (0..).zip(kind.spec().objects).map(move |(index, spec)| {
            let make = if given && spec.make != Make::AtStart { Make::Given } else { spec.make };
            (object(kind, owner, index), make)
        })
    }

    /// How long its objects live.
    pub fn life(&self) -> Life {
        match self.kind.spec().life {
            // The launcher makes no new object for a new process: what it has given is passed on to the next life.
            Life::Process if self.peer == Party::Launcher && self.owner != COORDINATOR_ID => Life::Boot,
            life => life,
        }
    }
}

/// The object `index` of such an edge of this owner's.
fn object(kind: EdgeKind, owner: InstanceId, index: u8) -> ObjectId {
    if kind.spec().is_shared {
        return ObjectId { kind: EdgeKind::Ram, owner: COORDINATOR_ID, index };
    }
    ObjectId { kind, owner, index }
}

impl Instance {
    fn new(
        id: InstanceId,
        template: &'static Template,
        edges: &[Edge],
        all: &[(InstanceId, &'static Template)],
    ) -> Self {
        let mut descriptors = Vec::new();
        for edge in edges.iter().filter(|edge| edge.owner == id) {
            descriptors.extend(ends(edge, Side::Owner));
        }
        for edge in edges.iter().filter(|edge| edge.peer == Party::Instance(id)) {
            descriptors.extend(ends(edge, Side::Peer));
        }
        if id == COORDINATOR_ID {
            descriptors.extend(programs(all));
            let from_launcher = |edge: &&Edge| edge.peer == Party::Launcher && edge.owner != COORDINATOR_ID;
            descriptors.extend(edges.iter().filter(from_launcher).flat_map(handed_on));
        }
        let grows = |edge: &&Edge| {
            edge.peer == Party::Instance(id) && template.growth.is_some_and(|growth| growth.per == edge.kind)
        };
        let growth_count = u64::try_from(edges.iter().filter(grows).count()).unwrap_or(u64::MAX);
        let profile_name = template.profile().name;
        Self { id, template, descriptors, profile_name, growth_count }
    }

    /// The number of the descriptor called `slot`.
    pub fn number(&self, slot: &Slot) -> Option<i32> {
        self.descriptors.iter().position(|held| held.slot == *slot).and_then(|number| number.try_into().ok())
    }

    /// Whether it holds a descriptor of an edge of this kind.
    pub fn holds(&self, kind: EdgeKind) -> bool {
        self.descriptors.iter().any(|held| held.object.kind == kind)
    }

    /// The names of its descriptors, in the order of their numbers.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.descriptors.iter().map(|held| &held.slot)
    }
}

/// The descriptors of one side of an edge.
fn ends(edge: &Edge, side: Side) -> Vec<Descriptor> {
    let EdgeSpec { objects, .. } = edge.kind.spec();
    let mut found = Vec::new();
    for (index, spec) in (0..).zip(objects) {
        let end = match side {
            Side::Owner => spec.owner,
            Side::Peer => spec.peer,
        };
        let Some(End { slot, is_named, rights }) = end else { continue };
        let slot = if is_named { slot.of(edge.owner) } else { slot.into() };
        found.push(Descriptor { slot, object: object(edge.kind, edge.owner, index), side, rights });
    }
    found
}

/// The coordinator's descriptors of the programs: one for all processes that run it.
fn programs(all: &[(InstanceId, &'static Template)]) -> impl Iterator<Item = Descriptor> {
    let first = |template: &Template| all.iter().find(|(_, other)| other.program == template.program);
    let runs_first = move |(id, template): &&(InstanceId, &'static Template)| {
        first(template).is_some_and(|(first, _)| first == id)
    };
    all.iter().filter(runs_first).map(|(id, template)| Descriptor {
        slot: Slot::Program(template.program.to_owned()),
        object: object(EdgeKind::Program, *id, 0),
        side: Side::Owner,
        rights: Rights::Execute,
    })
}

/// The coordinator's descriptors of what the launcher gives for other processes: only to be passed on.
fn handed_on(edge: &Edge) -> Vec<Descriptor> {
    let name = |kind: SlotKind| {
        if edge.owner.role.is_single() { kind.into() } else { kind.of(edge.owner) }
    };
    let held = ends(edge, Side::Owner).into_iter().filter_map(|held| match held.slot {
        Slot::Only(kind) => Some(Descriptor { slot: name(kind), rights: Rights::HandOn, ..held }),
        Slot::Of(..) | Slot::Program(_) => None,
    });
    held.collect()
}

#[cfg(test)]
mod tests;
