// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vfio-user back end: a device in a server of its own, whose DMA comes as messages and is translated in software.
//!
//! `client` sends requests to the server, `dma` answers the server's, `direct` maps guest RAM at servers that are
//! trusted with it. Posted writes are collected here while more requests are in the ring, and sent in batches. Every
//! DMA write by message is marked in the dirty log as it is made; writes of a server that has guest RAM mapped cannot
//! be logged, and the log's answers say so.

pub mod client;
pub mod direct;
mod dma;
mod saved;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::addr::{Gpa, Iova};
use ipc::deadline::Deadline;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::{Attachment, Stage1Request};
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::stream::UnitWriter;
use ipc::shm::checkpoint::CHECKPOINT_LEN;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use ipc::shm::transcript::Transcript;
use ipc::slot::SlotKind;
use ipc::vfio_user::device::PCI_CONFIG_REGION;
use ipc::vfio_user::region::SmallWrite;
use sandbox::{Inherited, InheritedError};

use crate::backend::{Arrival, Backend, DeviceEnd, DeviceError, Eventfds, Interrupts, Opened, Units};
use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::iommu::software::{Counters, SoftIommu};
use crate::keeper::Keeper;
use crate::pci::msix::Message;
use crate::saved::{ConnectionV1, DeviceV1, FunctionV1, ServerV1};
use client::{Client, ClientError};
use direct::Direct;

/// A connected server's device.
#[derive(Debug)]
pub struct VfioUserDevice {
    client: Client,
    /// Guest RAM for the server while the stream is in bypass, if the configuration says so.
    direct: Option<Direct>,
    /// Posted writes not sent yet: only while more requests are in the ring, and always sent before another access.
    posts: Mutex<Vec<SmallWrite>>,
    /// The server stays: a next life takes over this connection.
    keeps_server: bool,
    /// The connection was handed to a next life.
    parked: AtomicBool,
    /// What a next life needs, if there may be one.
    keeper: Option<Arc<Keeper>>,
    /// What it needs of a server that stays.
    kept: Kept,
}

/// The connection to a server that stays, as far as a next life needs it.
#[derive(Debug, Default)]
struct Kept {
    /// Until it is kept: where, and the device as it was described.
    later: Mutex<Option<(Transcript, DeviceV1)>>,
    /// What passes is in the transcript from now on.
    is_kept: AtomicBool,
    /// The life before died in the middle of what it did: the server may be asked once it is answered.
    waits: AtomicBool,
    /// Interrupts may have been signalled to that life.
    are_lost: AtomicBool,
}

/// What the program inherits for its device.
#[derive(Debug)]
pub struct Given {
    /// The connection to the server.
    pub server: OwnedFd,
    /// What its next life finds if it dies, and what it finds of the one before.
    pub checkpoint: OwnedFd,
}

impl Given {
    /// Takes them by their names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited) -> Result<Self, InheritedError> {
        Ok(Self { server: fds.take(SlotKind::VfioUser)?, checkpoint: fds.take(SlotKind::Checkpoint)? })
    }
}

/// The connection to a server, before version negotiation.
#[derive(Debug)]
pub struct Unopened {
    socket: OwnedFd,
    direct: Option<Direct>,
    keeps_server: bool,
    keeper: Option<Arc<Keeper>>,
    /// Where the connection to a server that stays is kept, if there may be a next life.
    transcript: Option<Transcript>,
}

impl VfioUserDevice {
    /// Over a client with an open device.
    pub fn new(
        client: Client,
        direct: Option<Direct>,
        keeps_server: bool,
        keeper: Option<Arc<Keeper>>,
    ) -> VfioUserDevice {
        let (posts, parked) = (Mutex::default(), AtomicBool::new(false));
        let kept = Kept::default();
        VfioUserDevice { client, direct, posts, keeps_server, parked, keeper, kept }
    }

    /// Before a write that is not to be followed by what was posted before it: the device has seen that, and it is kept
    /// no more.
    fn settle_posts(&self) -> Result<(), ClientError> {
        if let Some(keeper) = self.doorbells().filter(|keeper| keeper.has_posts()) {
            self.flush_posts()?;
            self.client.read(PCI_CONFIG_REGION, 0, 4)?;
            keeper.forget_posts();
        }
        Ok(())
    }

    /// Keeps a write for the next life, if it is one to a doorbell. True: it may be posted.
    fn keep_write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<bool, ClientError> {
        let Some(keeper) = self.doorbells() else { return Ok(true) };
        let is_doorbell = keeper.is_doorbell(index, offset);
        if is_doorbell && keeper.post(offset, size, value) {
            return Ok(true);
        }
        self.settle_posts()?;
        Ok(is_doorbell && keeper.post(offset, size, value))
    }

    /// Who keeps what is posted to a server that comes back as the life before of this process left it.
    fn doorbells(&self) -> Option<&Keeper> {
        self.keeper.as_deref().filter(|_| !self.keeps_server)
    }

