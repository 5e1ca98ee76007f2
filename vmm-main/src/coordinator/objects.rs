// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every shared object of a VM, owned by the coordinator for as long as the VM lives: it outlives each process
//! that uses it.
//!
//! Three lifetimes. What the launcher gave stays for ever. Guest RAM, dirty logs and interrupts belong to one
//! boot of the guest ([`Objects::for_boot`]). Rings and register pages belong to one generation of processes
//! ([`Objects::for_generation`]): new processes get new ones, so that a save/restore that fails half-way has not
//! touched what the old, paused processes still use.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipc::channel;
use ipc::doorbell::{self, Doorbell, Ringer};
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring;

use crate::problem::Problem;
use crate::topology::{self, DeviceKind, FdRow, Object, Rights, Shape, Side, Size};

/// The objects that processes are given, by what they are.
#[derive(Debug)]
pub struct Objects {
    /// The VM's name: part of every memory object's name in `/proc`, so that what is left can be told apart.
    name: String,
    held: BTreeMap<Object, OwnedFd>,
    /// Interrupts: who may write the object rings, who may read it looks.
    doorbells: BTreeMap<Object, (Ringer, Doorbell)>,
    ram: Region,
    shape: Shape,
}

impl Objects {
    /// The objects of a boot of the guest, with fresh, zero RAM; `given` came from the launcher.
    pub fn for_boot(
        name: &str,
        given: &BTreeMap<Object, OwnedFd>,
        shape: &Shape,
        layout: &RamLayout,
    ) -> Result<Self, Problem> {
        let ram = Region::create(&format!("{name}-guest-ram"), layout.file_len())
            .map_err(|error| refused("guest RAM", &error))?;
        let (held, doorbells) = (BTreeMap::new(), BTreeMap::new());
        let mut objects = Self { name: name.to_owned(), held, doorbells, ram, shape: shape.clone() };
        for (object, fd) in given {
            objects.hold(*object, fd.as_fd())?;
        }
        let ram = objects.ram.clone();
        objects.hold(Object::GuestRam, ram.as_fd())?;
        for object in every_object(&objects.shape) {
            match object {
                Object::DirtyLog(of) => {
                    let log = DirtyLog::create(&format!("{name}-dirty-log-{of}"), layout)
                        .map_err(|error| refused("a dirty log", &error))?;
                    objects.hold(object, log.as_fd())?;
                }
                Object::MsiBoard(of) => {
                    let board = MsiBoard::create(&format!("{name}-msi-board-{of}"))
                        .map_err(|error| refused("an MSI board", &error))?;
                    objects.hold(object, board.as_fd())?;
                }
                Object::Irq(..) | Object::MsiDoorbell(_) | Object::Intx(_) | Object::IntxEnd(_) => {
                    let ends = doorbell::pair().map_err(|error| refused("an interrupt", &error))?;
                    objects.doorbells.insert(object, ends);
                }
                _ => {}
            }
        }
        objects.renew()?;
        Ok(objects)
    }

    /// The same boot's objects for its next generation of processes.
    pub fn for_generation(&self) -> Result<Self, Problem> {
        let (name, ram, shape) = (self.name.clone(), self.ram.clone(), self.shape.clone());
        let mut next = Self { name, held: BTreeMap::new(), doorbells: BTreeMap::new(), ram, shape };
        for (object, fd) in &self.held {
            next.hold(*object, fd.as_fd())?;
        }
        for (object, (ringer, doorbell)) in &self.doorbells {
            let ends = (duplicate(ringer.as_fd())?.into(), duplicate(doorbell.as_fd())?.into());
            next.doorbells.insert(*object, ends);
        }
        next.renew()?;
        Ok(next)
    }

    /// Makes what belongs to one generation.
    fn renew(&mut self) -> Result<(), Problem> {
        for object in every_object(&self.shape) {
            let region = match object {
                Object::Ring(of) => ring::create(&format!("{}-ring-{of}", self.name)),
                Object::RegisterPage(of) => RegisterPage::create(&format!("{}-registers-{of}", self.name)),
                Object::Stage1(of, Side::Device) => {
                    self.connect(object, Object::Stage1(of, Side::Peer))?;
                    continue;
                }
                Object::Bus(of, Side::Device) => {
                    self.connect(object, Object::Bus(of, Side::Peer))?;
                    continue;
                }
                Object::VfioUser(of, Side::Device) => {
                    self.connect_server(of)?;
                    continue;
                }
                _ => continue,
            };
            let region = region.map_err(|error| refused("an MMIO object", &error))?;
            self.hold(object, region.as_fd())?;
        }
        Ok(())
    }

