// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The physical back end: a PCI device of the host, by VFIO's character device, its DMA translated by the host's SMMU.
//!
//! `device` is its end and `interrupts` its signals; `nested` is its translation by iommufd, `objects` what is made
//! there, `journal` what a next life of this process needs to go on with them, `events` the guest's faults, `dirty` how
//! written pages are found; `compat` compares the host's SMMU with
//! the guest's vSMMU model, `error` explains the kernel's errors; `sys` is the kernel's interface, one function per
//! ioctl, and the only unsafe code. All over descriptors that the launcher opened: nothing here opens a path, except
//! `host_check`, which is a program of its own and not sealed.

pub mod compat;
pub mod device;
pub mod dirty;
pub mod error;
pub mod events;
mod faults;
pub mod host_check;
pub mod interrupts;
pub mod journal;
mod migration;
pub mod nested;
pub mod objects;
pub mod sys;
pub mod translation;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Stage1Request;
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::stream::UnitWriter;
use ipc::shm::checkpoint::CHECKPOINT_LEN;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;
use ipc::slot::SlotKind;
use sandbox::{Inherited, InheritedError};

use crate::backend::{Arrival, Backend, DeviceEnd, DeviceError, Eventfds, Interrupts, Opened, Units};
use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::keeper::Keeper;
use crate::pci::msix::Message;
use crate::saved::{FunctionV1, PhysicalV1};
use device::{Bound, How, Kept, PhysicalDevice};
use error::KernelError;
use journal::{HostJournal, Left};
use nested::NestedIommu;
use objects::Objects;
use translation::{NoMemory, Translation};

/// The descriptors that a physical device's program inherits for it.
#[derive(Debug)]
pub struct Given {
    /// The device's character device.
    pub cdev: OwnedFd,
    /// An iommufd of its own.
    pub iommu: OwnedFd,
    /// What its next life finds if it dies, and what it finds of the one before.
    pub checkpoint: OwnedFd,
}

impl Given {
    /// Takes them by their names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited) -> Result<Self, InheritedError> {
        Ok(Self {
            cdev: fds.take(SlotKind::VfioDevice)?,
            iommu: fds.take(SlotKind::Iommufd)?,
            checkpoint: fds.take(SlotKind::Checkpoint)?,
        })
    }
}

/// What `Load` read for a device.
pub enum Saved {
    /// Its state follows in a stream.
    Moved(migration::Saved),
    /// It goes on as the life before has left it, which died.
    Adopted,
}

impl DeviceError for KernelError {
    /// An access that the kernel refuses counts as the device's answer; every other failure is an error.
    fn is_refusal(&self) -> bool {
        false
    }
}

impl DeviceEnd for PhysicalDevice {
    type Error = KernelError;

    fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, KernelError> {
        Ok(self.read(index, offset, size))
    }

    fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), KernelError> {
        self.write(index, offset, size, value);
        Ok(())
    }

    /// A write is one system call that does not wait for the device.
    fn post(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), KernelError> {
        self.write(index, offset, size, value);
        Ok(())
    }

    fn flush_posts(&self) -> Result<(), KernelError> {
        Ok(())
    }

    /// What was begun is told by what it is.
    fn taken(&self, _sequence: u64) {}

    fn answered(&self) {
        self.answered();
    }

    fn reset(&self) -> Result<(), KernelError> {
        self.reset()
    }

    const LOSES_UNMASK: bool = false;

    fn set_running(&self, running: bool) -> Result<(), KernelError> {
        self.set_running(running)
    }

    /// The kernel does not report what is in flight.
    fn in_flight(&self) -> Quiescence {
        Quiescence::NONE
    }

    /// The kernel need not be told; the stream stays attached, and the vSMMU's requests are still carried out.
    fn close(&self) {}
}

impl Interrupts for PhysicalDevice {
    /// The vCPU process may put the vectors on irqfds; if it refuses one, the reason holds for all.
    fn offer_interrupts(
        &mut self,
        eventfds: &Eventfds,
        link: &FunctionLink,
        name: &str,
    ) -> Result<Option<KernelError>, KernelError> {
        let refused = self.interrupts_mut().offer(eventfds)?;
        self.give_vectors(eventfds, link, name);
        Ok(refused)
    }

