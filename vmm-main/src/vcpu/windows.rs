// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: parts of a PCI function's BARs that are memory, which the guest reaches without asking the function's process.
//!
//! That process names them, and says when the guest reaches them: while memory space is enabled. They are added hidden,
//! and never taken away. Software CPUs look them up at an access ([`Windows::read`]), on the path of device accesses:
//! no TLB holds them, no code runs from them, no store to them is in a dirty log. Where a hypervisor runs the CPUs a
//! window becomes a memory slot while it is shown: [`Windows::add`] has its mapping, [`Windows::show`] is the moment.

use super::vectors::Wiring;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ipc::addr::{Gpa, GpaRange};
use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::bus::{Bus, BusReply, BusRequest, DeviceWindow, WINDOWS_LEN_MAX, WINDOWS_MAX};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vcpu::FunctionWindow;
use ipc::protocol::vfio::CONFIG_REGION;
use ipc::shm::device_memory::DeviceMemory;
use std::time::Duration;
use vm_memory::GuestMemoryRegion;

/// How long an answer may wait for room; who leaves answers unread waits for none.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// The windows of one function.
#[derive(Debug)]
pub struct Windows {
    /// For logs and counters.
    name: String,
    /// What of the address space is the function's.
    areas: Vec<FunctionWindow>,
    table: RwLock<Table>,
    accesses: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    shown: bool,
    memories: Vec<DeviceMemory>,
}

impl Windows {
    /// None yet. `areas` bound where they can be.
    pub fn new(name: String, areas: Vec<FunctionWindow>) -> Self {
        Self { name, areas, table: RwLock::default(), accesses: AtomicU64::new(0) }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Both fields are whole at any time: each change is one assignment or one push.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, hidden. The error is for whoever asked.
    pub fn add(&self, window: &DeviceWindow, file: OwnedFd) -> Result<(), String> {
        let mut table = self.table_mut();
        let place = self.place(window).ok_or("it is not inside the function's memory areas")?;
        if table.memories.len() >= WINDOWS_MAX {
            return Err(format!("the function has {WINDOWS_MAX} windows already"));
        }
        let held: u64 = table.memories.iter().map(|memory| memory.region().len()).sum();
        if held.checked_add(place.len()).is_none_or(|sum| sum > WINDOWS_LEN_MAX) {
            return Err(format!("the function's windows would be more than {WINDOWS_LEN_MAX:#x} bytes"));
        }
        let overlaps = |memory: &DeviceMemory| {
            let (start, len) = (memory.region().start_addr().0, memory.region().len());
            place.start().0 < start.saturating_add(len) && start < place.end().0
        };
        if table.memories.iter().any(overlaps) {
            return Err("it overlaps another window".to_owned());
        }
        let memory = DeviceMemory::map(file, window, place).map_err(|error| error.to_string())?;
        table.memories.push(memory);
        Ok(())
    }

    /// Where the guest sees a window. Configuration space is no memory.
    fn place(&self, window: &DeviceWindow) -> Option<GpaRange> {
        let area = self.areas.iter().find(|area| area.region == window.region)?;
        let start = area.range.start().0.checked_add(window.offset)?;
        let place = GpaRange::new(Gpa(start), window.len)?;
        (area.region != CONFIG_REGION && area.range.contains_range(place)).then_some(place)
    }

    /// From the return on the guest reaches all of them, or none.
    pub fn show(&self, shown: bool) {
        self.table_mut().shown = shown;
    }

    /// Whether the guest reaches any.
    pub fn any_shown(&self) -> bool {
        let table = self.table();
        table.shown && !table.memories.is_empty()
    }

    /// A guest's read, if it is in a window.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        let table = self.table();
        let mut shown = table.memories.iter().filter(|_| table.shown);
        let value = shown.find_map(|memory| memory.read(gpa, size))?;
        self.accesses.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// A guest's write. False: it is in no window, or in one that takes none.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        let table = self.table();
        let mut shown = table.memories.iter().filter(|_| table.shown);
        let written = shown.any(|memory| memory.write(gpa, size, value));
        if written {
            self.accesses.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    /// Counters for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let table = self.table();
        let count = if table.shown { table.memories.len() } else { 0 };
        inspect.counter(format!("{}.windows", self.name), u64::try_from(count).unwrap_or(u64::MAX));
        inspect.counter(format!("{}.direct", self.name), self.accesses.load(Ordering::Relaxed));
    }

    fn carry_out(&self, request: BusRequest, fds: Vec<OwnedFd>, wiring: &Wiring) -> BusReply {
        let done = match (request, fds.into_iter().next()) {
            (BusRequest::AddWindow(window), Some(file)) => self.add(&window, file),
            // The channel holds the number of fds against the message; this is for completeness.
            (BusRequest::AddWindow(_), None) => Err("it came without its memory".to_owned()),
            (BusRequest::ShowWindows { shown }, _) => {
                self.show(shown);
                Ok(())
            }
            (BusRequest::LowerIntx, _) => {
                wiring.lower_intx();
                Ok(())
            }
            (BusRequest::AddVector { index }, Some(eventfd)) => wiring.add_vector(index, eventfd),
            (BusRequest::AddVector { .. }, None) => Err("it came without its eventfd".to_owned()),
            (BusRequest::RouteVector { index, event }, _) => wiring.route_vector(index, event),
        };
        done.map_or_else(BusReply::Refused, |()| BusReply::Done)
    }
}

/// Serves the function's process until it is gone. Paused or not: that process asks only on behalf of what the guest
/// did before.
pub fn serve(windows: &Windows, wiring: &Wiring, channel: OwnedFd, generation: u32) {
    let channel = Channel::<Bus>::from_fd(channel, Hello::new(Role::Vcpu, generation));
    let end = channel.hello(Role::Vfio, Deadline::after(Deadline::SPAN_MAX)).and_then(|()| {
        loop {
            match channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
                Ok(Incoming::Request { request_id, body, fds }) => {
                    let reply = windows.carry_out(body, fds, wiring);
                    channel.reply::<OwnedFd>(request_id, &reply, &[], Deadline::after(ANSWER_SPAN))?;
                }
                Ok(Incoming::Event { body, .. }) => match body {},
                Err(Error::Timeout { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    });
    let Err(error): Result<(), _> = end else { return };
    if !matches!(error, Error::PeerGone { .. }) {
        eprintln!("{}: its process is not listened to any more: {error}", windows.name);
    }
}

#[cfg(test)]
mod tests;
