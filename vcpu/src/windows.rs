// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: parts of a PCI function's BARs that are memory, which the guest reaches without asking the function's process.
//!
//! That process names them, and says when the guest reaches them: while memory space is enabled. They are added hidden,
//! and taken away only when that process ends. Where a hypervisor runs the CPUs a window is a memory slot while it is shown ([`Mapper`]). Others are
//! looked up at an access ([`Windows::read`]), on the path of device accesses: no TLB holds them, no code runs from them, no
//! store to them is in a dirty log. A BAR of the physical device is a slot or nothing: a touch of ours could fault.

use super::window_memory::{Mapper, WindowMemory};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ipc::addr::{Gpa, GpaRange};
use ipc::protocol::function_link::{DeviceWindow, WINDOWS_LEN_MAX, WINDOWS_MAX};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vcpu::{FunctionWindow, RemoteFunction};
use ipc::protocol::vfio::{AREA32_REGION, AREA64_REGION};

/// The windows of one function.
#[derive(Debug)]
pub struct Windows {
    /// For logs and counters.
    name: String,
    /// What of the address space is the function's.
    areas: Vec<FunctionWindow>,
    /// The physical device whose memory they are, by the number of its file.
    host_device: Option<u64>,
    /// Whether a hypervisor will map them.
    has_mapper: bool,
    table: RwLock<Table>,
    accesses: AtomicU64,
    /// How often slots were taken out of the guest.
    withdrawals: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    shown: bool,
    windows: Vec<Window>,
    mapper: Option<Arc<dyn Mapper>>,
}

#[derive(Debug)]
struct Window {
    memory: Arc<WindowMemory>,
    /// The memory slot that it is now.
    slot: Option<u32>,
}

