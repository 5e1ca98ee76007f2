// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function as a whole: the guest's accesses, the device's DMA and interrupts, each as one call of one thread.
//!
//! Lock order: bus link, then gate, then configuration space, then IOMMU; none is held while the server is asked, because the server may
//! need us to answer first. The gate is what pause closes: while it is, nothing here changes the guest. A device
//! that fails is gone for good: its server is not asked any more, reads are all ones, and the guest goes on.

mod interrupts;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use ipc::addr::{Gpa, GpaRange, Iova};
use ipc::deadline::Deadline;
use ipc::doorbell::Ringer;
use ipc::error::Error;
use ipc::protocol::control::Event;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::{Attachment, Order};
use ipc::protocol::vfio::{BarAreas, CONFIG_REGION};
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::ring::{Access, Op};
use ipc::vfio_user::connection::Incoming;
use ipc::vfio_user::device::PCI_CONFIG_REGION;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::SmallWrite;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::bus_link::BusLink;
use crate::client::{Client, ClientError};
use crate::direct::Direct;
use crate::end::{DeviceEnd, EndError};
use crate::gate::Gate;
use crate::iommu::engine::Engine;
use crate::iommu::software::SoftIommu;
use crate::pci::config_space::ConfigSpace;
use crate::pci::msix::Message;
use crate::report::Report;
use crate::stage1_link::Stage1Link;

/// Where the interrupts of the function go.
#[derive(Debug)]
pub struct InterruptTarget {
    /// The guest physical address that makes a write an interrupt.
    pub doorbell: Gpa,
    /// Pending events for the vCPU process.
    pub board: MsiBoard,
    /// Tells it to look.
    pub ringer: Ringer,
    /// Tells it that the INTx pin is asserted.
    pub pin: Ringer,
}

/// The processes beside the device's.
#[derive(Debug)]
pub struct Links {
    /// The vSMMU.
    pub stage1: Stage1Link,
    /// The process that has the guest's address space.
    pub bus: BusLink,
    /// The coordinator.
    pub report: Report,
}

/// A device that the guest uses.
#[derive(Debug)]
pub struct Function {
    /// For people.
    pub name: String,
    /// The device; absent if it could not be opened.
    device: Option<Device>,
    /// Its translation.
    pub iommu: Mutex<Engine>,
    /// Whether the function may make transactions; changed and looked at with the IOMMU locked.
    bus_master: AtomicBool,
    /// Its vSMMU.
    pub stage1: Stage1Link,
    /// The process that has the guest's address space.
    pub bus: BusLink,
    /// Closed while the guest is paused.
    pub gate: Gate,
    areas: BarAreas,
    msi: InterruptTarget,
    /// Messages that were brought from here.
    messages: AtomicU64,
    /// How often the pin was asserted.
    pin_raised: AtomicU64,
    /// When it was asserted last, if that is not long ago.
    pin_busy: Mutex<Option<Instant>>,
    failed: OnceLock<String>,
    /// Where the device's failure is told.
    report: Report,
}

#[derive(Debug)]
struct Device {
    end: DeviceEnd,
    /// Guest RAM for the server while the stream is in bypass, if the configuration says so.
    direct: Option<Direct>,
    space: Mutex<ConfigSpace>,
    /// Posted writes that are not sent yet: only while more requests are in the ring, and never behind another access.
    posts: Mutex<Vec<SmallWrite>>,
}

/// What an access to a BAR meets.
enum Meets {
    Nothing,
    Value(u64),
    Released(Vec<Message>),
    Region { index: u32, offset: u64 },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All that these guard is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a read of nothing returns.
pub fn ones(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * u32::from(size))) - 1 }
}

impl Function {
    /// A function in front of a device, or of none, if opening it failed: that is told by whoever opened it.
    pub fn new(
        name: String,
        opened: Result<(DeviceEnd, ConfigSpace), String>,
        direct: Option<Direct>,
        iommu: Engine,
        links: Links,
        areas: BarAreas,
        msi: InterruptTarget,
    ) -> Function {
        let failed = OnceLock::new();
        let device = match opened {
            Ok((end, space)) => {
                Some(Device { end, direct, space: Mutex::new(space), posts: Mutex::default() })
            }
            Err(reason) => {
                let _ = failed.set(reason);
                None
            }
        };
        let Links { stage1, bus, report } = links;
        let iommu = Mutex::new(iommu);
        let gate = Gate::default();
        let [messages, pin_raised] = [const { AtomicU64::new(0) }; 2];
        Function {
            name,
            device,
            iommu,
            bus_master: AtomicBool::new(false),
            stage1,
            bus,
            gate,
            areas,
            msi,
            messages,
            pin_raised,
            pin_busy: Mutex::new(None),
            failed,
            report,
        }
    }

