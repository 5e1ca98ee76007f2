// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every shared object of a VM, owned by the coordinator for as long as the object lives: it outlives each process that
//! uses it.
//!
//! Which objects there are, how each is made and how long it lives is the system table's. What the launcher gave stays
//! for ever. What lives as long as a boot of the guest is made by [`Objects::for_boot`]; what lives as long as
//! processes by [`Objects::for_generation`] as well: new processes get new ones, so that a save/restore that fails
//! half-way has not touched what the old, paused processes still use.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ipc::instance::InstanceId;
use ipc::protocol::ram::RamLayout;
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::dirty_log::{DirtyLog, SharedOwed};
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring;
use ipc::{channel, doorbell};

use crate::problem::Problem;
use crate::system::{Descriptor, Edge, EdgeKind, Life, MOVER, Make, ObjectId, Rights, Side, Size, System};

/// The objects that processes are given, by what they are.
#[derive(Debug)]
pub struct Objects {
    /// The VM's name: part of every memory object's name in `/proc`, so that what is left can be told apart.
    name: String,
    system: Arc<System>,
    layout: RamLayout,
    ram: Region,
    held: BTreeMap<(ObjectId, Side), OwnedFd>,
    /// Ends of the function links of processes that may have a next life: their closing would be the device's end.
    links: BTreeMap<InstanceId, OwnedFd>,
}

