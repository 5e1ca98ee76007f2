// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The physical back end: a PCI device of the host, by VFIO's character device, its DMA translated by the host's SMMU.
//!
//! `device` is its end and `interrupts` its signals; `nested` is its translation by iommufd, `objects` what is made there,
//! `events` the guest's faults, `dirty` how written pages are found; `compat` holds the host's SMMU against what the guest
//! was promised, `error` says what a refusal means; `sys` is the kernel's interface, one function per ioctl, and the only
//! unsafe code. All over descriptors that the launcher opened: nothing here opens a path, except `host_check`, which is a
//! program of its own and not sealed.

pub mod compat;
pub mod device;
pub mod dirty;
pub mod error;
pub mod events;
mod faults;
pub mod host_check;
pub mod interrupts;
pub mod nested;
pub mod objects;
pub mod sys;

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::protocol::control::{Exactness, Failure, Quiescence};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Order;
use ipc::protocol::vfio::VfioConfig;
use ipc::saved::stream::UnitWriter;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;

use crate::backend::{Arrival, Backend, DeviceEnd, DeviceError, Eventfds, Interrupts, Opened, Units};
use crate::function::Function;
use crate::function_link::FunctionLink;
use crate::pci::msix::Message;
use device::PhysicalDevice;
use error::KernelError;
use nested::NestedIommu;
use objects::Objects;

/// What the program of a physical device is given for it.
#[derive(Debug)]
pub struct Given {
    /// The device's character device.
    pub cdev: OwnedFd,
    /// An iommufd of its own.
    pub iommu: OwnedFd,
}

impl DeviceError for KernelError {
    /// What the kernel refuses of an access is the device's answer, and no error; what is left is.
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

    /// The kernel's write is one call, and waits for no answer of the device's.
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

    /// What is under way in the kernel nobody is told.
    fn in_flight(&self) -> Quiescence {
        Quiescence::NONE
    }

    /// The kernel has nothing to be told; the stream stays attached, and the vSMMU's orders are still obeyed.
    fn close(&self) {}
}

impl Interrupts for PhysicalDevice {
    /// The vCPU process may be able to let the kernel carry the vectors; if it refuses one it has a reason to refuse all.
    fn offer_interrupts(
        &mut self,
        eventfds: &Eventfds,
        link: &FunctionLink,
        name: &str,
    ) -> Result<Option<KernelError>, KernelError> {
        let refused = self.interrupts_mut().offer(eventfds)?;
        for eventfd in eventfds.vectors.iter() {
            if let Err(why) = link.add_vector(eventfd) {
                ipc::log::info!("{name}: its MSI-X messages are sent by its own process: {why}");
                break;
            }
        }
        Ok(refused)
    }

    /// None is restored.
    fn adopt_interrupts(&mut self, _eventfds: &Eventfds) {}

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

/// Why.
const NOT_SAVED: &str =
    "it is a physical device of this host: its own state and its DMA cannot be taken to other processes";

impl Backend for PhysicalDevice {
    type Given = Given;
    type Unopened = (PhysicalDevice, Opened);
    type Iommu = NestedIommu;
    /// None can be saved.
    type Saved = Infallible;

    /// Binds the device, too. The file of the RAM is not kept.
    fn configure(
        Given { cdev, iommu }: Given,
        ram: &Region,
        log: &Arc<DirtyLog>,
        config: &VfioConfig,
    ) -> Result<(NestedIommu, (PhysicalDevice, Opened)), Failure> {
        // The kernel sees what the device writes, and keeps it to itself until it is asked.
        log.set_unmarked_writes(true);
        let configured = || {
            let (cdev, objects) = (Arc::new(cdev), Objects::new(iommu));
            let id = device::bind(cdev.as_fd(), &objects)?;
            let unopened = PhysicalDevice::open(Arc::clone(&cdev))?;
            let iommu =
                NestedIommu::new(cdev, objects, id, ram.as_fd(), &config.ram, config.stream, &config.model)?;
            Ok((iommu, unopened))
        };
        configured().map_err(|error: KernelError| Failure::new("assign the device", error))
    }

    fn open(
        unopened: (PhysicalDevice, Opened),
        _saved: Option<Infallible>,
        _until: Deadline,
    ) -> Result<(PhysicalDevice, Opened), KernelError> {
        Ok(unopened)
    }

    fn load(_unopened: &(PhysicalDevice, Opened), _units: Units) -> Result<Infallible, Failure> {
        Err(Failure::new("restore the device", NOT_SAVED))
    }

    fn check_save(&self) -> Result<(), String> {
        Err(NOT_SAVED.to_owned())
    }

    fn save(&self, _units: &mut UnitWriter<&mut dyn Write>) -> Result<(), KernelError> {
        Err(KernelError::NotSaved)
    }

    /// Nobody has had it.
    fn take_back(&self) -> Result<(), KernelError> {
        Ok(())
    }

    fn start_thread(function: &Arc<Function<PhysicalDevice>>) -> io::Result<()> {
        faults::start_thread(function)
    }

    fn before_orders(&self, _orders: &[Order]) -> Result<(), KernelError> {
        Ok(())
    }

    fn after_orders(&self, _iommu: &Mutex<NestedIommu>) -> Result<(), KernelError> {
        Ok(())
    }

    /// The message has arrived already: it went by the host's MSI window, which the guest's stage 1 maps flat, and came out as
    /// the eventfd. The address that the guest wrote into its table was never the device's.
    fn send(_iommu: &mut NestedIommu, _message: Message, _doorbell: Gpa) -> Arrival {
        Arrival::Doorbell
    }

    fn set_dirty_tracking(iommu: &mut NestedIommu, enabled: bool) {
        iommu.set_dirty_tracking(enabled);
    }

    /// The kernel's log is moved into ours.
    fn gather_dirty(_device: Option<&PhysicalDevice>, iommu: &mut NestedIommu, log: &DirtyLog) -> Exactness {
        iommu.read_dirty(log)
    }

    fn inspect_iommu(iommu: &NestedIommu, inspect: &mut Inspect) {
        iommu.inspect(inspect);
    }

    fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("stoppable", if self.is_stoppable() { "yes" } else { "no" });
    }
}