    fn later(&self) -> MutexGuard<'_, Option<(Transcript, DeviceV1)>> {
        // Set once, taken once.
        self.kept.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn posts(&self) -> MutexGuard<'_, Vec<SmallWrite>> {
        // Consistent between calls, so a poisoned lock is harmless.
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceError for ClientError {
    fn is_refusal(&self) -> bool {
        ClientError::is_refusal(self)
    }
}

impl DeviceEnd for VfioUserDevice {
    type Error = ClientError;

    fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, ClientError> {
        self.client.read(index, offset, size)
    }

    fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), ClientError> {
        self.keep_write(index, offset, size, value)?;
        self.client.write(index, offset, size, value)
    }

    fn post(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), ClientError> {
        let Some(write) = self.client.posted(index, offset, size, value) else { return Ok(()) };
        if !self.keep_write(index, offset, size, value)? {
            // In the ring until it is done.
            return self.client.write(index, offset, size, value);
        }
        if self.kept.is_kept.load(Relaxed) {
            // It is out of the ring then, and so must be in the stream.
            return self.client.post(&[write]);
        }
        let is_full = {
            let mut posts = self.posts();
            posts.push(write);
            posts.len() >= self.client.batch_max()
        };
        if is_full { self.flush_posts() } else { Ok(()) }
    }

    fn flush_posts(&self) -> Result<(), ClientError> {
        let posts = std::mem::take(&mut *self.posts());
        if posts.is_empty() { Ok(()) } else { self.client.post(&posts) }
    }

    fn taken(&self, sequence: u64) {
        self.client.begin_access(sequence);
    }

    fn answered(&self) {
        self.client.end_access();
    }

    fn reset(&self) -> Result<(), ClientError> {
        self.settle_posts()?;
        self.client.reset()
    }

    const LOSES_UNMASK: bool = true;

    fn set_running(&self, running: bool) -> Result<(), ClientError> {
        self.client.set_running(running)
    }

    fn in_flight(&self) -> Quiescence {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let transfers = number(self.client.in_flight().commands);
        Quiescence { posts: number(self.posts().len()), transfers, ..Quiescence::NONE }
    }

    fn close(&self) {
        self.client.close();
    }
}

impl Interrupts for VfioUserDevice {
    /// Its vectors get no irqfd: an MSI's address is translated at every signal, and a route could be stale.
    fn offer_interrupts(
        &mut self,
        eventfds: &Eventfds,
        _link: &FunctionLink,
        _name: &str,
    ) -> Result<Option<ClientError>, ClientError> {
        let refused = self.client.offer_interrupts(eventfds)?;
        self.client.end_conversation();
        Ok(refused)
    }

    fn give_vectors(&self, _eventfds: &Eventfds, _link: &FunctionLink, _name: &str) {}

    fn adopt_interrupts(&mut self, eventfds: &Eventfds) {
        self.client.adopt_interrupts(eventfds);
        self.client.end_conversation();
    }

    fn switch_interrupts(&self, msix: bool) -> Result<bool, ClientError> {
        if self.kept.waits.load(Relaxed) {
            return Ok(false);
        }
        let is_changed = self.client.switch_interrupts(msix)?;
        if self.kept.are_lost.swap(false, Relaxed) {
            // Once more than is true, for each of them.
            self.client.signal_all();
        }
        Ok(is_changed)
    }

    fn unmask_intx(&self) -> Result<(), ClientError> {
        self.client.unmask_intx()
    }

    fn begin(&self) -> bool {
        self.kept.waits.swap(false, Relaxed)
    }

    /// Signals are read at once and kept as the vector's pending bit.
    fn is_pending(&self, _vector: usize) -> bool {
        false
    }
}

impl Backend for VfioUserDevice {
    type Given = Given;
    type Unopened = Unopened;
    type Iommu = SoftIommu;
    type Saved = saved::Saved;
    type Unit = ServerV1;

