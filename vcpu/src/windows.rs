// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: parts of a PCI function's BARs that the guest reaches as memory, without its process.
//!
//! That process adds them, hidden, and shows them while memory space is enabled; they are removed only when it ends.
//! Those of a next life of it are kept aside, and take the place of the others at once ([`Windows::follow_next`]).
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
    /// Those that the guest has.
    guest: LifeWindows,
    /// Those of a next life of the function's process.
    next: Option<LifeWindows>,
    mapper: Option<Arc<dyn Mapper>>,
}

/// The windows that one life of the function's process has added.
#[derive(Debug, Default)]
struct LifeWindows {
    life: u32,
    shown: bool,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    memory: Arc<WindowMemory>,
    /// Its memory slot, if it has one now.
    slot: Option<u32>,
}

/// What a life is answered that another one has followed, or that nobody expects.
const NOT_EXPECTED: &str = "another life of the function's process is followed";

impl Table {
    fn of(&self, life: u32) -> Result<&LifeWindows, String> {
        let mut all = std::iter::once(&self.guest).chain(&self.next);
        all.find(|windows| windows.life == life).ok_or_else(|| NOT_EXPECTED.to_owned())
    }

    fn of_mut(&mut self, life: u32) -> Result<&mut LifeWindows, String> {
        let mut all = std::iter::once(&mut self.guest).chain(&mut self.next);
        all.find(|windows| windows.life == life).ok_or_else(|| NOT_EXPECTED.to_owned())
    }
}

impl Windows {
    /// None yet, of the function that `function` describes, whose process is in this life. `has_mapper`:
    /// [`Windows::connect`] will follow.
    pub fn new(function: &RemoteFunction, has_mapper: bool, life: u32) -> Self {
        let guest = LifeWindows { life, ..LifeWindows::default() };
        Self {
            name: function.peer.to_string(),
            areas: function.windows.clone(),
            host_device: function.host_device,
            has_mapper,
            table: RwLock::new(Table { guest, ..Table::default() }),
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

    /// Adds one of this life's, hidden. The error is the answer to the function's process.
    pub fn add(&self, life: u32, window: &DeviceWindow, file: OwnedFd) -> Result<(), String> {
        let place = self.place(window).ok_or("the window is not inside the function's memory areas")?;
        if self.host_device.is_some() && !self.has_mapper {
            return Err("software CPUs cannot access a physical device's memory".to_owned());
        }
        self.check(self.table().of(life)?, place)?;
        // Not under the lock that the guest's accesses take: even closing a file that the server made (FUSE) may
        // block on it.
        let memory = WindowMemory::new(file, window, place, self.host_device)?;
        self.insert(life, Arc::new(memory))
    }

    fn insert(&self, life: u32, memory: Arc<WindowMemory>) -> Result<(), String> {
        let mut table = self.table_mut();
        self.check(table.of(life)?, memory.place())?;
        table.of_mut(life)?.windows.push(Window { memory, slot: None });
        Ok(())
    }

    /// Whether a life has room for a window, and at this place.
    fn check(&self, added: &LifeWindows, place: GpaRange) -> Result<(), String> {
        if added.windows.len() >= WINDOWS_MAX {
            return Err(format!("the function has {WINDOWS_MAX} windows already"));
        }
        let places = || added.windows.iter().map(|window| window.memory.place());
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
        if table.guest.shown {
            self.map(&mut table);
        }
    }

    /// Shows or hides all of this life's. In force when this returns, or when that life is followed.
    ///
    /// # Errors
    /// If a slot cannot be removed, or the life is not expected.
    pub fn show(&self, life: u32, shown: bool) -> Result<(), String> {
        let mut table = self.table_mut();
        table.of_mut(life)?.shown = shown;
        match shown {
            _ if table.guest.life != life => Ok(()),
            true => {
                self.map(&mut table);
                Ok(())
            }
            false => self.unmap(&mut table, |_| true).map(drop),
        }
    }

    /// The function's process is to have a next life, which adds windows of its own.
    pub fn expect(&self, life: u32) {
        let next = Some(LifeWindows { life, ..LifeWindows::default() });
        drop(std::mem::replace(&mut self.table_mut().next, next));
    }

    /// The next life does not come to be.
    pub fn forget_next(&self) {
        // Unmapped outside of the lock, like those that are closed.
        let forgotten = self.table_mut().next.take();
        drop(forgotten);
    }

    /// The windows of the next life take the place of those that the guest has, all at once.
    ///
    /// # Errors
    /// If a slot cannot be removed; that one stays.
    pub fn follow_next(&self) -> Result<(), String> {
        let mut table = self.table_mut();
        let Some(next) = table.next.take() else { return Ok(()) };
        let hidden = self.unmap(&mut table, |_| true).map(drop);
        let closed = take_closed(&mut table.guest.windows);
        let LifeWindows { life, shown, windows } = next;
        (table.guest.life, table.guest.shown) = (life, shown);
        table.guest.windows.extend(windows);
        if shown {
            self.map(&mut table);
        }
        drop(table);
        drop(closed);
        hidden
    }

    /// The function's process is gone: removes all windows and unmaps them here. A physical device's file is in use
    /// for as long as any of its memory is mapped.
    ///
    /// # Errors
    /// If a slot cannot be removed; that one stays.
    pub fn close(&self) -> Result<(), String> {
        let mut table = self.table_mut();
        table.guest.shown = false;
        let hidden = self.unmap(&mut table, |_| true).map(drop);
        // Unmapped outside of the lock, for the same reason as above.
        let closed = (take_closed(&mut table.guest.windows), table.next.take());
        drop(table);
        drop(closed);
        hidden
    }

    /// Whether they are memory of a physical device, whose file they keep.
    pub const fn are_of_host_device(&self) -> bool {
        self.host_device.is_some()
    }

    /// Makes slots of those that can be one. The others are accessed as MMIO.
    fn map(&self, table: &mut Table) {
        let Some(mapper) = &table.mapper else { return };
        let hidden = table.guest.windows.iter_mut().filter(|window| window.slot.is_none());
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
        for window in table.guest.windows.iter_mut().filter(|window| which(&window.memory)) {
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
        table.guest.shown && !table.guest.windows.is_empty()
    }

    /// A guest read that exited, if it hits a window that may be accessed here.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        let table = self.table();
        let mut shown = table.guest.windows.iter().filter(|_| table.guest.shown);
        let value = shown.find_map(|window| window.memory.read(gpa, size))?;
        self.accesses.fetch_add(1, Ordering::Relaxed);
        Some(value)
    }

    /// A guest write that exited. False: it hits no window, or one that is not writable here.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        let table = self.table();
        let mut shown = table.guest.windows.iter().filter(|_| table.guest.shown);
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
        let shown = table.guest.windows.iter().filter(|_| table.guest.shown).count();
        let slots = table.guest.windows.iter().filter(|window| window.slot.is_some()).count();
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

/// Takes those that have no slot any more.
fn take_closed(windows: &mut Vec<Window>) -> Vec<Window> {
    let (stays, closed) = std::mem::take(windows).into_iter().partition(|window| window.slot.is_some());
    *windows = stays;
    closed
}

#[cfg(test)]
pub mod tests;