    fn give_vectors(&self, eventfds: &Eventfds, link: &FunctionLink, name: &str) {
        for eventfd in eventfds.vectors.iter() {
            if let Err(why) = link.add_vector(eventfd) {
                ipc::log::info!("{name}: its MSIs are delivered by its own process, not by irqfd: {why}");
                break;
            }
        }
    }

    fn adopt_interrupts(&mut self, eventfds: &Eventfds) {
        self.interrupts_mut().adopt(eventfds);
    }

    fn switch_interrupts(&self, msix: bool) -> Result<bool, KernelError> {
        self.interrupts().switch(msix)
    }

    fn unmask_intx(&self) -> Result<(), KernelError> {
        self.interrupts().unmask_intx()
    }

    /// The kernel connects them while the device does DMA or waits.
    fn begin(&self) -> bool {
        false
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.interrupts().is_pending(vector)
    }
}

/// A bound device, before it is opened.
#[derive(Debug)]
pub struct Unopened {
    cdev: Arc<OwnedFd>,
    bound: Bound,
    /// Where a next life finds it, if there may be one.
    kept: Option<Kept>,
    /// The life before has died, and its objects are this one's.
    is_adopted: bool,
}

/// Binds a device and makes what its DMA is translated by, or takes over what the life before has left.
fn prepare(
    (cdev, iommu): (OwnedFd, OwnedFd),
    ram: BorrowedFd<'_>,
    log: &DirtyLog,
    config: &VfioConfig,
    kept: Option<Kept>,
) -> Result<(Translation, Unopened), KernelError> {
    let (cdev, objects) = (Arc::new(cdev), Objects::new(iommu));
    let VfioConfig { ram: layout, stream, model, .. } = config;
    let journal = kept.as_ref().map(|kept| kept.journal.clone());
    let left = journal.as_ref().and_then(HostJournal::left);
    let is_adopted = left.is_some();
    let bound = match left {
        None => device::bind(cdev.as_fd(), &objects)?,
        Some(Left::Software) => Bound::Software { anew: false },
        Some(Left::Nested { made, .. }) => Bound::BehindIommu(made.device),
    };
    device::describe_device(cdev.as_fd())?;
    if matches!(bound, Bound::BehindIommu(_)) {
        // The kernel or the device logs what the device writes, until it is read.
        log.set_unmarked_writes(true);
    }
    let theirs = Arc::clone(&cdev);
    let translation = match (bound, left, journal) {
        (_, Some(Left::Nested { made, attached }), Some(journal)) => {
            let nested =
                NestedIommu::adopt(theirs, objects, (made, attached), journal, layout, *stream, model)?;
            Translation::Nested(Box::new(nested))
        }
        (Bound::BehindIommu(id), _, journal) => {
            let nested = NestedIommu::new(theirs, objects, id, ram, layout, *stream, model)?;
            Translation::Nested(Box::new(nested.kept_in(journal)))
        }
        (Bound::Software { anew }, _, journal) => {
            let nothing = NoMemory::new(&theirs, objects, *stream, anew)?;
            journal.iter().for_each(HostJournal::keep_software);
            Translation::Nothing(nothing)
        }
    };
    Ok((translation, Unopened { cdev, bound, kept, is_adopted }))
}

impl Backend for PhysicalDevice {
    type Given = Given;
    type Unopened = Unopened;
    type Iommu = Translation;
    type Saved = Saved;
    type Unit = PhysicalV1;

