// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI function over either back end: the guest's accesses, the vSMMU's requests and interrupts, each one call on
//! its own thread.
//!
//! Lock order: function link, then gate, then configuration space, then IOMMU; none is held across a request to the
//! device, because its server may wait for an answer of ours first. A pause closes the gate: while it is closed,
//! nothing here changes guest state. A device that fails stays failed: it gets no further request, reads return all
//! ones, and the guest goes on.

mod interrupts;
mod life;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ipc::addr::{Gpa, GpaRange};
use ipc::doorbell::Ringer;
use ipc::error::Error;
use ipc::protocol::control::Event;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vfio::{BarAreas, CONFIG_REGION};
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::ring::{Access, Op};
use ipc::vfio_user::device::PCI_CONFIG_REGION;

use crate::backend::{Backend, DeviceError};
use crate::function_link::FunctionLink;
use crate::gate::Gate;
use crate::pci::config_space::ConfigSpace;
use crate::pci::msix::Message;
use crate::stage1_link::{Stage1Channel, Stage1Link};
use process::Events;

/// Where the interrupts of the function go.
#[derive(Debug)]
pub struct InterruptTarget {
    /// The guest physical address that makes a write an interrupt.
    pub doorbell: Gpa,
    /// Pending events for the vCPU process.
    pub board: MsiBoard,
    /// Tells the vCPU process to read the board.
    pub ringer: Ringer,
    /// Tells the vCPU process that the INTx pin is asserted.
    pub pin: Ringer,
}

/// Channels to the other processes.
#[derive(Debug)]
pub struct Links {
    /// The vSMMU.
    pub stage1: Stage1Link,
    /// The vCPU process.
    pub vcpu: FunctionLink,
    /// The coordinator.
    pub events: Events,
}

/// A device that the guest uses.
#[derive(Debug)]
pub struct Function<B: Backend> {
    /// For logs.
    pub name: String,
    /// The device; absent if it could not be opened.
    device: Option<Device<B>>,
    /// Its translation.
    pub iommu: Arc<Mutex<B::Iommu>>,
    /// Bus Master Enable; read and written with the IOMMU locked.
    bus_master: AtomicBool,
    /// Its vSMMU.
    pub stage1: Stage1Link,
    /// The vCPU process.
    pub link: FunctionLink,
    /// Closed while the guest is paused.
    pub gate: Gate,
    /// The device is stopped or being stopped: it is not unmasked, since the request could be lost.
    stopped: AtomicBool,
    areas: BarAreas,
    msi: InterruptTarget,
    /// MSIs that this process delivered.
    messages: AtomicU64,
    /// How often the pin was asserted.
    pin_raised: AtomicU64,
    failed: OnceLock<String>,
    /// Where the device's failure is reported.
    pub(crate) events: Events,
}

#[derive(Debug)]
struct Device<B> {
    end: B,
    space: Mutex<ConfigSpace>,
}

/// What an access to a BAR hits.
enum BarTarget {
    /// No BAR is there, or it does not answer.
    Unclaimed,
    /// A read of the MSI-X structures.
    Value(u64),
    /// A write of them, and the pending MSIs that it releases.
    Released(Vec<Message>),
    /// The device.
    Region { index: u32, offset: u64 },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each guarded value is consistent between calls, so a poisoned lock is harmless.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the end of this process may be on its way when that of its server was seen.
const END_SPAN: Duration = Duration::from_secs(10);

/// What a read returns that no device answers.
pub fn ones(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * u32::from(size))) - 1 }
}

impl<B: Backend> Function<B> {
    /// A function over a device, or over none if opening it failed, which the caller reports.
    pub fn new(
        name: String,
        opened: Result<(B, ConfigSpace), String>,
        iommu: Arc<Mutex<B::Iommu>>,
        links: Links,
        areas: BarAreas,
        msi: InterruptTarget,
    ) -> Function<B> {
        let failed = OnceLock::new();
        let device = match opened {
            Ok((end, space)) => Some(Device { end, space: Mutex::new(space) }),
            Err(reason) => {
                let _ = failed.set(reason);
                None
            }
        };
        let Links { stage1, vcpu: link, events } = links;
        let gate = Gate::default();
        let [messages, pin_raised] = [const { AtomicU64::new(0) }; 2];
        Function {
            name,
            device,
            iommu,
            bus_master: AtomicBool::new(false),
            stage1,
            link,
            gate,
            stopped: AtomicBool::new(false),
            areas,
            msi,
            messages,
            pin_raised,
            failed,
            events,
        }
    }

