// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seam to what is behind a function: a vfio-user server ([`crate::vfio_user`]) or a physical device
//! ([`crate::physical`]).
//!
//! A back end owns its device, its translation ([`Backend::Iommu`]), the path of its MSIs and how its writes reach
//! the dirty log. Three traits: [`DeviceEnd`] is register access, reset and run state, [`Interrupts`] the eventfds,
//! [`Backend`] opening, saving and access to guest memory. Everything generic over them is compiled once per program:
//! neither program has code for the other's devices.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Stage1Request;
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::SavedState;
use ipc::saved::stream::{UnitReader, UnitWriter};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;

use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::iommu::HostIommu;
use crate::keeper::Keeper;
use crate::pci::bar::BAR_COUNT;
use crate::pci::intx::Pin;
use crate::pci::msix::Message;
use crate::pci::windows::Mappable;
use crate::saved::FunctionV1;

/// Why a request failed: the device is lost, or it refused this one.
pub trait DeviceError: fmt::Display {
    /// Whether only this request was refused and the device can still be used.
    fn is_refusal(&self) -> bool;
}

/// What a device reported when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its configuration space, 256 bytes.
    pub config: Vec<u8>,
    /// The lengths of its BARs.
    pub bar_lens: [u64; BAR_COUNT],
    /// How many MSI-X vectors it can signal.
    pub vectors: u16,
    /// Its INTx pin, if it has one.
    pub intx: Option<Pin>,
    /// The parts of its BARs that can be mapped, and the file to map them from.
    pub mappables: Vec<(Mappable, Arc<OwnedFd>)>,
}

/// The eventfds that a device signals on interrupts.
#[derive(Clone, Debug, Default)]
pub struct Eventfds {
    /// One per MSI-X vector.
    pub vectors: Arc<[OwnedFd]>,
    /// For its INTx pin, if it has one.
    pub intx: Option<Arc<OwnedFd>>,
}

/// The state units that follow the function's own: they are read while the device is opened.
pub type Units = UnitReader<Box<dyn Read + Send>>;

/// Where an MSI of the device was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// To the interrupt controller: it is an interrupt.
    Doorbell,
    /// To RAM, as any write.
    Memory,
    /// Nowhere: its address did not translate.
    Nowhere,
}

/// The device's registers, reset and run state. Regions have VFIO's indices.
pub trait DeviceEnd: fmt::Debug + Send + Sync + Sized + 'static {
    /// Why a request failed.
    type Error: DeviceError;

    /// Reads up to 8 bytes of a region. `None`: the region does not have these bytes.
    ///
    /// # Errors
    /// If the device is lost, or refuses the request.
    fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, Self::Error>;

    /// Writes up to 8 bytes of a region, if it is there, and waits until it is done.
    ///
    /// # Errors
    /// If the device is lost, or refuses the request.
    fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), Self::Error>;

    /// Posts a write: it may be held back until [`Self::flush_posts`].
    ///
    /// # Errors
    /// If the device is lost.
    fn post(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), Self::Error>;

    /// Sends posted writes: called before any other access, and when the ring is empty.
    ///
    /// # Errors
    /// If the device is lost.
    fn flush_posts(&self) -> Result<(), Self::Error>;

    /// The guest's next access has this number in the ring, under which a life before may have begun it.
    fn taken(&self, sequence: u64);

    /// The guest's last access was answered: a next life does not do it again.
    fn answered(&self);

    /// Resets the device, if it can be. Its interrupts stay connected.
    ///
    /// # Errors
    /// If the device is lost, or refuses the request.
    fn reset(&self) -> Result<(), Self::Error>;

    /// Whether a request to unmask INTx may be lost while the device is stopped.
    const LOSES_UNMASK: bool;

    /// Stops or resumes the device, if it has migration states: stopped, it does no DMA and keeps requests in
    /// progress.
    ///
    /// # Errors
    /// If the device is lost, or cannot do it.
    fn set_running(&self, running: bool) -> Result<(), Self::Error>;

    /// Requests in flight, for `inspect`. Never blocks.
    fn in_flight(&self) -> Quiescence;

    /// The device has failed: no further request is sent to it.
    fn close(&self);
}

/// The device's interrupts. One kind is connected at a time, MSI-X or INTx, whichever the guest has enabled.
pub trait Interrupts: DeviceEnd {
    /// Takes the eventfds, tries both kinds, and offers the vCPU process those vectors that KVM can inject by irqfd;
    /// the last step of opening the device. Returns why there is no INTx, if the device has a pin.
    ///
    /// # Errors
    /// If the vectors cannot be connected, or there would be no interrupt at all.
    fn offer_interrupts(
        &mut self,
        eventfds: &Eventfds,
        link: &FunctionLink,
        name: &str,
    ) -> Result<Option<Self::Error>, Self::Error>;

    /// Offers the vCPU process those vectors that KVM can inject by irqfd: also when the life before of this process
    /// had done so, and died.
    fn give_vectors(&self, eventfds: &Eventfds, link: &FunctionLink, name: &str);

    /// Takes the eventfds of a restored device and connects none yet; the last step of opening it.
    fn adopt_interrupts(&mut self, eventfds: &Eventfds);

