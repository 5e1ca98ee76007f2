// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows as memory slots, added and removed while the guest runs.
//!
//! A guest maps a BAR as device memory, so its accesses go past the caches. Registers of a physical device are not
//! cached anywhere. A server's memory is cached by the server: it becomes a slot only where stage 2 makes the guest's
//! accesses cacheable regardless of stage 1 (FEAT_S2FWB); otherwise accesses are MMIO exits and made here, coherently
//! with the server.

use super::sys;
use crate::window_memory::{Mapper, WindowMemory};
use kvm_ioctls::VmFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED` (Linux 6.17): the one capability that tells of FEAT_S2FWB. Older hosts do
/// not report it.
const CACHEABLE: u32 = 243;

/// Memory slots of functions' windows, while they are shown.
pub struct WindowSlots {
    fd: Arc<VmFd>,
    /// The first free slot number.
    first: u32,
    page_len: u64,
    /// Whether stage 2 forces write-back (FEAT_S2FWB).
    cacheable: bool,
    slots: Mutex<Vec<Option<Arc<WindowMemory>>>>,
}

impl std::fmt::Debug for WindowSlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WindowSlots").field("first", &self.first).finish_non_exhaustive()
    }
}

impl WindowSlots {
    /// None yet, with numbers from `first` on.
    pub fn new(fd: Arc<VmFd>, first: u32, page_len: u64) -> Self {
        let cacheable = fd.check_extension_raw(CACHEABLE.into()) > 0;
        Self { fd, first, page_len, cacheable, slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<Arc<WindowMemory>>>> {
        // Each change is one assignment, so a poisoned lock is harmless.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapper for WindowSlots {
    fn can_map(&self, memory: &WindowMemory) -> bool {
        let place = memory.place();
        let whole = [place.start().0, place.len()].iter().all(|number| number.is_multiple_of(self.page_len));
        whole && (self.cacheable || !memory.is_sealed())
    }

    fn map(&self, memory: &Arc<WindowMemory>) -> Result<u32, String> {
        let mut slots = self.slots();
        let free = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        let number = u32::try_from(free).ok().and_then(|free| self.first.checked_add(free));
        let number = number.ok_or("no memory slot number is left")?;
        sys::set_window(&self.fd, number, memory).map_err(|errno| errno.to_string())?;
        match slots.get_mut(free) {
            Some(slot) => *slot = Some(Arc::clone(memory)),
            None => slots.push(Some(Arc::clone(memory))),
        }
        Ok(number)
    }

    fn unmap(&self, slot: u32) -> Result<(), String> {
        let mut slots = self.slots();
        let index = slot.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let held = index.and_then(|index| slots.get_mut(index)).filter(|held| held.is_some());
        let held = held.ok_or_else(|| format!("memory slot {slot} is not of a window"))?;
        sys::remove_slot(&self.fd, slot).map_err(|errno| errno.to_string())?;
        *held = None;
        Ok(())
    }
}