    /// Why the device is gone, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Its translation, alone with it.
    pub fn iommu(&self) -> MutexGuard<'_, Engine> {
        lock(&self.iommu)
    }

    /// Handles one access of the guest; the value is for reads.
    pub fn access(&self, access: Access) -> u64 {
        let size = access.size;
        let Some(device) = self.device.as_ref().filter(|_| self.failed.get().is_none()) else {
            return ones(size);
        };
        if !matches!(access.op, Op::Post(_)) {
            self.flush_posts();
        }
        match access.region {
            CONFIG_REGION => self.access_config(device, access),
            region => self.areas.of(region).map_or(ones(size), |area| self.access_bar(device, access, area)),
        }
    }

    /// Sends what is posted: before any other access, and when the ring is empty.
    pub fn flush_posts(&self) {
        let Some(device) = &self.device else { return };
        let Some(client) = device.end.server() else { return };
        let posts = std::mem::take(&mut *lock(&device.posts));
        if !posts.is_empty() && self.failed.get().is_none() {
            self.settle(client.post(&posts));
        }
    }

    fn post(&self, device: &Device, index: u32, offset: u64, size: u8, value: u64) {
        let Some(client) = device.end.server() else {
            // The kernel's write is one call, and waits for no answer of the device's.
            self.settle(device.end.write(index, offset, size, value));
            return;
        };
        let Some(write) = client.posted(index, offset, size, value) else { return };
        let full = {
            let mut posts = lock(&device.posts);
            posts.push(write);
            posts.len() >= client.batch_max()
        };
        if full {
            self.flush_posts();
        }
    }

    fn access_config(&self, device: &Device, access: Access) -> u64 {
        let Access { offset, size, .. } = access;
        match access.op {
            Op::Read => {
                let own = lock(&device.space).read(offset, size);
                own.unwrap_or_else(|| self.read_device(device, PCI_CONFIG_REGION, offset, size))
            }
            Op::Write(value) | Op::Post(value) => {
                let (wish, released) = {
                    let mut space = lock(&device.space);
                    let wish = space.write(offset, size, value);
                    (wish, space.msix.released())
                };
                self.follow_bus_master(device);
                if wish.reset || !lock(&device.space).memory_answers() {
                    // Before the device knows: its memory may not be touched from then on.
                    self.show_windows_if(|| false);
                }
                if wish.reset {
                    self.settle(device.end.reset());
                    let wishes = lock(&device.space).reset();
                    self.follow_bus_master(device);
                    // Before what follows from the pin's reset: it is connected by then.
                    self.follow(device);
                    wishes.into_iter().for_each(|wish| self.grant(device, wish));
                } else if wish.forward {
                    self.settle(device.end.write(PCI_CONFIG_REGION, offset, size, value));
                }
                self.follow(device);
                self.grant(device, wish.intx);
                self.show_windows();
                self.send_all(&released);
                0
            }
        }
    }

    /// Windows are there for the guest while its accesses reach the device, the device works, and its pin is quiet.
    pub fn show_windows(&self) {
        self.show_windows_if(|| {
            let device = self.device.as_ref().filter(|_| self.failed.get().is_none());
            device.is_some_and(|device| lock(&device.space).memory_answers()) && self.pin_is_quiet()
        });
    }

    fn show_windows_if(&self, wanted: impl FnOnce() -> bool) {
        if let Err(error) = self.bus.show(wanted) {
            ipc::log::warn!("{}: the vCPU process was not told of its memory: {error}", self.name);
        }
    }

    fn access_bar(&self, device: &Device, access: Access, area: GpaRange) -> u64 {
        let size = access.size;
        let gpa = area.start().checked_add(access.offset);
        let met = gpa.map_or(Meets::Nothing, |gpa| meet(device, gpa, size, access.op));
        match (met, access.op) {
            (Meets::Nothing, _) => ones(size),
            (Meets::Value(value), _) => value,
            (Meets::Released(messages), _) => {
                self.route_vectors();
                self.send_all(&messages);
                0
            }
            (Meets::Region { index, offset }, Op::Read) => self.read_device(device, index, offset, size),
            (Meets::Region { index, offset }, Op::Write(value)) => {
                self.settle(device.end.write(index, offset, size, value));
                0
            }
            (Meets::Region { index, offset }, Op::Post(value)) => {
                self.post(device, index, offset, size, value);
                0
            }
        }
    }

    fn read_device(&self, device: &Device, index: u32, offset: u64, size: u8) -> u64 {
        self.settle(device.end.read(index, offset, size)).flatten().unwrap_or(ones(size))
    }

    /// Waits for the next thing that the device asks, and answers it. False: it will ask nothing more.
    pub fn serve_device(&self, deadline: Deadline) -> bool {
        let Some(device) = self.device.as_ref().filter(|_| self.failed.get().is_none()) else { return false };
        // A real device asks the host's IOMMU, not us.
        let Some(client) = device.end.server() else { return false };
        if let Some(Some(incoming)) = self.settle(client.receive(deadline)) {
            self.settle(self.answer(client, &incoming));
        }
        self.failed.get().is_none()
    }

    fn answer(&self, client: &Client, incoming: &Incoming) -> Result<(), ClientError> {
        match incoming.command() {
            Command::DMA_READ => {
                let Ok((access, count)) = DmaAccess::decode_read(&incoming.body) else {
                    return client.refuse(incoming, Errno::INVAL);
                };
                let mut bytes = vec![0; count];
                let iova = Iova(access.address.get());
                if self.dma(|iommu| iommu.read(iova, &mut bytes).is_ok()) {
                    client.reply(incoming, &[access.as_bytes(), &bytes])
                } else {
                    client.refuse(incoming, Errno::FAULT)
                }
            }
            Command::DMA_WRITE => {
                let Ok((access, bytes)) = DmaAccess::decode_write(&incoming.body) else {
                    return client.refuse(incoming, Errno::INVAL);
                };
                let iova = Iova(access.address.get());
                if self.dma(|iommu| iommu.write(iova, bytes).is_ok()) {
                    client.reply(incoming, &[access.as_bytes()])
                } else {
                    client.refuse(incoming, Errno::FAULT)
                }
            }
            _ => client.refuse(incoming, Errno::NOTSUP),
        }
    }

    /// Waits for the next orders of the vSMMU, and carries them out.
    ///
    /// # Errors
    /// The channel's.
    pub fn serve_stage1(&self) -> Result<(), Error> {
        let leaves = |order: &Order| !matches!(order, Order::Attach { to: Attachment::Bypass, .. });
        let attaches = |order: &&Order| matches!(order, Order::Attach { .. });
        let before = |orders: &[Order]| {
            if orders.iter().filter(attaches).any(leaves) {
                self.with_direct(Direct::take_back);
            }
        };
        let after = || {
            if lock(&self.iommu).software().is_some_and(|iommu| iommu.is_bypassed()) {
                self.with_direct(Direct::give);
            }
        };
        self.stage1.serve(&self.iommu, &self.gate, before, after)
    }

    fn with_direct(&self, change: impl Fn(&Direct, &Client) -> Result<(), ClientError>) {
        let device = self.device.as_ref().filter(|_| self.failed.get().is_none());
        let both = device.and_then(|device| Some((device.direct.as_ref()?, device.end.server()?)));
        let Some((direct, client)) = both else { return };
        if let Err(error) = change(direct, client) {
            self.fail(&format!("its DMA windows cannot be exchanged: {error}"));
        }
    }

    /// Marks what a server with guest RAM may have written.
    pub fn mark_direct(&self) {
        if let Some(direct) = self.device.as_ref().and_then(|device| device.direct.as_ref()) {
            direct.mark_all();
        }
    }

    /// From the return on the server's DMA is as the command register says: none is under way that has not seen it.
    fn follow_bus_master(&self, device: &Device) {
        let master = lock(&device.space).bus_master();
        let _transfers = lock(&self.iommu);
        self.bus_master.store(master, Relaxed);
    }

    fn dma(&self, transfer: impl FnOnce(&mut SoftIommu) -> bool) -> bool {
        let done = {
            let _open = self.gate.enter();
            let mut iommu = lock(&self.iommu);
            // What may not reach the bus is not translated either: no fault is recorded.
            self.bus_master.load(Relaxed) && iommu.software().is_some_and(transfer)
        };
        if !done {
            self.stage1.tell_faults(&self.iommu, &self.gate);
        }
        done
    }

    /// Takes a result apart: a refusal is the device's answer, anything else is its end.
    fn settle<T, E: Into<EndError>>(&self, result: Result<T, E>) -> Option<T> {
        match result.map_err(Into::into) {
            Ok(value) => Some(value),
            Err(error) if error.is_refusal() => None,
            Err(error) => {
                self.fail(&error.to_string());
                None
            }
        }
    }

    /// Stops the device, or lets it go on. One without such states is kept from the guest by the gate alone; one that
    /// cannot do what it offered has failed.
    pub fn set_running(&self, running: bool) {
        let Some(device) = self.device.as_ref().filter(|_| self.failed.get().is_none()) else { return };
        if let Err(error) = device.end.set_running(running) {
            self.fail(&format!("it cannot be stopped and started: {error}"));
            return;
        }
        // A server may have let an order to unmask pass while it was stopped.
        let quiet = || lock(&device.space).intx.is_some_and(|intx| !intx.is_pending());
        if running && device.end.server().is_some() && quiet() {
            self.settle(device.end.unmask_intx());
        }
    }

    /// Counters for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("state", if self.failure().is_some() { "failed" } else { "works" });
        if let Some(reason) = self.failure() {
            inspect.text("failure", reason);
        }
        lock(&self.iommu).inspect(inspect);
        let direct = self.device.as_ref().and_then(|device| device.direct.as_ref());
        inspect.text("dma.direct", direct.map_or("off", Direct::word));
        self.bus.inspect(inspect);
        inspect.counter("messages.hopped", self.messages.load(Relaxed));
        inspect.counter("intx.raised", self.pin_raised.load(Relaxed));
    }

    /// The device is gone.
    pub fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            if let Some(device) = &self.device {
                device.end.close();
            }
            self.show_windows();
            self.route_vectors();
            self.report.tell(Event::DeviceFailed(reason.to_owned()));
        }
    }
}