impl Objects {
    /// The objects of a boot of the guest, with fresh, zero RAM; `given` came from the launcher.
    pub fn for_boot(
        name: &str,
        given: &BTreeMap<ObjectId, OwnedFd>,
        system: &Arc<System>,
        layout: &RamLayout,
    ) -> Result<Self, Problem> {
        let ram =
            Region::create(&Make::Ram.memory_name(name, crate::system::COORDINATOR_ID), layout.file_len())
                .map_err(|error| refused("guest RAM", &error))?;
        let mut objects = Self {
            name: name.to_owned(),
            system: Arc::clone(system),
            layout: layout.clone(),
            ram,
            held: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        for (object, fd) in given {
            objects.held.insert((*object, Side::Owner), duplicate(fd.as_fd())?);
        }
        objects.make_all(Life::Boot)?;
        objects.make_all(Life::Process)?;
        Ok(objects)
    }

    /// The same boot's objects for its next generation of processes.
    pub fn for_generation(&self) -> Result<Self, Problem> {
        let stays = |edge: &&Edge| edge.life() != Life::Process;
        let staying: BTreeSet<ObjectId> = self
            .system
            .edges()
            .iter()
            .filter(stays)
            .flat_map(Edge::objects)
            .map(|(object, _)| object)
            .collect();
        let mut next = self.keeping(|object| staying.contains(object))?;
        next.make_all(Life::Process)?;
        Ok(next)
    }

    /// The same objects for the next lives of some processes: what they have in common with those that there are, and
    /// new ones in place of what is exchanged.
    pub fn for_restart(&self, members: &[InstanceId]) -> Result<Self, Problem> {
        let mut next = self.keeping(|_| true)?;
        for (function, end) in &self.links {
            next.links.insert(*function, duplicate(end.as_fd())?);
        }
        next.make_of(|edge| members.iter().any(|member| edge.is_renewed_by(*member)))?;
        Ok(next)
    }

    /// New ones in place of what is exchanged with the next lives of processes that died, or were ended with one that
    /// did: nobody uses those that there were.
    pub fn renew(&mut self, members: &[InstanceId]) -> Result<(), Problem> {
        self.make_of(|edge| members.iter().any(|member| edge.is_renewed_by(*member)))
    }

    /// Takes the end that `holder` is to have of what is exchanged between it and `peer`.
    pub fn take_end(&mut self, holder: InstanceId, peer: InstanceId) -> Option<OwnedFd> {
        let mut edges = self.system.edges().iter().filter(|edge| edge.is_rewired_by(peer));
        let (edge, side) = edges.find_map(|edge| Some((edge, edge.side_of(holder)?)))?;
        edge.objects().find_map(|(object, _)| self.held.remove(&(object, side)))
    }

    /// The same for a migration's mover, with an owed map of its own.
    pub fn for_mover(&self) -> Result<Self, Problem> {
        let mut next = self.keeping(|_| true)?;
        next.make_of(|edge| edge.owner == MOVER)?;
        Ok(next)
    }

    /// The same boot's, with descriptors of their own of those that `keeps` names.
    fn keeping(&self, keeps: impl Fn(&ObjectId) -> bool) -> Result<Self, Problem> {
        let mut held = BTreeMap::new();
        for ((object, side), fd) in self.held.iter().filter(|((object, _), _)| keeps(object)) {
            held.insert((*object, *side), duplicate(fd.as_fd())?);
        }
        Ok(Self {
            name: self.name.clone(),
            system: Arc::clone(&self.system),
            layout: self.layout.clone(),
            ram: self.ram.clone(),
            held,
            links: BTreeMap::new(),
        })
    }

    /// Makes every object of such a life that is made here.
    fn make_all(&mut self, life: Life) -> Result<(), Problem> {
        // A migration's are made with its mover.
        self.make_of(|edge| edge.life() == life && edge.owner != MOVER)
    }

    /// Makes the objects of these edges that are made here.
    fn make_of(&mut self, is_meant: impl Fn(&Edge) -> bool) -> Result<(), Problem> {
        let system = Arc::clone(&self.system);
        for edge in system.edges().iter().filter(|edge| is_meant(edge)) {
            for (object, make) in edge.objects() {
                self.make(object, make)?;
            }
        }
        Ok(())
    }

    fn make(&mut self, object: ObjectId, make: Make) -> Result<(), Problem> {
        let name = make.memory_name(&self.name, object.owner);
        let memory = match make {
            // Whoever starts a process, or the launcher, has these.
            Make::AtStart | Make::Given => return Ok(()),
            // One for all.
            Make::Ram => Ok(self.ram.clone()),
            Make::DirtyLog => DirtyLog::create(&name, &self.layout),
            Make::Checkpoint => Checkpoint::create(&name),
            Make::OwedMap => SharedOwed::create(&name, &self.layout),
            Make::Ring => ring::create(&name),
            Make::RegisterPage => RegisterPage::create(&name),
            Make::MsiBoard => MsiBoard::create(&name),
            Make::Doorbell => {
                let (ringer, doorbell) = doorbell::pair().map_err(|error| refused("an interrupt", &error))?;
                let owner_rings = object.end(Side::Owner).is_some_and(|end| end.rights == Rights::Write);
                let (rings, looks) =
                    if owner_rings { (Side::Owner, Side::Peer) } else { (Side::Peer, Side::Owner) };
                self.held.insert((object, rings), ringer.into());
                self.held.insert((object, looks), doorbell.into());
                return Ok(());
            }
            Make::Channel => {
                let ends =
                    channel::pair().map_err(|error| refused("a channel between two processes", &error))?;
                self.hold_both(object, ends);
                return Ok(());
            }
            Make::Stream => {
                let (owner, peer) = UnixStream::pair()
                    .map_err(|error| refused("a connection between two processes", &error))?;
                self.hold_both(object, (owner.into(), peer.into()));
                return Ok(());
            }
        };
        let memory = memory.map_err(|error| refused("shared memory", &error))?;
        self.held.insert((object, Side::Owner), duplicate(memory.as_fd())?);
        Ok(())
    }

    fn hold_both(&mut self, object: ObjectId, (owner, peer): (OwnedFd, OwnedFd)) {
        self.held.insert((object, Side::Owner), owner);
        self.held.insert((object, Side::Peer), peer);
    }

    /// The number (`st_rdev`) of the character device behind the process of a physical device.
    pub fn device_number(&self, of: InstanceId) -> Result<u64, Problem> {
        let file = ObjectId { kind: EdgeKind::PhysicalDevice, owner: of, index: 0 };
        let file = self.get(file).ok_or_else(|| refused("a device", &"it is not held"))?;
        rustix::fs::fstat(file).map(|stat| stat.st_rdev).map_err(|error| refused("a device", &error))
    }

    /// Lets go of the host's files of a physical device, which was lost. False: the host refuses what is needed for it.
    pub fn let_go_of(&mut self, device: InstanceId) -> bool {
        let_go_of(&mut self.held, device, |(object, _)| *object)
    }

    /// Closes both ends of every connection between two processes, which have their own by now: the death of one must
    /// be the other's end of file; but for those function links that a next life may follow at.
    pub fn close_connections(&mut self, has_next_life: impl Fn(InstanceId) -> bool) {
        let is_link =
            |object: &ObjectId| object.kind == EdgeKind::FunctionLink && has_next_life(object.owner);
        let ends = self.held.keys().filter(|(object, side)| *side == Side::Owner && is_link(object));
        for key in ends.copied().collect::<Vec<_>>() {
            if let Some(end) = self.held.remove(&key) {
                self.links.insert(key.0.owner, end);
            }
        }

        let between = |make: Make| matches!(make, Make::Channel | Make::Stream);
        let objects = self.system.edges().iter().flat_map(Edge::objects);
        let connections: BTreeSet<ObjectId> =
            objects.filter_map(|(object, make)| between(make).then_some(object)).collect();
        self.held.retain(|(object, _), _| !connections.contains(object));
    }

    /// No life follows at this function's link: whoever is at the other end sees that it is over. Also where not all
    /// processes are there yet: whoever has an end has been given it, for a function is lost only once it was started,
    /// and the CPUs are before it.
    pub fn close_link(&mut self, function: InstanceId) {
        self.links.remove(&function);
        self.held.retain(|(object, _), _| (object.kind, object.owner) != (EdgeKind::FunctionLink, function));
    }

    /// What a process is given as this descriptor. Memory, and what the launcher gave, is the same at both ends.
    pub fn end_of(&self, descriptor: &Descriptor) -> Option<BorrowedFd<'_>> {
        let end = self.held.get(&(descriptor.object, descriptor.side));
        end.map(AsFd::as_fd).or_else(|| self.get(descriptor.object))
    }

