// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: parts of a PCI function's BARs that the guest reaches as memory, without its process.
//!
//! That process adds them, hidden, and shows them while memory space is enabled; they are removed only when it ends.
//! On KVM a shown window is a memory slot ([`Mapper`]). Others are looked up at each MMIO access ([`Windows::read`]):
//! they are in no TLB, hold no code, and stores to them are in no dirty log. A BAR of a physical device is a slot or
//! nothing: an access from here could fault.

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
    /// The function's address ranges.
    areas: Vec<FunctionWindow>,
    /// The physical device that they belong to, by the device number (`st_rdev`) of its file.
    host_device: Option<u64>,
    /// Whether a [`Mapper`] will be connected.
    has_mapper: bool,
    table: RwLock<Table>,
    accesses: AtomicU64,
    /// How often slots were removed from the guest.
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
    /// Its memory slot, if it has one now.
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
        // Each change is one assignment or one push, so a poisoned lock is harmless.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, hidden. The error is the answer to the function's process.
    pub fn add(&self, window: &DeviceWindow, file: OwnedFd) -> Result<(), String> {
        let place = self.place(window).ok_or("the window is not inside the function's memory areas")?;
        if self.host_device.is_some() && !self.has_mapper {
            return Err("software CPUs cannot access a physical device's memory".to_owned());
        }
        self.check(&self.table(), place)?;
        // Not under the lock that the guest's accesses take: even closing a file that the server made (FUSE) may
        // block on it.
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
            return Err("the window overlaps another one".to_owned());
        }
        Ok(())
    }

    /// Where the guest sees a window. Configuration and I/O space have none.
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

    /// Shows or hides all of them. In force when this returns.
    ///
    /// # Errors
    /// If a slot cannot be removed.
    pub fn show(&self, shown: bool) -> Result<(), String> {
        let mut table = self.table_mut();
        table.shown = shown;
        if shown {
            self.map(&mut table);
            return Ok(());
        }
        self.unmap(&mut table, |_| true).map(drop)
    }

    /// The function's process is gone: removes all windows and unmaps them here. A physical device's file is in use
    /// for as long as any of its memory is mapped.
    ///
    /// # Errors
    /// If a slot cannot be removed; that one stays.
    pub fn close(&self) -> Result<(), String> {
        let hidden = self.show(false);
        // Unmapped outside of the lock, for the same reason as above.
        let mut closed = Vec::new();
        let mut table = self.table_mut();
        for window in std::mem::take(&mut table.windows) {
            if window.slot.is_some() { table.windows.push(window) } else { closed.push(window) }
        }
        drop(table);
        drop(closed);
        hidden
    }

    /// Makes slots of those that can be one. The others are accessed as MMIO.
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

    /// How many slots were removed from the guest.
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

    /// Removes a physical device's slots until its windows are shown again, because a guest access failed: the device
    /// is in reset or powered down, perhaps unknown to its process. Accesses go to that process now, and read as all
    /// ones. False: there was no slot.
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.unmap(&mut self.table_mut(), |memory| !memory.is_sealed());
        let any = withdrawn.is_ok_and(|count| count != 0);
        if any {
            ipc::log::warn!(
                "{}: access to its memory failed: accesses go to its process until memory space is enabled again",
                self.name
            );
        }
        any
    }

    /// How often slots were removed from the guest: an access to one that failed meanwhile is to be retried.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals.load(Ordering::SeqCst)
    }

    /// Whether any is shown.
    pub fn any_shown(&self) -> bool {
        let table = self.table();
        table.shown && !table.windows.is_empty()
    }

    /// A guest read that exited, if it hits a window that may be accessed here.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        let table = self.table();
        let mut shown = table.windows.iter().filter(|_| table.shown);
        let value = shown.find_map(|window| window.memory.read(gpa, size))?;
        self.accesses.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// A guest write that exited. False: it hits no window, or one that is not writable here.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        let table = self.table();
        let mut shown = table.windows.iter().filter(|_| table.shown);
        let written = shown.any(|window| window.memory.write(gpa, size, value));
        if written {
            self.accesses.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    /// Counters for `inspect` and tests.
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
