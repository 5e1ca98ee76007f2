// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives the process of an assigned device with arbitrary bytes.
//!
//! [`function`] is a guest at the PCI function, before a server whose answers are bent; [`dma`] is a server's DMA as
//! messages, through translation tables that a guest has made of garbage. Both are the real [`Function`] over a
//! real socket, without its threads. What must hold whatever they do is asserted: no bytes outside RAM's windows
//! change or are read, pages that change are in the dirty log, every request is answered once, a guest's
//! access asks the server at most once, and what has failed stays failed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fuzz target reports by panicking, and nothing of it runs in the product"
)]

mod dma;
mod function;
mod guest;
mod server;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc::addr::{Gpa, GpaRange};
use ipc::channel;
use ipc::deadline::Deadline;
use ipc::doorbell::{self, Ringer};
use ipc::protocol::budget;
use ipc::protocol::function_link::DeviceWindow;
use ipc::protocol::vfio::BarAreas;
use ipc::shm::device_memory::DeviceMemory;
use ipc::shm::msi_board::MsiBoard;
use rustix::event::{EventfdFlags, eventfd};

use dev_vfio::backend::{Eventfds, Opened};
use dev_vfio::function::{InterruptTarget, Links};
use dev_vfio::function_link::FunctionLink;
use dev_vfio::pci::config_space::ConfigSpace;
use dev_vfio::pci::windows;
use dev_vfio::stage1_link::Stage1Link;
use dev_vfio::vfio_user::VfioUserDevice;
use dev_vfio::vfio_user::client::Client;
use process::Events;

pub use dma::dma;
pub use function::function;

use guest::Guest;

type Function = dev_vfio::function::Function<VfioUserDevice>;

/// Where a message is an interrupt.
const DOORBELL: Gpa = Gpa(0x0821_0040);
/// The slot's areas of the guest's address space: where, and how long.
const AREA32: (u64, u64) = (0x1100_0000, 0x100_0000);
const AREA64: (u64, u64) = (0x84_0000_0000, 0x4_0000_0000);
const IO: (u64, u64) = (0x0f00_8000, 0x8000);
const IO_BASE: u64 = 0x0f00_0000;

fn area((start, len): (u64, u64)) -> GpaRange {
    GpaRange::new(Gpa(start), len).unwrap()
}

fn areas() -> BarAreas {
    BarAreas { memory32: area(AREA32), memory64: area(AREA64), io: area(IO), io_base: Gpa(IO_BASE) }
}

/// Opens the device behind `socket` as the process does, but for its interrupts, which nobody waits for. `None`: it
/// cannot be used, for a reason. With a `conversation` that is the time for all of the server's answers, for as long as
/// the device is used.
fn open(socket: OwnedFd, guest: &Guest, conversation: Option<Duration>) -> Option<Function> {
    let opened = Client::open(socket, Deadline::after(conversation.unwrap_or(budget::vfio::OPENING)));
    let opened = opened.map_err(|error| error.to_string()).and_then(|(mut client, opened)| {
        let Opened { config, bar_lens, vectors, intx, mappables } = opened;
        let space = ConfigSpace::new(&config, bar_lens, vectors, &areas());
        let mut space = space.map_err(|error| error.to_string())?;
        let vectors = (0..space.msix.len()).map(|_| new_eventfd()).collect();
        let eventfds = Eventfds { vectors, intx: intx.map(|_| Arc::new(new_eventfd())) };
        let refused = client.offer_interrupts(&eventfds).map_err(|error| error.to_string())?;
        if let Some(pin) = intx.filter(|_| refused.is_none()) {
            space = space.with_intx(pin, &config);
        }
        for (offered, file) in &mappables {
            let areas = areas().memory();
            for window in windows::cut(&space, offered, areas) {
                let within = areas.iter().find(|(region, _)| *region == window.region).unwrap().1.len();
                assert!(window.offset + window.len <= within, "a window is inside its slot");
                touch(file, &window);
            }
        }
        if conversation.is_none() {
            client.end_conversation();
        }
        Ok((VfioUserDevice::new(client, None, true, None), space))
    });
    if let Err(reason) = &opened {
        assert!(!reason.is_empty(), "there is a reason");
        return None;
    }
    // The vSMMU and the vCPU process have gone: what they are told is lost, as it may be.
    let ((stage1, _), (link, _)) = (channel::pair().unwrap(), channel::pair().unwrap());
    let events = Events::none();
    let links = Links { stage1: Stage1Link::new(stage1, 1), vcpu: FunctionLink::new(link, 1), events };
    let board = MsiBoard::attach(&MsiBoard::create("board").unwrap()).unwrap();
    let msi = InterruptTarget { doorbell: DOORBELL, board, ringer: new_ringer(), pin: new_ringer() };
    Some(Function::new("fuzz".to_owned(), opened, Arc::new(Mutex::new(guest.iommu())), links, areas(), msi))
}

fn new_ringer() -> Ringer {
    doorbell::pair().unwrap().0
}

/// What the vCPU process does with memory that a server has passed: it is refused, or every touch of it is well.
fn touch(file: &OwnedFd, window: &DeviceWindow) {
    let place = GpaRange::new(Gpa(AREA64.0), window.len).unwrap();
    let Ok(memory) = DeviceMemory::map(file.try_clone().unwrap(), window, place) else { return };
    for at in [place.start().0, place.start().0 + window.len - 8] {
        assert!(memory.read(at, 8).is_some(), "a window is there from end to end");
        assert_eq!(memory.write(at, 8, at), memory.is_writable());
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How long to look for what a server has sent before.
const MOMENT: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests;
