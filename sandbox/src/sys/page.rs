// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The crash page of this process: one shared page seen as atomic words, mapped once and never unmapped.
//!
//! The signal handlers find it through a static pointer, so writing it takes no lock and no allocation. Only the
//! process that may die maps it; the parent reads the memory file with `pread` (`report`), so that nothing the
//! child does to the file can fault the parent.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Bytes in the crash page.
pub(crate) const PAGE_LEN: usize = 4096;
/// Words in the crash page.
pub(crate) const PAGE_WORDS: usize = PAGE_LEN / 8;

static MAPPED: AtomicPtr<[AtomicU64; PAGE_WORDS]> = AtomicPtr::new(std::ptr::null_mut());

/// The mapped page.
#[derive(Clone, Copy)]
pub(crate) struct Page(&'static [AtomicU64; PAGE_WORDS]);

impl Page {
    /// Maps the page behind `file`, for the life of the process, and makes it the one the handlers write.
    /// The file must be `PAGE_LEN` long.
    pub(crate) fn map(file: BorrowedFd<'_>) -> rustix::io::Result<Page> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose a free range, so no existing mapping is touched.
        let at = unsafe { mmap(std::ptr::null_mut(), PAGE_LEN, prot, MapFlags::SHARED, file, 0)? };
        MAPPED.store(at.cast(), Ordering::Release);
        Page::mapped().ok_or(rustix::io::Errno::NOMEM)
    }

    /// The page the handlers write, if one is mapped.
    pub(crate) fn mapped() -> Option<Page> {
        let at = MAPPED.load(Ordering::Acquire);
        // SAFETY: the pointer is null or a page-aligned mapping of PAGE_LEN bytes that is never unmapped; atomics
        // may be written by other processes at any time.
        unsafe { at.as_ref() }.map(Page)
    }

    /// Word `index`; zero outside the page.
    pub(crate) fn load(self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Stores a word; nothing outside the page.
    pub(crate) fn store(self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Release);
        }
    }

    /// Changes word `index` from 0 to `value`; false when it was not 0.
    pub(crate) fn claim(self, index: usize, value: u64) -> bool {
        self.0
            .get(index)
            .is_some_and(|word| word.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }
}