/// Finds out what a BAR access is for, and does what the MSI-X structures can do alone.
fn meet(device: &Device, gpa: Gpa, size: u8, op: Op) -> Meets {
    let space = &mut *lock(&device.space);
    let Some((bar, offset)) = space.bars.find(gpa, size.into()) else { return Meets::Nothing };
    if !space.answers(&bar) {
        return Meets::Nothing;
    }
    let table = space.table().and_then(|place| place.offset_of(bar.index, offset));
    let pending = space.pending().and_then(|place| place.offset_of(bar.index, offset));
    match (table, pending, op) {
        (Some(at), _, Op::Read) => Meets::Value(words(at, size, |at| space.msix.read_table(at))),
        (Some(at), _, Op::Write(value) | Op::Post(value)) => {
            // The table takes whole words only (PCI 3.0 section 6.8.2).
            let [low, high] = [value & u64::from(u32::MAX), value >> 32];
            let halves = [(4, at, low), (8, at.saturating_add(4), high)];
            for (_, at, half) in
                halves.into_iter().filter(|(least, ..)| matches!(size, 4 | 8) && size >= *least)
            {
                space.msix.write_table(at, u32::try_from(half).unwrap_or(0));
            }
            Meets::Released(space.msix.released())
        }
        (None, Some(at), Op::Read) => Meets::Value(words(at, size, |at| pending_bits(device, space, at))),
        (None, Some(_), _) => Meets::Value(0),
        (None, None, _) => match u32::try_from(bar.index) {
            Ok(index) => Meets::Region { index, offset },
            Err(_) => Meets::Nothing,
        },
    }
}

fn pending_bits(device: &Device, space: &ConfigSpace, at: u64) -> u32 {
    space.msix.read_pending(at, |vector| device.end.waits(vector))
}

/// A read of any size out of 32-bit registers.
fn words(at: u64, size: u8, read: impl Fn(u64) -> u32) -> u64 {
    let base = at & !3;
    let pair = u64::from(read(base)) | u64::from(read(base.saturating_add(4))) << 32;
    pair >> (8 * (at & 3)) & ones(size)
}