    /// Binds the device as well, and changes nothing of one that an earlier life still serves, or has served until it
    /// died. The RAM's file is closed afterwards.
    fn configure(
        Given { cdev, iommu, checkpoint }: Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(Translation, Unopened), Failure> {
        let kept = config.next_life.clone().map(|registers| {
            let region = Region::from_fd(checkpoint, CHECKPOINT_LEN)?;
            let keeper = Arc::new(Keeper::new(&region, registers)?);
            Ok(Kept { keeper, journal: HostJournal::new(&region)? })
        });
        let kept = kept.transpose();
        let kept = kept.map_err(|error: Error| Failure::new("map the function's checkpoint", error))?;
        prepare((cdev, iommu), ram.as_fd(), log, config, kept)
            .map_err(|error| Failure::new("assign the device", error))
    }

    fn open(
        Unopened { cdev, bound, kept, is_adopted: _ }: Unopened,
        saved: Option<Saved>,
        _until: Deadline,
    ) -> Result<(PhysicalDevice, Opened), KernelError> {
        let how = match saved {
            None => How::Reset,
            Some(Saved::Moved(_)) => How::Restore,
            Some(Saved::Adopted) => How::Adopt,
        };
        let (mut device, opened) = PhysicalDevice::open(cdev, bound, how)?;
        device.kept = kept;
        match saved {
            Some(Saved::Moved(saved)) => saved.enter(&device, bound)?,
            Some(Saved::Adopted) => {}
            // An earlier life may have left it stopped.
            None => device.set_running(true)?,
        }
        Ok((device, opened))
    }

    fn load(_unopened: &Unopened, units: Units) -> Result<Saved, Failure> {
        migration::Saved::load(units).map(Saved::Moved)
    }

    fn begin_keeping(&self) {}

    fn revive(unopened: &Unopened) -> Result<(FunctionV1, Saved), Failure> {
        let what = "revive the function";
        let Some(kept) = unopened.kept.as_ref().filter(|_| unopened.is_adopted) else {
            return Err(process::no_checkpoint());
        };
        if let Some((region, offset)) = kept.journal.begun() {
            let why = format!(
                "an access to BAR {region} at {offset:#x} was begun and perhaps done: it is not known whether it may be \
                 done twice"
            );
            return Err(Failure::new(what, why));
        }
        let (function, _) = kept.keeper.revive().map_err(|why| Failure::new(what, why))?;
        Ok((function, Saved::Adopted))
    }

    fn keeper(&self) -> Option<&Keeper> {
        self.kept.as_ref().map(|kept| &*kept.keeper)
    }

    fn comes_back(&self, _error: &Self::Error) -> bool {
        false
    }

    fn check_save(&self) -> Result<(), String> {
        migration::check(self)
    }

    fn save(&self, units: &mut UnitWriter<&mut dyn Write>) -> Result<(), KernelError> {
        migration::save(self, units)
    }

    fn take_back(&self) -> Result<(), KernelError> {
        migration::take_back(self)
    }

    fn start_thread(function: &Arc<Function<PhysicalDevice>>) -> io::Result<()> {
        faults::start_thread(function)
    }

    fn before_stage1(&self, _requests: &[Stage1Request]) -> Result<(), KernelError> {
        Ok(())
    }

    fn after_stage1(&self, _iommu: &Mutex<Translation>) -> Result<(), KernelError> {
        Ok(())
    }

    /// The device's own MSI went through the host's MSI window, which the guest's stage 1 maps 1:1, and arrived as
    /// the eventfd's signal. The address in the guest's table never reached the device.
    fn send(_iommu: &mut Translation, _message: Message, _doorbell: Gpa) -> Arrival {
        Arrival::Doorbell
    }

    fn set_dirty_tracking(iommu: &mut Translation, enabled: bool) {
        iommu.set_dirty_tracking(enabled);
    }

    /// Merges the kernel's log into this process's.
    fn gather_dirty(_device: Option<&PhysicalDevice>, iommu: &mut Translation, log: &DirtyLog) -> Exactness {
        iommu.read_dirty(log)
    }

    fn inspect_iommu(iommu: &Translation, inspect: &mut Inspect) {
        iommu.inspect(inspect);
    }

    fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("stoppable", if self.is_stoppable() { "yes" } else { "no" });
        for (name, count) in sys::made() {
            inspect.counter(format!("kernel.calls.{name}"), count);
        }
    }
}
