// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seam to what is behind a function: a vfio-user server ([`crate::vfio_user`]) or a physical device ([`crate::physical`]).
//!
//! A back end owns its device end, its translation ([`Backend::Iommu`]), the path of its messages and the way its
//! writes reach the dirty log. Three traits, each with one reason: [`DeviceEnd`] is the device's registers and life,
//! [`Interrupts`] its signals, [`Backend`] how both come to be and what they have to do with the guest's memory. Everything
//! generic over them is compiled once per program: neither program has code for the other's devices.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Order;
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::stream::{UnitReader, UnitWriter};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;

use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::iommu::HostIommu;
use crate::pci::bar::BAR_COUNT;
use crate::pci::intx::Pin;
use crate::pci::msix::Message;
use crate::pci::windows::Mappable;

/// Why the device is not asked any more, or has refused.
pub trait DeviceError: fmt::Display {
    /// Whether only one request was refused, and the next may be asked.
    fn is_refusal(&self) -> bool;
}

/// What a device said when it was opened.
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
    /// What of its BARs can be mapped, and the file to map.
    pub mappables: Vec<(Mappable, Arc<OwnedFd>)>,
}

/// The eventfds that a device signals.
#[derive(Clone, Debug, Default)]
pub struct Eventfds {
    /// Of its MSI-X vectors.
    pub vectors: Arc<[OwnedFd]>,
    /// Of its pin, if it has one.
    pub intx: Option<Arc<OwnedFd>>,
}

/// The units of a saved state that come behind the function's own: they are read while the device is opened.
pub type Units = UnitReader<Box<dyn Read + Send>>;

/// Where a message of the device's has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// To the interrupt controller: it is an interrupt.
    Doorbell,
    /// To RAM, as any write.
    Memory,
    /// Nowhere: it met a fault.
    Nowhere,
}

/// The device's registers, and its life. Regions are numbered as VFIO numbers them.
pub trait DeviceEnd: fmt::Debug + Send + Sync + Sized + 'static {
    /// Why a request failed.
    type Error: DeviceError;

    /// Reads up to 8 bytes of a region. `None`: nothing is there.
    ///
    /// # Errors
    /// That the device is lost, or refuses.
    fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, Self::Error>;

    /// Writes up to 8 bytes of a region, if it is there, and waits until it is done.
    ///
    /// # Errors
    /// That the device is lost, or refuses.
    fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), Self::Error>;

    /// Writes, and waits for nothing: it may be held until [`Self::flush_posts`].
    ///
    /// # Errors
    /// That the device is lost.
    fn post(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), Self::Error>;

    /// Sends what was posted: before any other access, and when the ring is empty.
    ///
    /// # Errors
    /// That the device is lost.
    fn flush_posts(&self) -> Result<(), Self::Error>;

    /// Resets the device, if it can be. Its interrupts stay connected.
    ///
    /// # Errors
    /// That the device is lost, or refuses.
    fn reset(&self) -> Result<(), Self::Error>;

    /// Whether an order to unmask the pin may be lost while the device is stopped.
    const LOSES_UNMASK: bool;

    /// Stops the device, or lets it go on, if it has such states: stopped, it does no DMA and holds what it has begun.
    ///
    /// # Errors
    /// That the device is lost, or cannot.
    fn set_running(&self, running: bool) -> Result<(), Self::Error>;

    /// What it has begun, or was asked, and is not finished. Waits for nobody.
    fn in_flight(&self) -> Quiescence;

    /// Nothing more will be asked of it.
    fn close(&self);
}

/// The device's signals. One kind is connected at a time, MSI-X or INTx, as the guest enables them.
pub trait Interrupts: DeviceEnd {
    /// Takes the eventfds, tries both kinds, and offers to the vCPU process what the kernel can carry to the guest; the
    /// end of opening the device. Comes back with why there is no INTx, if it was wanted.
    ///
    /// # Errors
    /// If the vectors cannot be connected, or there would be no interrupt at all.
    fn offer_interrupts(
        &mut self,
        eventfds: &Eventfds,
        link: &FunctionLink,
        name: &str,
    ) -> Result<Option<Self::Error>, Self::Error>;