    /// Why the device has failed, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Its translation, locked.
    pub fn iommu(&self) -> MutexGuard<'_, B::Iommu> {
        lock(&self.iommu)
    }

    /// The back end's device, unless it has failed.
    pub(crate) fn device(&self) -> Option<&B> {
        self.working().map(|device| &device.end)
    }

    /// Bus Master Enable. To be read with the IOMMU locked.
    pub(crate) fn is_bus_master(&self) -> bool {
        self.bus_master.load(Relaxed)
    }

    fn working(&self) -> Option<&Device<B>> {
        self.device.as_ref().filter(|_| self.failed.get().is_none())
    }

    /// Handles one access of the guest; the value is for reads.
    pub fn access(&self, access: Access) -> u64 {
        let size = access.size;
        let Some(device) = self.working() else { return ones(size) };
        if !matches!(access.op, Op::Post(_)) {
            self.flush_posts();
        }
        match access.region {
            CONFIG_REGION => {
                let value = self.access_config(device, access);
                if access.op != Op::Read {
                    self.keep();
                }
                value
            }
            region => self.areas.of(region).map_or(ones(size), |area| self.access_bar(device, access, area)),
        }
    }

    /// Keeps the function's state for the next life of the process, before what follows from it is seen.
    pub(crate) fn keep(&self) {
        let Some(device) = &self.device else { return };
        if let Some(keeper) = device.end.keeper() {
            let space = lock(&device.space);
            keeper.keep(&space.save());
        }
    }

    /// From now on it is kept: no life before goes on.
    pub(crate) fn begin_keeping(&self) {
        let Some(device) = &self.device else { return };
        device.end.begin_keeping();
        if let Some(keeper) = device.end.keeper() {
            keeper.begin(&lock(&device.space).save());
        }
    }

    /// The life before has died, perhaps between a message on the board and its doorbell.
    pub(crate) fn ring_board(&self) {
        self.msi.ringer.ring();
    }

    /// Sends posted writes: before any other access, and when the ring is empty.
    pub fn flush_posts(&self) {
        if let Some(device) = self.device() {
            self.settle(device.flush_posts());
        }
    }

    fn access_config(&self, device: &Device<B>, access: Access) -> u64 {
        let Access { offset, size, .. } = access;
        match access.op {
            Op::Read => {
                let own = lock(&device.space).read(offset, size);
                own.unwrap_or_else(|| self.read_device(device, PCI_CONFIG_REGION, offset, size))
            }
            Op::Write(value) | Op::Post(value) => {
                let (effects, released) = {
                    let mut space = lock(&device.space);
                    let effects = space.write(offset, size, value);
                    (effects, space.msix.released())
                };
                self.follow_bus_master(device);
                if effects.reset || !lock(&device.space).memory_answers() {
                    // Before the device sees the write: from then on its memory may not be accessed.
                    self.show_windows_if(|| false);
                }
                if effects.reset {
                    self.settle(device.end.reset());
                    let pin = lock(&device.space).reset();
                    self.follow_bus_master(device);
                    // Before the effect of the pin's reset, which needs it connected.
                    self.follow(device);
                    pin.into_iter().for_each(|effect| self.apply(device, effect));
                } else if effects.forward {
                    self.settle(device.end.write(PCI_CONFIG_REGION, offset, size, value));
                }
                self.follow(device);
                self.apply(device, effects.intx);
                self.show_windows();
                self.send_all(&released);
                0
            }
        }
    }

    /// Windows are shown while memory space is enabled and the device works.
    pub fn show_windows(&self) {
        self.show_windows_if(|| self.working().is_some_and(|device| lock(&device.space).memory_answers()));
    }

    fn show_windows_if(&self, wanted: impl FnOnce() -> bool) {
        if let Err(error) = self.link.show(wanted) {
            ipc::log::warn!("{}: updating its windows over the function link failed: {error}", self.name);
        }
    }

    fn access_bar(&self, device: &Device<B>, access: Access, area: GpaRange) -> u64 {
        let size = access.size;
        let gpa = area.start().checked_add(access.offset);
        let target = gpa.map_or(BarTarget::Unclaimed, |gpa| target_of(device, gpa, size, access.op));
        match (target, access.op) {
            (BarTarget::Unclaimed, _) => ones(size),
            (BarTarget::Value(value), _) => value,
            (BarTarget::Released(messages), _) => {
                self.route_vectors();
                self.send_all(&messages);
                self.keep();
                0
            }
            (BarTarget::Region { index, offset }, Op::Read) => self.read_device(device, index, offset, size),
            (BarTarget::Region { index, offset }, Op::Write(value)) => {
                self.settle(device.end.write(index, offset, size, value));
                0
            }
            (BarTarget::Region { index, offset }, Op::Post(value)) => {
                self.settle(device.end.post(index, offset, size, value));
                0
            }
        }
    }

    fn read_device(&self, device: &Device<B>, index: u32, offset: u64, size: u8) -> u64 {
        self.settle(device.end.read(index, offset, size)).flatten().unwrap_or(ones(size))
    }

    /// Waits for the vSMMU's next requests on this channel and carries them out.
    ///
    /// # Errors
    /// If the channel fails.
    pub fn serve_stage1(&self, channel: &Stage1Channel) -> Result<(), Error> {
        let before = |requests: &[_]| self.settle_stage1(|device| device.before_stage1(requests));
        let after = || self.settle_stage1(|device| device.after_stage1(&self.iommu));
        self.stage1.serve(channel, &self.iommu, &self.gate, before, after)
    }

    fn settle_stage1(&self, prepare: impl FnOnce(&B) -> Result<(), B::Error>) {
        if let Some(Err(error)) = self.device().map(prepare) {
            self.fail(&format!("its DMA windows cannot be exchanged with the server: {error}"));
        }
    }

    /// Sends queued faults to the vSMMU.
    pub fn tell_faults(&self) {
        self.stage1.tell_faults(&self.iommu, &self.gate);
    }

    /// The back end's device, also when it has failed.
    pub(crate) fn opened(&self) -> Option<&B> {
        self.device.as_ref().map(|device| &device.end)
    }

    /// When this returns, Bus Master Enable is in force: no DMA is in progress that began under its old value.
    fn follow_bus_master(&self, device: &Device<B>) {
        let master = lock(&device.space).bus_master();
        let _transfers = lock(&self.iommu);
        self.bus_master.store(master, Relaxed);
    }

    /// Maps a result: a refusal is the device's answer, any other error fails the device.
    pub(crate) fn settle<T>(&self, result: Result<T, B::Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if error.is_refusal() => None,
            Err(error) => {
                self.fail_by(&error);
                None
            }
        }
    }

    /// Counters for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("state", if self.failure().is_some() { "failed" } else { "works" });
        if let Some(reason) = self.failure() {
            inspect.text("failure", reason);
        }
        B::inspect_iommu(&self.iommu(), inspect);
        if let Some(device) = &self.device {
            device.end.inspect(inspect);
        }
        self.link.inspect(inspect);
        inspect.counter("messages.hopped", self.messages.load(Relaxed));
        inspect.counter("intx.raised", self.pin_raised.load(Relaxed));
    }

    /// The device has failed. If its server is gone and comes back with a next life of this process, the guest is not
    /// told: this life ends any moment.
    pub(crate) fn fail_by(&self, error: &B::Error) {
        if self.device.as_ref().is_some_and(|device| device.end.comes_back(error)) {
            let until = Instant::now() + END_SPAN;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
        }
        self.fail(&error.to_string());
    }

    /// Marks the device failed; only the first reason is kept.
    pub fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            if let Some(device) = &self.device {
                device.end.close();
            }
            self.show_windows();
            self.route_vectors();
            self.events.tell(Event::DeviceFailed(reason.to_owned()));
        }
    }
}

