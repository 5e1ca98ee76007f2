// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system as one table: which processes a VM has, and what connects them.
//!
//! A role is a template ([`roles`]), a process an instance of it, and what connects two processes is an edge
//! ([`edge`]). [`System::new`] yields the instances and edges of a VM of some shape, and nothing that it does not have.
//! All else follows from them: what is made and for how long it lives, what each process is given and under which name,
//! what it may have, who is paused before whom, what `bulkhead ps` holds the running processes against, and the map in
//! the documentation. A descriptor's number is its place in its instance's list, and nobody writes one down.

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
pub use roles::{COORDINATOR, Restart, TEMPLATES, Template, Told};
pub use shape::{CpuKind, DEVICES_MAX, DeviceKind, Shape};
pub use size::Size;

/// The coordinator.
pub const COORDINATOR_ID: InstanceId = InstanceId::new(Role::Coordinator, 0);
/// The vCPU process.
pub const VCPU: InstanceId = InstanceId::new(Role::Vcpu, 0);
/// The first vSMMU.
pub const SMMU0: InstanceId = InstanceId::new(Role::Smmu, 0);

/// The process of the assigned device `index`.
pub const fn device(index: u8) -> InstanceId {
    InstanceId::new(Role::Vfio, index)
}

/// The assigned device that a process is for: the one that it is the process of, or the server of.
pub const fn device_of(process: InstanceId) -> Option<InstanceId> {
    match process.role {
        Role::Vfio | Role::Nvme => Some(device(process.index)),
        _ => None,
    }
}

/// The sandbox profile of this name, as it is for the smallest VM, if a role has it.
pub fn profile(name: &str) -> Option<sandbox::Profile> {
    std::iter::once(&COORDINATOR)
        .chain(&TEMPLATES)
        .map(Template::profile)
        .find(|profile| profile.name == name)
}

/// Who is at one end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// `bulkhead run`.
    Launcher,
    /// A process that it, or the coordinator, starts.
    Instance(InstanceId),
}

/// What connects two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// What it is.
    pub kind: EdgeKind,
    /// To whom it belongs.
    pub owner: InstanceId,
    /// Who is at the other end.
    pub peer: Party,
}

/// One descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its name in the process.
    pub slot: Slot,
    /// What it is.
    pub object: ObjectId,
    /// Which end of it.
    pub side: Side,
    /// What for.
    pub rights: Rights,
}

/// One process.
#[derive(Debug)]
pub struct Instance {
    /// Which it is: its name.
    pub id: InstanceId,
    /// What it has in common with others.
    pub template: &'static Template,
    /// What it is given at its start, in the order of the numbers.
    pub descriptors: Vec<Descriptor>,
    /// How many edges other processes have with it that its limits grow by.
    growth_count: u64,
}

/// The processes of a VM, and what connects them.
#[derive(Debug)]
pub struct System {
    shape: Shape,
    coordinator: Arc<Instance>,
    processes: Vec<Arc<Instance>>,
    edges: Vec<Edge>,
}

impl System {
    /// What a VM of this shape has.
    pub fn new(shape: &Shape) -> Self {
        let mut found: Vec<(InstanceId, &'static Template)> = Vec::new();
        for template in &TEMPLATES {
            let ids =
                (template.indexes)(shape).into_iter().map(|index| InstanceId::new(template.role, index));
            found.extend(ids.map(|id| (id, template)));
        }
        found.sort_by_key(|(id, template)| (template.tier, *id));
        let has = |id| found.iter().any(|(found, _)| *found == id);
        let all = || std::iter::once((COORDINATOR_ID, &COORDINATOR)).chain(found.iter().copied());
        let mut edges = Vec::new();
        for (owner, template) in all() {
            for link in template.links() {
                if link.kind == EdgeKind::Initramfs && !shape.initramfs {
                    continue;
                }
                edges.push(Edge { kind: link.kind, owner, peer: peer(owner, link.peer, has) });
            }
        }
        let instance = |(id, template)| Arc::new(Instance::new(id, template, &edges, &found));
        Self {
            shape: shape.clone(),
            coordinator: instance((COORDINATOR_ID, &COORDINATOR)),
            processes: found.iter().copied().map(instance).collect(),
            edges,
        }
    }

    /// What decides all of it.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The coordinator.
    pub const fn coordinator(&self) -> &Arc<Instance> {
        &self.coordinator
    }

    /// Everything that the coordinator starts, in the order of pausing.
    pub fn processes(&self) -> &[Arc<Instance>] {
        &self.processes
    }

    /// Every process but the launcher, the coordinator first.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        std::iter::once(&self.coordinator).chain(&self.processes)
    }