impl Windows {
    /// None yet, of the function that `function` describes. `has_mapper`: [`Windows::connect`] will follow.
    pub fn new(function: &RemoteFunction, has_mapper: bool) -> Self {
        Self {
            name: function.peer.to_string(),
            areas: function.windows.clone(),
            host_device: function.host_device,
            has_mapper,
            table: RwLock::default(),
            accesses: AtomicU64::new(0),
            withdrawals: AtomicU64::new(0),
        }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Each change is one assignment or one push: all of it is whole at any time.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, hidden. The error is for whoever asked.
    pub fn add(&self, window: &DeviceWindow, file: OwnedFd) -> Result<(), String> {
        let place = self.place(window).ok_or("it is not inside the function's memory areas")?;
        if self.host_device.is_some() && !self.has_mapper {
            return Err("the CPUs are software, and may not touch a host device's memory".to_owned());
        }
        self.check(&self.table(), place)?;
        // Not under the lock that the guest's accesses take: of a file of the server's own making, even its close may wait for
        // the server.
        let memory = WindowMemory::new(file, window, place, self.host_device)?;
        self.insert(Arc::new(memory))
    }

    fn insert(&self, memory: Arc<WindowMemory>) -> Result<(), String> {
        let mut table = self.table_mut();
        self.check(&table, memory.place())?;
        table.windows.push(Window { memory, slot: None });
        Ok(())
    }

    /// Whether the table has room for a window, and at this place.
    fn check(&self, table: &Table, place: GpaRange) -> Result<(), String> {
        if table.windows.len() >= WINDOWS_MAX {
            return Err(format!("the function has {WINDOWS_MAX} windows already"));
        }
        let places = || table.windows.iter().map(|window| window.memory.place());
        let held = places().fold(place.len(), |sum, other| sum.saturating_add(other.len()));
        if self.host_device.is_none() && held > WINDOWS_LEN_MAX {
            return Err(format!("the function's windows would be more than {WINDOWS_LEN_MAX:#x} bytes"));
        }
        if places().any(|other| place.start() < other.end() && other.start() < place.end()) {
            return Err("it overlaps another window".to_owned());
        }
        Ok(())
    }

    /// Where the guest sees a window. Configuration and I/O space are no memory.
    fn place(&self, window: &DeviceWindow) -> Option<GpaRange> {
        let area = self.areas.iter().find(|area| area.region == window.region)?;
        let start = area.range.start().0.checked_add(window.offset)?;
        let place = GpaRange::new(Gpa(start), window.len)?;
        let is_memory = matches!(area.region, AREA32_REGION | AREA64_REGION);
        (is_memory && area.range.contains_range(place)).then_some(place)
    }

    /// From now on `mapper` makes slots of them, once there is a VM.
    pub fn connect(&self, mapper: Arc<dyn Mapper>) {
        let mut table = self.table_mut();
        table.mapper = Some(mapper);
        if table.shown {
            self.map(&mut table);
        }
    }

    /// From the return on the guest reaches all of them, or none.
    ///
    /// # Errors
    /// If the hypervisor does not let go of one.
    pub fn show(&self, shown: bool) -> Result<(), String> {
        let mut table = self.table_mut();
        table.shown = shown;
        if shown {
            self.map(&mut table);
            return Ok(());
        }
        self.unmap(&mut table, |_| true).map(drop)
    }

    /// The function's process is gone: the guest reaches none any more, and nothing of them stays mapped here. A physical device's
    /// file is in use for as long as any of its memory is mapped.
    ///
    /// # Errors
    /// If the hypervisor does not let go of one; that one stays.
    pub fn close(&self) -> Result<(), String> {
        let hidden = self.show(false);
        // Unmapped outside of the lock, as it was mapped.
        let mut closed = Vec::new();
        let mut table = self.table_mut();
        for window in std::mem::take(&mut table.windows) {
            if window.slot.is_some() { table.windows.push(window) } else { closed.push(window) }
        }
        drop(table);
        drop(closed);
        hidden
    }

    /// Makes slots of those that can be one. The others are reached on the path of device accesses.
    fn map(&self, table: &mut Table) {
        let Some(mapper) = &table.mapper else { return };
        let hidden = table.windows.iter_mut().filter(|window| window.slot.is_none());
        for window in hidden.filter(|window| mapper.can_map(&window.memory)) {
            match mapper.map(&window.memory) {
                Ok(slot) => window.slot = Some(slot),
                Err(why) => ipc::log::info!(
                    "{}: its memory at {:#x} is not mapped into the guest: {why}",
                    self.name,
                    window.memory.place().start().0
                ),
            }
        }
    }

    /// How many slots were taken out of the guest.
    fn unmap(&self, table: &mut Table, which: impl Fn(&WindowMemory) -> bool) -> Result<usize, String> {
        let Some(mapper) = &table.mapper else { return Ok(0) };
        let mut count = 0;
        for window in table.windows.iter_mut().filter(|window| which(&window.memory)) {
            if let Some(slot) = window.slot {
                mapper.unmap(slot)?;
                window.slot = None;
                count += 1;
            }
        }
        self.withdrawals.fetch_add(u64::from(count != 0), Ordering::SeqCst);
        Ok(count)
    }

    /// Takes a host device's memory out of the guest until it is shown anew, because a touch of it has failed: the device is
    /// in reset or switched off, whatever its function's process knows of it. Its accesses go to that process now, where they read as all
    /// ones. False: there was none in the guest.
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.unmap(&mut self.table_mut(), |memory| !memory.is_sealed());
        let any = withdrawn.is_ok_and(|count| count != 0);
        if any {
            ipc::log::warn!(
                "{}: its memory does not answer: accesses go to its process until memory space is enabled anew",
                self.name
            );
        }
        any
    }

    /// How often slots were taken out of the guest: a touch of one that failed meanwhile can be tried again.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals.load(Ordering::SeqCst)
    }

    /// Whether the guest reaches any.
    pub fn any_shown(&self) -> bool {
        let table = self.table();
        table.shown && !table.windows.is_empty()
    }

    /// A guest's read that has left the guest, if it is in a window that may be touched here.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        let table = self.table();
        let mut shown = table.windows.iter().filter(|_| table.shown);
        let value = shown.find_map(|window| window.memory.read(gpa, size))?;
        self.accesses.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// A guest's write. False: it is in no window, or in one that takes none here.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        let table = self.table();
        let mut shown = table.windows.iter().filter(|_| table.shown);
        let written = shown.any(|window| window.memory.write(gpa, size, value));
        if written {
            self.accesses.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    /// Counters for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let table = self.table();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let shown = table.windows.iter().filter(|_| table.shown).count();
        let slots = table.windows.iter().filter(|window| window.slot.is_some()).count();
        for (name, value) in [
            ("windows", count(shown)),
            ("slots", count(slots)),
            ("withdrawals", self.withdrawals()),
            ("direct", self.accesses.load(Ordering::Relaxed)),
        ] {
            inspect.counter(format!("{}.{name}", self.name), value);
        }
    }
}

#[cfg(test)]
pub mod tests;
