// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Opening the device behind a function, on a thread of its own: its server may take its time, and nobody waits for it here.
//!
//! The whole conversation has one deadline ([`budget::vfio::OPENING`]), each answer its own. The outcome is told once, as
//! [`Event::DeviceOpened`] or [`Event::DeviceFailed`]; the coordinator lets no guest begin before. Either way the guest's
//! accesses are answered from then on: by the device, or as those of an empty slot.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread;

use ipc::deadline::Deadline;
use ipc::doorbell::Doorbell;
use ipc::protocol::budget;
use ipc::protocol::control::Event;
use ipc::protocol::vfio::VfioConfig;
use ipc::shm::region::Region;
use ipc::shm::ring::Responder;

use crate::bus_link::BusLink;
use crate::client::{Client, Opened};
use crate::connect;
use crate::direct::Direct;
use crate::end::DeviceEnd;
use crate::function::{Function, InterruptTarget, Links};
use crate::iommu::engine::Engine;
use crate::kernel::device::{self, Device};
use crate::kernel::error::KernelError;
use crate::kernel::nested::NestedIommu;
use crate::kernel::objects::Objects;
use crate::pci::config_space::ConfigSpace;
use crate::pci::windows;
use crate::threads::{self, Interrupts, RingThread};

/// What opening needs.
pub struct Ready {
    pub config: VfioConfig,
    pub iommu: Engine,
    pub direct: Option<Direct>,
    pub links: Links,
    pub source: Source,
    pub msi: InterruptTarget,
    pub intx_end: Doorbell,
    pub responder: Responder,
}

/// What is to be opened.
pub enum Source {
    /// The connection to a server.
    Server(OwnedFd),
    /// A real device, which is bound already, and what it said of itself.
    Real(Device, Opened),
}

/// The function, with or without a device behind it, and the thread that answers the guest.
pub struct Serving {
    pub function: Arc<Function>,
    pub ring: RingThread,
}

/// A device that is being opened, or was.
pub struct Opening(Arc<OnceLock<Serving>>);

impl Opening {
    /// Begins.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn begin(ready: Ready) -> io::Result<Opening> {
        let slot = Arc::<OnceLock<Serving>>::default();
        let theirs = Arc::clone(&slot);
        let until = Deadline::after(budget::vfio::OPENING);
        let report = ready.links.report.clone();
        thread::Builder::new().name("open".to_owned()).spawn(move || {
            if let Err(error) = open(ready, until, &theirs) {
                // The guest's accesses would wait for ever.
                report.tell(Event::Fatal(format!("the device's threads cannot be started: {error}")));
            }
        })?;
        Ok(Opening(slot))
    }

    /// What serves the guest; none while the outcome is open.
    pub fn serving(&self) -> Option<&Serving> {
        self.0.get()
    }
}

/// Opens the device, lets the function answer, and says what became of it.
fn open(ready: Ready, until: Deadline, slot: &OnceLock<Serving>) -> io::Result<()> {
    let Ready { config, iommu, direct, links, source, msi, intx_end, responder } = ready;
    let opened = open_device(source, &config, &links.bus, intx_end, until);
    let (opened, interrupts, outcome) = match opened {
        Ok((opened, interrupts)) => (Ok(opened), Some(interrupts), Event::DeviceOpened),
        Err(reason) => (Err(reason.clone()), None, Event::DeviceFailed(reason)),
    };
    let areas = config.areas;
    let report = links.report.clone();
    let function = Arc::new(Function::new(config.name, opened, direct, iommu, links, areas, msi));
    let fatal = report.clone();
    let ring = RingThread::start(Arc::clone(&function), responder, move |violation| {
        let what = "the vCPU process broke the contract of the function's ring";
        fatal.tell(Event::Fatal(format!("{what}: {violation}")));
    })?;
    let serving = slot.get_or_init(|| Serving { function, ring });
    // Before any thread may find that the device is lost again: the first word is about its beginning.
    report.tell(outcome);
    threads::start_helpers(&serving.function, interrupts, &serving.ring)
}

/// Binds a real device, and gives its DMA the guest's RAM; attached to abort. The file of the RAM is not kept.
pub fn take_device(
    cdev: OwnedFd,
    iommu: OwnedFd,
    ram: &Region,
    config: &VfioConfig,
) -> Result<(Engine, Source), KernelError> {
    let (cdev, objects) = (Arc::new(cdev), Objects::new(iommu));
    let id = device::bind(cdev.as_fd(), &objects)?;
    let (device, opened) = Device::open(Arc::clone(&cdev))?;
    let iommu = NestedIommu::new(cdev, objects, id, ram.as_fd(), &config.ram, config.stream, &config.model)?;
    Ok((Engine::Nested(Box::new(iommu)), Source::Real(device, opened)))
}

/// Greets the vCPU process, opens the device and connects its interrupts. What is wrong is a reason, and no failure of ours.
fn open_device(
    source: Source,
    config: &VfioConfig,
    bus: &BusLink,
    intx_end: Doorbell,
    until: Deadline,
) -> Result<((DeviceEnd, ConfigSpace), Interrupts), String> {
    bus.greet(until).map_err(|error| format!("the vCPU process was not greeted: {error}"))?;
    let (mut end, opened) = match source {
        Source::Server(socket) => {
            let (client, opened) = Client::open(socket, until).map_err(|error| error.to_string())?;
            (DeviceEnd::Server(Box::new(client)), opened)
        }
        Source::Real(device, opened) => (DeviceEnd::Real(device), opened),
    };
    let space = ConfigSpace::new(&opened.config, opened.bar_lens, opened.vectors, &config.areas)
        .map_err(|error| error.to_string())?;
    let (space, interrupts) = connect::interrupts(&mut end, space, &opened, bus, &config.name, intx_end)?;
    for (offered, file) in &opened.mappables {
        for window in windows::cut(&space, offered, config.areas.memory()) {
            if until.has_passed() {
                return Err("the vCPU process takes too long to map its memory".to_owned());
            }
            // The guest's accesses come as messages then: slower, and right.
            if let Err(why) = bus.add(window, file) {
                ipc::log::info!("{}: BAR {} is not mapped into the guest: {why}", config.name, offered.bar);
            }
        }
    }
    end.opened();
    Ok(((end, space), interrupts))
}