    /// The number (`st_rdev`) of the character device behind the process called `of`.
    pub fn device_number(&self, of: &'static str) -> Result<u64, Problem> {
        let device =
            self.get(Object::DeviceSource(of)).ok_or_else(|| refused("a device", &"it is not held"))?;
        rustix::fs::fstat(device).map(|stat| stat.st_rdev).map_err(|error| refused("a device", &error))
    }

    /// Makes a channel between two processes.
    fn connect(&mut self, device: Object, peer: Object) -> Result<(), Problem> {
        let (ours, theirs) =
            channel::pair().map_err(|error| refused("a channel between two processes", &error))?;
        self.held.insert(device, ours);
        self.held.insert(peer, theirs);
        Ok(())
    }

    /// Connects a device process to its server: one that the launcher has connected to, or one of ours.
    fn connect_server(&mut self, of: &'static str) -> Result<(), Problem> {
        let kind = topology::VFIO
            .iter()
            .position(|name| *name == of)
            .and_then(|index| self.shape.devices.get(index));
        if kind == Some(&DeviceKind::Nvme) {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()
                .map_err(|error| refused("a connection to a device's server", &error))?;
            self.held.insert(Object::VfioUser(of, Side::Device), ours.into());
            self.held.insert(Object::VfioUser(of, Side::Peer), theirs.into());
            return Ok(());
        }
        let given = self.get(Object::DeviceSource(of)).map(|fd| fd.try_clone_to_owned());
        match given {
            Some(Ok(fd)) => {
                self.held.insert(Object::VfioUser(of, Side::Device), fd);
                Ok(())
            }
            Some(Err(error)) => Err(refused("a connection that was given", &error)),
            None => Err(refused("a device", &"its server's connection was not handed over")),
        }
    }

    /// Closes both ends of every connection between two processes, which have their own by now: the death of one must be
    /// the other's end of file.
    pub fn close_connections(&mut self) {
        let between =
            |object: &Object| matches!(object, Object::Stage1(..) | Object::VfioUser(..) | Object::Bus(..));
        self.held.retain(|object, _| !between(object));
    }

    /// Keeps a duplicate of `fd` as `object`.
    fn hold(&mut self, object: Object, fd: BorrowedFd<'_>) -> Result<(), Problem> {
        self.held.insert(object, duplicate(fd)?);
        Ok(())
    }

    /// What a row's descriptor stands for, if there is one of this kind: of an interrupt the end that its rights are for.
    pub fn end_of(&self, row: &FdRow) -> Option<BorrowedFd<'_>> {
        match (self.doorbells.get(&row.object), row.rights) {
            (Some((_, doorbell)), Rights::Read) => Some(doorbell.as_fd()),
            (Some((ringer, _)), Rights::Write) => Some(ringer.as_fd()),
            (Some(_), Rights::ReadWrite | Rights::Execute) => None,
            (None, _) => self.get(row.object),
        }
    }

    /// The object, if there is one of this kind.
    pub fn get(&self, object: Object) -> Option<BorrowedFd<'_>> {
        self.held.get(&object).map(AsFd::as_fd)
    }

    /// What decides which processes there are.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How large the VM is.
    ///
    /// # Errors
    /// If an image does not say how long it is.
    pub fn size(&self) -> std::io::Result<Size> {
        Size::measure(&self.shape, self.ram.len(), |object| self.get(object))
    }

    /// Guest RAM.
    pub const fn ram(&self) -> &Region {
        &self.ram
    }
}

/// Every object that any process of such a VM holds, once.
fn every_object(shape: &Shape) -> impl Iterator<Item = Object> + use<> {
    let mut all: Vec<Object> =
        topology::processes(shape).flat_map(|row| row.fds_with(shape).map(|fd| fd.object)).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
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