/// Decodes a BAR access, and handles it here if it hits the MSI-X structures.
fn target_of<B: Backend>(device: &Device<B>, gpa: Gpa, size: u8, op: Op) -> BarTarget {
    let space = &mut *lock(&device.space);
    let Some((bar, offset)) = space.bars.find(gpa, size.into()) else { return BarTarget::Unclaimed };
    if !space.answers(&bar) {
        return BarTarget::Unclaimed;
    }
    let table = space.table().and_then(|place| place.offset_of(bar.index, offset));
    let pending = space.pending().and_then(|place| place.offset_of(bar.index, offset));
    match (table, pending, op) {
        (Some(at), _, Op::Read) => BarTarget::Value(words(at, size, |at| space.msix.read_table(at))),
        (Some(at), _, Op::Write(value) | Op::Post(value)) => {
            // The table takes whole words only (PCI 3.0 section 6.8.2).
            let [low, high] = [value & u64::from(u32::MAX), value >> 32];
            let halves = [(4, at, low), (8, at.saturating_add(4), high)];
            for (_, at, half) in
                halves.into_iter().filter(|(least, ..)| matches!(size, 4 | 8) && size >= *least)
            {
                space.msix.write_table(at, u32::try_from(half).unwrap_or(0));
            }
            BarTarget::Released(space.msix.released())
        }
        (None, Some(at), Op::Read) => BarTarget::Value(words(at, size, |at| pending_bits(device, space, at))),
        (None, Some(_), _) => BarTarget::Value(0),
        (None, None, _) => match u32::try_from(bar.index) {
            Ok(index) => BarTarget::Region { index, offset },
            Err(_) => BarTarget::Unclaimed,
        },
    }
}

fn pending_bits<B: Backend>(device: &Device<B>, space: &ConfigSpace, at: u64) -> u32 {
    space.msix.read_pending(at, |vector| device.end.is_pending(vector))
}

/// A read of any size out of 32-bit registers.
fn words(at: u64, size: u8, read: impl Fn(u64) -> u32) -> u64 {
    let base = at & !3;
    let pair = u64::from(read(base)) | u64::from(read(base.saturating_add(4))) << 32;
    pair >> (8 * (at & 3)) & ones(size)
}
