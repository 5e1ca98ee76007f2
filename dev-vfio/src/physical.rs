// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The physical back end: a PCI device of the host, by VFIO's character device, its DMA translated by the host's SMMU.
//!
//! `device` is its end and `interrupts` its signals; `nested` is its translation by iommufd, `objects` what is made
//! there, `events` the guest's faults, `dirty` how written pages are found; `compat` compares the host's SMMU with
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
mod migration;
pub mod nested;
pub mod objects;
pub mod sys;
pub mod translation;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Stage1Request;
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::stream::UnitWriter;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;

use crate::backend::{Arrival, Backend, DeviceEnd, DeviceError, Eventfds, Interrupts, Opened, Units};
use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::keeper::Keeper;
use crate::pci::msix::Message;
use crate::saved::FunctionV1;
use device::{Bound, PhysicalDevice};
use error::KernelError;
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
        for eventfd in eventfds.vectors.iter() {
            if let Err(why) = link.add_vector(eventfd) {
                ipc::log::info!("{name}: its MSIs are delivered by its own process, not by irqfd: {why}");
                break;
            }
        }
        Ok(refused)
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

    fn is_pending(&self, vector: usize) -> bool {
        self.interrupts().is_pending(vector)
    }
}

/// A bound device, before it is opened.
#[derive(Debug)]
pub struct Unopened {
    cdev: Arc<OwnedFd>,
    bound: Bound,
}

impl Backend for PhysicalDevice {
    type Given = Given;
    type Unopened = Unopened;
    type Iommu = Translation;
    type Saved = migration::Saved;

    /// Binds the device as well, and changes nothing of one that an earlier life still serves. The RAM's file is closed
    /// afterwards.
    fn configure(
        Given { cdev, iommu }: Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(Translation, Unopened), Failure> {
        let configured = || {
            let (cdev, objects) = (Arc::new(cdev), Objects::new(iommu));
            let bound = device::bind(cdev.as_fd(), &objects)?;
            device::describe_device(cdev.as_fd())?;
            let unopened = Unopened { cdev: Arc::clone(&cdev), bound };
            let (ram, layout, stream, model) = (ram.as_fd(), &config.ram, config.stream, &config.model);
            let iommu = match bound {
                Bound::BehindIommu(id) => {
                    // The kernel or the device logs what the device writes, until it is read.
                    log.set_unmarked_writes(true);
                    let nested = NestedIommu::new(cdev, objects, id, ram, layout, stream, model)?;
                    Translation::Nested(Box::new(nested))
                }
                Bound::Software { anew } => {
                    Translation::Nothing(NoMemory::new(&cdev, objects, stream, anew)?)
                }
            };
            Ok((iommu, unopened))
        };
        configured().map_err(|error: KernelError| Failure::new("assign the device", error))
    }

    fn open(
        Unopened { cdev, bound }: Unopened,
        saved: Option<migration::Saved>,
        _until: Deadline,
    ) -> Result<(PhysicalDevice, Opened), KernelError> {
        let (device, opened) = PhysicalDevice::open(cdev, bound, saved.is_none())?;
        match saved {
            Some(saved) => saved.enter(&device, bound)?,
            // An earlier life may have left it stopped.
            None => device.set_running(true)?,
        }
        Ok((device, opened))
    }

    fn load(_unopened: &Unopened, units: Units) -> Result<migration::Saved, Failure> {
        migration::Saved::load(units)
    }

    /// Its device's objects end with it.
    fn revive(_unopened: &Self::Unopened) -> Result<(FunctionV1, Self::Saved), Failure> {
        Err(process::no_checkpoint())
    }

    fn keeper(&self) -> Option<&Keeper> {
        None
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
    }
}