    /// Everything that connects two of them.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The edges of this kind.
    pub fn edges_of(&self, kind: EdgeKind) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.kind == kind)
    }

    /// The process `id`, if the VM has it.
    pub fn get(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.instances().find(|instance| instance.id == id)
    }

    /// The server of ours behind the device process `device`.
    pub fn server_of(&self, device: InstanceId) -> Option<InstanceId> {
        let server = InstanceId::new(Role::Nvme, device.index);
        (device.role == Role::Vfio && self.get(server).is_some()).then_some(server)
    }

    /// The processes that have to be rewired when the process `id` is started anew under a running guest.
    ///
    /// # Errors
    /// What it has that no next life can be given.
    pub fn rewired_by(&self, id: InstanceId) -> Result<Vec<InstanceId>, &'static str> {
        let mut rewired = Vec::new();
        for edge in &self.edges {
            let Some(side) = edge.side_of(id) else { continue };
            let other = if side == Side::Owner { edge.peer } else { Party::Instance(edge.owner) };
            match (edge.kind.renewal(side), other) {
                (Renewal::Kept, _) => {}
                (Renewal::Rewired, Party::Instance(other)) => rewired.push(other),
                (Renewal::Rewired, Party::Launcher) | (Renewal::Impossible, _) => {
                    return Err(edge.kind.spec().name);
                }
            }
        }
        Ok(rewired)
    }

    /// What the coordinator executes to start this program.
    pub fn program(&self, program: &str) -> Option<ObjectId> {
        let runs = |held: &&Descriptor| matches!(&held.slot, Slot::Program(name) if name == program);
        self.coordinator.descriptors.iter().find(runs).map(|held| held.object)
    }

    /// The programs that are executed, once each.
    pub fn programs(&self) -> Vec<&'static str> {
        let mut programs: Vec<_> = self.processes.iter().map(|process| process.template.program).collect();
        programs.sort_unstable();
        programs.dedup();
        programs
    }
}

/// Who the other end of an edge of `owner` is.
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
    /// On which side of it the process `id` is, if on any.
    pub fn side_of(&self, id: InstanceId) -> Option<Side> {
        match self.peer {
            _ if self.owner == id => Some(Side::Owner),
            Party::Instance(peer) if peer == id => Some(Side::Peer),
            Party::Instance(_) | Party::Launcher => None,
        }
    }

    /// Whether its objects are exchanged when the process `id`, at one end of it, is started anew under a running
    /// guest.
    pub fn is_rewired_by(&self, id: InstanceId) -> bool {
        self.side_of(id).is_some_and(|side| self.kind.renewal(side) == Renewal::Rewired)
    }

    /// Its objects: which, and how each comes to be.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, Make)> + use<> {
        let Self { kind, owner, peer } = *self;
        // Whatever it is, the launcher has made it.
        let given = peer == Party::Launcher && owner != COORDINATOR_ID;
        (0..).zip(kind.spec().objects).map(move |(index, spec)| {
            let make = if given && spec.make != Make::AtStart { Make::Given } else { spec.make };
            (object(kind, owner, index), make)
        })
    }

    /// How long its objects live.
    pub fn life(&self) -> Life {
        match self.kind.spec().life {
            // The launcher does not come back for a process: what it made lives on from one to the next.
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
        Self { id, template, descriptors, growth_count }
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

/// The programs as the coordinator holds them: one for all processes that run it.
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

/// What the launcher gives for another process, as the coordinator holds it: only to be handed on.
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