    /// Takes the eventfds of a device that is restored, and connects none yet; the end of opening it.
    fn adopt_interrupts(&mut self, eventfds: &Eventfds);

    /// Connects the vectors (`msix`), or the pin. True: something was connected that was not.
    ///
    /// # Errors
    /// That the device is lost, or refuses.
    fn switch_interrupts(&self, msix: bool) -> Result<bool, Self::Error>;

    /// Lets the pin signal again, which has masked itself when it signalled. One that is not connected is not masked.
    ///
    /// # Errors
    /// That the device is lost, or refuses.
    fn unmask_intx(&self) -> Result<(), Self::Error>;

    /// Whether a signal of the vector waits in its eventfd for its message to be let through.
    fn is_pending(&self, vector: usize) -> bool;
}

/// What is behind a function.
pub trait Backend: Interrupts {
    /// What its program is given for it at exec.
    type Given: fmt::Debug + Send;
    /// The device between `Configure` and `Arm`.
    type Unopened: Send + 'static;
    /// What `Load` has taken for it.
    type Saved: Send + 'static;
    /// What translates its DMA. It outlives a device that fails: the vSMMU's orders are still obeyed.
    type Iommu: HostIommu + fmt::Debug + Send;

    /// Gives the device's DMA the guest's RAM, attached to abort. What the host lacks is found out here: no guest is
    /// started to find it missing. Waits for no peer.
    ///
    /// # Errors
    /// What cannot be had, and why.
    fn configure(
        given: Self::Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(Self::Iommu, Self::Unopened), Failure>;

    /// Opens the device: asks what it is, and resets it, or gives it the state that was `saved`; then it is stopped. All of
    /// it, with the interrupts that follow, within `until`.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn open(
        unopened: Self::Unopened,
        saved: Option<Self::Saved>,
        until: Deadline,
    ) -> Result<(Self, Opened), Self::Error>;

    /// Takes what a state has of the back end's own.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(unopened: &Self::Unopened, units: Units) -> Result<Self::Saved, Failure>;

    /// Whether the device could be saved now. Waits for no peer.
    ///
    /// # Errors
    /// Why it could not.
    fn check_save(&self) -> Result<(), String>;

    /// Writes the back end's own state. The device was stopped, and is after it; a next life may have it until
    /// [`Self::take_back`].
    ///
    /// # Errors
    /// Why it cannot be saved.
    fn save(&self, units: &mut UnitWriter<&mut dyn Write>) -> Result<(), Self::Error>;

    /// Has the device back, if a next life may have had it: stopped, with its interrupts connected as they were.
    ///
    /// # Errors
    /// That the device is lost.
    fn take_back(&self) -> Result<(), Self::Error>;

    /// Starts the thread that waits for what comes from behind the device: a server's DMA, the kernel's faults.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    fn start_thread(function: &Arc<Function<Self>>) -> io::Result<()>;

    /// The vSMMU's orders are about to be carried out. No lock is held.
    ///
    /// # Errors
    /// That the device has to be failed.
    fn before_orders(&self, orders: &[Order]) -> Result<(), Self::Error>;

    /// They were carried out, and are not answered yet. No lock is held.
    ///
    /// # Errors
    /// That the device has to be failed.
    fn after_orders(&self, iommu: &Mutex<Self::Iommu>) -> Result<(), Self::Error>;

    /// Sends the message that the guest gave for a vector, and says where it went.
    fn send(iommu: &mut Self::Iommu, message: Message, doorbell: Gpa) -> Arrival;

    /// Switches what logs the device's writes elsewhere than in the process's own log. At any time, opened or not.
    fn set_dirty_tracking(iommu: &mut Self::Iommu, enabled: bool);

    /// Marks in the log what was written and is not marked there yet, before it is flipped; says what it is worth then.
    /// `device` is absent if it could not be opened, or is not yet.
    fn gather_dirty(device: Option<&Self>, iommu: &mut Self::Iommu, log: &DirtyLog) -> Exactness;

    /// Counters and states of its translation, for people and tests.
    fn inspect_iommu(iommu: &Self::Iommu, inspect: &mut Inspect);

    /// The same of the device. Never blocks on a peer.
    fn inspect(&self, inspect: &mut Inspect);
}
