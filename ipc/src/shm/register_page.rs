// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The register page: registers of a device in shared memory, which the guest reads without an exit.
//!
//! Only registers whose reads have no side effect are in it. The device publishes the registers that it owns; those
//! that only the guest writes (an SMMU's `CMDQ_PROD` and `EVENTQ_CONS`) are stored by the vCPU process, *before* it
//! posts the write to the device, so that a guest always reads back what it wrote. The device publishes those in reset
//! and restore only, while no vCPU runs. The values are for the guest; the one thing that is decided by them is whether
//! it waits for commands ([`super::command_queue`]). Stores are cleaned out of the caches, see [`coherency`].

use crate::error::Error;
use crate::shm::coherency;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{Acquire, Relaxed, Release};

/// The size of the image: the two 64 KiB pages of an SMMU.
pub const PAGE_LEN: u64 = 128 * 1024;

const WORDS: usize = 128 * 1024 / 8;

/// The page, at the end of the device or of the vCPU process.
#[derive(Clone)]
pub struct RegisterPage {
    // 64-bit words also for 32-bit registers: two sizes of atomics never meet on the same bytes.
    words: View<[AtomicU64]>,
}

impl RegisterPage {
    /// Makes an image's memory object, all zero: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    pub fn create(name: &str) -> Result<Region, Error> {
        Region::create(name, PAGE_LEN)
    }

    /// Views a memory object as an image.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        Ok(Self { words: region.view_slice(0, WORDS)? })
    }

    /// Publishes a 32-bit register. An offset outside the image, or odd, names no register: nothing happens.
    pub fn store_u32(&self, offset: u64, value: u32) {
        let Some((word, shift)) = self.half(offset) else { return };
        let (mask, bits) = (u64::from(u32::MAX) << shift, u64::from(value) << shift);
        // The other half may belong to the other process: compare-and-exchange never writes back a stale value of it.
        let _ = word.fetch_update(Release, Relaxed, |old| Some(old & !mask | bits));
        coherency::clean(word);
    }

    /// Publishes a 64-bit register atomically. An offset outside the image, or not of 8 bytes, names no register.
    pub fn store_u64(&self, offset: u64, value: u64) {
        if let Some(word) = self.word(offset).filter(|_| offset.is_multiple_of(8)) {
            word.store(value, Release);
            coherency::clean(word);
        }
    }

    /// Reads a 32-bit register; `None` if the offset names none.
    #[must_use]
    pub fn load_u32(&self, offset: u64) -> Option<u32> {
        let (word, shift) = self.half(offset)?;
        u32::try_from(word.load(Acquire) >> shift & u64::from(u32::MAX)).ok()
    }

    /// Reads a 64-bit register atomically; `None` if the offset names none.
    #[must_use]
    pub fn load_u64(&self, offset: u64) -> Option<u64> {
        Some(self.word(offset).filter(|_| offset.is_multiple_of(8))?.load(Acquire))
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(offset / 8).ok()?)
    }

    fn half(&self, offset: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.word(offset).filter(|_| offset.is_multiple_of(4))?;
        Some((word, offset % 8 * 8))
    }
}

impl core::fmt::Debug for RegisterPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RegisterPage").finish_non_exhaustive()
    }
}

/// The vCPU side's right to store the registers that only the guest writes: these offsets and no others.
#[derive(Clone, Debug)]
pub struct GuestOwned {
    page: RegisterPage,
    offsets: Vec<u64>,
}

impl GuestOwned {
    /// Takes the right over 32-bit registers at `offsets`.
    #[must_use]
    pub fn new(page: RegisterPage, offsets: impl IntoIterator<Item = u32>) -> Self {
        Self { page, offsets: offsets.into_iter().map(u64::from).collect() }
    }

    /// Stores what the guest writes, if it is one of these registers. To be called before the write is posted.
    pub fn store_u32(&self, offset: u64, value: u32) -> bool {
        let owned = self.offsets.contains(&offset);
        if owned {
            self.page.store_u32(offset, value);
        }
        owned
    }
}

#[cfg(test)]
mod tests;