    fn configure(
        Given { server: socket, checkpoint }: Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(SoftIommu, Unopened), Failure> {
        let direct = config
            .direct_dma
            .then(|| Direct::new(Arc::clone(ram.file()), config.ram.clone(), Arc::clone(log)));
        let keeps_server = config.keeps_server;
        let kept = config.next_life.clone().map(|registers| {
            let region = Region::from_fd(checkpoint, CHECKPOINT_LEN)?;
            let transcript = keeps_server.then(|| Transcript::attach(&region)).transpose()?;
            Ok((Arc::new(Keeper::new(&region, registers)?), transcript))
        });
        let kept: Result<_, ipc::error::Error> = kept.transpose();
        let kept = kept.map_err(|error| Failure::new("map the function's checkpoint", error))?;
        let (keeper, transcript) = kept.unzip();
        let transcript = transcript.flatten();
        let ram = guest_memory::map(ram, &config.ram)
            .map_err(|error| Failure::new("map the RAM that DMA reaches", error))?;
        let ram = GuestMemory::new(Arc::new(ram), Arc::clone(log));
        let unopened = Unopened { socket, direct, keeps_server, keeper, transcript };
        Ok((SoftIommu::new(config.model, ram, config.stream), unopened))
    }

    fn open(
        Unopened { socket, direct, keeps_server, keeper, transcript }: Unopened,
        saved: Option<saved::Saved>,
        until: Deadline,
    ) -> Result<(VfioUserDevice, Opened), ClientError> {
        let is_resumed = matches!(saved, Some(saved::Saved::Resumed(_)));
        let (client, opened) = match saved {
            None => Client::open(socket, until)?,
            Some(saved) => saved.open(socket, transcript.as_ref(), until)?,
        };
        let device = VfioUserDevice::new(client, direct, keeps_server, keeper);
        if let Some(keeper) = device.doorbells() {
            // All that the life before has posted.
            device.client.post(&keeper.posts())?;
        }
        if is_resumed {
            let Kept { later: _, is_kept, waits, are_lost } = &device.kept;
            [is_kept, waits, are_lost].into_iter().for_each(|flag| flag.store(true, Relaxed));
            let session = device.client.save_session();
            let connection = ConnectionV1::Kept(session, device.client.description(&opened));
            device.keeper.iter().for_each(|keeper| keeper.keep_connection(connection.clone()));
        } else {
            let later = transcript.map(|transcript| (transcript, device.client.description(&opened)));
            *device.later() = later;
        }
        Ok((device, opened))
    }

    fn load(unopened: &Unopened, units: Units) -> Result<saved::Saved, Failure> {
        saved::Saved::load(units, unopened.keeps_server)
    }

    fn revive(unopened: &Unopened) -> Result<(FunctionV1, saved::Saved), Failure> {
        if unopened.keeper.is_none() {
            return Err(process::no_checkpoint());
        }
        saved::Saved::revived(unopened).map_err(|why| Failure::new("revive the function", why))
    }

    fn begin_keeping(&self) {
        let later = self.later().take();
        if let (Some((transcript, device)), Some(keeper)) = (later, &self.keeper) {
            let connection = self.client.keep_in(transcript, device);
            self.kept.is_kept.store(matches!(connection, ConnectionV1::Kept(..)), Relaxed);
            keeper.keep_connection(connection);
        }
    }

    fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_deref()
    }

    fn comes_back(&self, error: &ClientError) -> bool {
        self.doorbells().is_some() && error.is_of_the_end()
    }

    fn check_save(&self) -> Result<(), String> {
        saved::check(self)
    }

    fn save(&self, units: &mut UnitWriter<&mut dyn Write>) -> Result<(), ClientError> {
        saved::save(self, units)
    }

    fn take_back(&self) -> Result<(), ClientError> {
        saved::take_back(self)
    }

    fn start_thread(function: &Arc<Function<VfioUserDevice>>) -> io::Result<()> {
        dma::start_thread(function)
    }

    fn before_stage1(&self, requests: &[Stage1Request]) -> Result<(), ClientError> {
        let leaves = |request: &Stage1Request| match request {
            Stage1Request::Attach { to, .. } => *to != Attachment::Bypass,
            Stage1Request::Invalidate(_) => false,
        };
        match &self.direct {
            Some(direct) if requests.iter().any(leaves) => direct.take_back(&self.client),
            _ => Ok(()),
        }
    }

    fn after_stage1(&self, iommu: &Mutex<SoftIommu>) -> Result<(), ClientError> {
        let Some(direct) = &self.direct else { return Ok(()) };
        let is_bypassed = iommu.lock().unwrap_or_else(PoisonError::into_inner).is_bypassed();
        if is_bypassed { direct.give(&self.client) } else { Ok(()) }
    }

    /// An MSI is a write of the device, translated like any other.
    fn send(iommu: &mut SoftIommu, Message { address, data }: Message, doorbell: Gpa) -> Arrival {
        let address = Iova(address);
        match iommu.write_target(address) {
            Ok(gpa) if gpa == doorbell => Arrival::Doorbell,
            Ok(_) if iommu.write(address, &data.to_le_bytes()).is_ok() => Arrival::Memory,
            Ok(_) | Err(_) => Arrival::Nowhere,
        }
    }

    /// The process's own log is the only one.
    fn set_dirty_tracking(_iommu: &mut SoftIommu, _enabled: bool) {}

    /// Writes by message are in the log already.
    fn gather_dirty(device: Option<&VfioUserDevice>, _iommu: &mut SoftIommu, _log: &DirtyLog) -> Exactness {
        device.and_then(|device| device.direct.as_ref()).map_or(Exactness::Exact, Direct::exactness)
    }

    fn inspect_iommu(iommu: &SoftIommu, inspect: &mut Inspect) {
        let Counters { bytes_read, bytes_written, terminated, attached, invalidated } = *iommu.counters();
        for (name, value) in [
            ("dma.bytes_read", bytes_read),
            ("dma.bytes_written", bytes_written),
            ("dma.terminated", terminated),
            ("stage1.attachments", attached),
            ("stage1.invalidations", invalidated),
            ("iotlb.entries", u64::try_from(iommu.cached_translations()).unwrap_or(u64::MAX)),
        ] {
            inspect.counter(name, value);
        }
        inspect.text("stage1.attached", iommu.attached());
    }

    fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("dma.direct", self.direct.as_ref().map_or("off", Direct::as_str));
    }
}