    /// The owner's end of the object.
    pub fn get(&self, object: ObjectId) -> Option<BorrowedFd<'_>> {
        self.held.get(&(object, Side::Owner)).map(AsFd::as_fd)
    }

    /// Which processes there are, and what connects them.
    pub const fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// How large the VM is.
    ///
    /// # Errors
    /// If an image does not say how long it is.
    pub fn size(&self) -> std::io::Result<Size> {
        Size::measure(&self.system, self.ram.len(), |object| self.get(object))
    }

    /// Guest RAM.
    pub const fn ram(&self) -> &Region {
        &self.ram
    }
}

/// Puts in place of the host's files of a physical device what is none: the device is found to be gone by whoever is
/// given it. False: the host refuses what is put there.
pub fn let_go_of<K: Ord>(
    held: &mut BTreeMap<K, OwnedFd>,
    device: InstanceId,
    object_of: impl Fn(&K) -> ObjectId,
) -> bool {
    for (key, fd) in held.iter_mut() {
        let ObjectId { kind, owner, .. } = object_of(key);
        if owner == device && matches!(kind, EdgeKind::PhysicalDevice | EdgeKind::Iommufd) {
            let Ok((nothing, _)) = UnixStream::pair() else { return false };
            *fd = nothing.into();
        }
    }
    true
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Problem> {
    fd.try_clone_to_owned().map_err(|error| refused("a descriptor", &error))
}

fn refused(what: &'static str, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(
        format!("the host refuses {what}: {error}"),
        "shared memory",
        "check the limits on memory and open files",
    )
}