    /// Connects the vectors (`msix`), or the pin. True: something was connected that was not.
    ///
    /// # Errors
    /// If the device is lost, or refuses the request.
    fn switch_interrupts(&self, msix: bool) -> Result<bool, Self::Error>;

    /// Unmasks INTx, which masked itself when it signalled. Does nothing while INTx is not connected.
    ///
    /// # Errors
    /// If the device is lost, or refuses the request.
    fn unmask_intx(&self) -> Result<(), Self::Error>;

    /// The function goes on, and answers what the device asks. True: until now its interrupts could not be connected,
    /// and the caller does.
    fn begin(&self) -> bool;

    /// Whether the vector has a signal pending in its eventfd.
    fn is_pending(&self, vector: usize) -> bool;
}

/// What is behind a function.
pub trait Backend: Interrupts {
    /// The descriptors that its program inherits for it.
    type Given: fmt::Debug + Send;
    /// The device as configured, before `Arm` opens it.
    type Unopened: Send + 'static;
    /// What `Load` read for it from the saved state.
    type Saved: Send + 'static;
    /// The state unit of its own part.
    type Unit: SavedState;
    /// What translates its DMA. It outlives a device that fails: the vSMMU's requests are still carried out.
    type Iommu: HostIommu + fmt::Debug + Send;

    /// Makes guest RAM the stage 2 of the device's DMA, with the stream attached to abort. A feature that the host
    /// lacks fails here, before a guest is started. Waits for no peer.
    ///
    /// # Errors
    /// If the host cannot provide something; the error names it.
    fn configure(
        given: Self::Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(Self::Iommu, Self::Unopened), Failure>;

    /// Opens the device: reads its description and resets it, or restores the state in `saved`, which leaves it
    /// stopped. All of it, connecting the interrupts included, ends by `until`.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn open(
        unopened: Self::Unopened,
        saved: Option<Self::Saved>,
        until: Deadline,
    ) -> Result<(Self, Opened), Self::Error>;

    /// Reads the back end's own part of a saved state.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(unopened: &Self::Unopened, units: Units) -> Result<Self::Saved, Failure>;

    /// From now on this life keeps what a next one needs, beside the function.
    fn begin_keeping(&self);

    /// What the life before has left, which died, in the memory object that it was given for that.
    ///
    /// # Errors
    /// If there is none, or it cannot be gone on from.
    fn revive(unopened: &Self::Unopened) -> Result<(FunctionV1, Self::Saved), Failure>;

    /// Where the next life finds the function, if there may be one.
    fn keeper(&self) -> Option<&Keeper>;

    /// Whether this error means that the device's server is gone, and comes back with a next life of this process.
    fn comes_back(&self, error: &Self::Error) -> bool;

    /// Whether the device could be saved now. Waits for no peer.
    ///
    /// # Errors
    /// Why it could not.
    fn check_save(&self) -> Result<(), String>;

    /// Writes the back end's own state. The device is stopped before and after; the next process may use it until
    /// [`Self::take_back`].
    ///
    /// # Errors
    /// Why it cannot be saved.
    fn save(&self, units: &mut UnitWriter<&mut dyn Write>) -> Result<(), Self::Error>;

    /// Takes the device back after a failed move, if the next process may have used it: stopped, with its interrupts
    /// connected as before.
    ///
    /// # Errors
    /// If the device is lost.
    fn take_back(&self) -> Result<(), Self::Error>;

    /// Starts the thread that serves what the back end sends by itself: a server's DMA requests, or the kernel's
    /// fault queue.
    ///
    /// # Errors
    /// If the thread cannot be started.
    fn start_thread(function: &Arc<Function<Self>>) -> io::Result<()>;

    /// Called before the vSMMU's requests are carried out. No lock is held.
    ///
    /// # Errors
    /// If the device has to be marked failed.
    fn before_stage1(&self, requests: &[Stage1Request]) -> Result<(), Self::Error>;

    /// Called after they were carried out and before they are answered. No lock is held.
    ///
    /// # Errors
    /// If the device has to be marked failed.
    fn after_stage1(&self, iommu: &Mutex<Self::Iommu>) -> Result<(), Self::Error>;

    /// Delivers a vector's MSI as the guest programmed it, and returns where it went.
    fn send(iommu: &mut Self::Iommu, message: Message, doorbell: Gpa) -> Arrival;

    /// Switches dirty logging outside of this process (IOMMU, device). Called at any time, whether the device is open
    /// or not.
    fn set_dirty_tracking(iommu: &mut Self::Iommu, enabled: bool);

    /// Merges pages that were logged elsewhere into the process's log before it is flipped, and returns how exact the
    /// log is then. `device` is absent while it is not open.
    fn gather_dirty(device: Option<&Self>, iommu: &mut Self::Iommu, log: &DirtyLog) -> Exactness;

    /// Counters and states of its translation, for `inspect` and tests.
    fn inspect_iommu(iommu: &Self::Iommu, inspect: &mut Inspect);

    /// Counters and states of the device. Never blocks on a peer.
    fn inspect(&self, inspect: &mut Inspect);
}
