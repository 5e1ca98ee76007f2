// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA windows: which IOVAs the client has declared, and the memory behind those that are mapped.
//!
//! A window is mapped only if no access to its memory object can fault ([`peer_file`]): a client that truncated a
//! mapped file, or had no huge page for a hole in it, would kill this process by SIGBUS. Any other window is accessed
//! by messages, which is slower but correct. Lookups hold the table's read lock while they copy, and a removal takes
//! the write lock; a window lent for an access that may wait for a disk has its own lock, which a removal waits for.
//! So once a removal has returned, no thread accesses the window any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ipc::shm::peer_file::{self, Unsafe};
use ipc::vfio_user::dma::DmaMap;
use ipc::vfio_user::version::DMA_MAPS_MAX;
use rustix::io::Errno;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::dma::Loan;
use crate::prp::Segment;
use crate::service::dirty::DirtyLog;
use crate::service::objects::Objects;
use crate::spec::completion::COMPLETION_LEN;

/// The result of a lookup.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The access was done here.
    Done(T),
    /// The access needs a message to the client.
    ByMessage,
    /// No window there, or not for this direction.
    Nothing,
}

struct Window {
    last: u64,
    readable: bool,
    writable: bool,
    memory: Option<MmapRegion>,
    /// Read-locked while it is lent.
    lent: RwLock<()>,
}

impl Window {
    /// Waits until it is not lent. It was removed from the table before.
    fn retire(&self) {
        drop(self.lent.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Calls `access` if these ranges are mapped and inside this window, which begins at `start`; a write is logged
    /// before this returns.
    fn access(
        &self,
        start: u64,
        segments: &[Segment],
        written: bool,
        log: &DirtyLog,
        access: &mut dyn FnMut(&[VolatileSlice<'_>]),
    ) -> bool {
        let allowed = if written { self.writable } else { self.readable };
        let Some(memory) = self.memory.as_ref().filter(|_| allowed) else { return false };
        let slice = |segment: &Segment| {
            let offset = usize::try_from(segment.iova.checked_sub(start)?).ok()?;
            memory.get_slice(offset, segment.len).ok()
        };
        if let [only] = segments {
            let Some(slice) = slice(only) else { return false };
            access(&[slice]);
        } else {
            let Some(slices) = segments.iter().map(slice).collect::<Option<Vec<_>>>() else { return false };
            access(&slices);
        }
        if written {
            segments.iter().for_each(|segment| log.mark(segment.iova, segment.len));
        }
        true
    }
}

/// The table.
#[derive(Default)]
pub struct Windows {
    by_start: RwLock<BTreeMap<u64, Arc<Window>>>,
    /// Their memory objects.
    objects: Mutex<Objects>,
    /// The log of writes to them.
    pub log: DirtyLog,
}

impl Windows {
    /// Adds a window, mapped if its memory cannot fault. Returns whether it is mapped.
    ///
    /// # Errors
    /// `EEXIST` if it meets another, `ENOSPC` if there are too many, or the kernel's reason not to map it.
    pub fn add(&self, map: &DmaMap, fd: Option<OwnedFd>) -> Result<bool, Errno> {
        let (start, len) = (map.address.get(), map.size.get());
        let last = start.checked_add(len - 1).ok_or(Errno::INVAL)?;
        let flags = map.flags.get();
        let (readable, writable) = (flags & DmaMap::READ != 0, flags & DmaMap::WRITE != 0);
        let mut windows = self.by_start.write().unwrap_or_else(PoisonError::into_inner);
        let before = windows.range(..=last).next_back();
        if before.is_some_and(|(_, window)| window.last >= start) {
            return Err(Errno::EXIST);
        }
        if windows.len() as u64 >= DMA_MAPS_MAX {
            return Err(Errno::NOSPC);
        }
        let offset = map.offset.get();
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        let object = match fd.map(|fd| peer_file::check(&fd, end).map(|()| fd)) {
            Some(Ok(fd)) => self.objects.lock().unwrap_or_else(PoisonError::into_inner).share(fd)?,
            Some(Err(Unsafe::Short { .. })) => return Err(Errno::INVAL),
            Some(Err(_)) | None => None,
        };
        let memory = object.map(|object| mapped(object, offset, len, readable, writable)).transpose()?;
        let mapped = memory.is_some();
        windows.insert(start, Arc::new(Window { last, readable, writable, memory, lent: RwLock::default() }));
        Ok(mapped)
    }

    /// Removes the window with this range, or all windows that make it up: a client with an IOMMU may unmap a whole
    /// range at once.
    ///
    /// # Errors
    /// `ENOENT` if there is none, or one is only partly in the range.
    pub fn remove(&self, start: u64, len: u64) -> Result<(), Errno> {
        let mut windows = self.by_start.write().unwrap_or_else(PoisonError::into_inner);
        let last = start.checked_add(len.saturating_sub(1)).ok_or(Errno::INVAL)?;
        let before = windows.range(..start).next_back();
        let reaches_in = before.is_some_and(|(_, window)| window.last >= start);
        let inside: Vec<u64> = windows.range(start..=last).map(|(first, _)| *first).collect();
        let end = inside.last().and_then(|first| windows.get(first)).map(|window| window.last);
        if reaches_in || end.is_none_or(|end| end > last) {
            return Err(Errno::NOENT);
        }
        let removed: Vec<_> = inside.iter().filter_map(|first| windows.remove(first)).collect();
        // Other windows can be used meanwhile.
        drop(windows);
        removed.iter().for_each(|window| window.retire());
        Ok(())
    }

    /// Bytes from `iova` to the end of its window.
    pub fn reach(&self, iova: u64) -> Option<usize> {
        let windows = self.by_start.read().unwrap_or_else(PoisonError::into_inner);
        let (_, window) = windows.range(..=iova).next_back()?;
        let rest = window.last.checked_sub(iova)?;
        Some(usize::try_from(rest).unwrap_or(usize::MAX).saturating_add(1))
    }

    /// Removes all.
    pub fn clear(&self) {
        let removed = std::mem::take(&mut *self.by_start.write().unwrap_or_else(PoisonError::into_inner));
        removed.values().for_each(|window| window.retire());
    }

    /// Copies from a window.
    pub fn read(&self, iova: u64, bytes: &mut [u8]) -> Found<()> {
        self.within(iova, bytes.len(), false, |memory, offset| {
            memory.get_slice(offset, bytes.len()).map(|slice| slice.copy_to(bytes)).is_ok()
        })
    }

    /// Copies to a window.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> Found<()> {
        self.within(iova, bytes.len(), true, |memory, offset| {
            memory.get_slice(offset, bytes.len()).map(|slice| slice.copy_from(bytes)).is_ok()
        })
    }

    /// Writes completions, one behind the other, the last dword of each last.
    pub fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Found<()> {
        let len = entries.as_flattened().len();
        let store = |memory: &MmapRegion, offset| {
            let Ok(slice) = memory.get_slice(offset, len) else { return false };
            // A queue's address is page-aligned, and so a dword's is aligned.
            let mut dwords = entries.as_flattened().as_chunks::<4>().0.iter().zip((0..).step_by(4));
            dwords.all(|(dword, at)| {
                let order = if at % COMPLETION_LEN == 12 { Ordering::Release } else { Ordering::Relaxed };
                slice.store(u32::from_le_bytes(*dword).to_le(), at, order).is_ok()
            })
        };
        self.within(iova, len, true, store)
    }

    /// Loads a dword; not one that is not aligned.
    pub fn load(&self, iova: u64) -> Found<u32> {
        let mut dword = 0;
        let loaded = self.within(iova, size_of::<u32>(), false, |memory, offset| {
            let slice = memory.get_slice(offset, size_of::<u32>());
            let loaded = slice.and_then(|slice| slice.load::<u32>(0, Ordering::Acquire));
            loaded.map(|loaded| dword = u32::from_le(loaded)).is_ok()
        });
        match loaded {
            Found::Done(()) => Found::Done(dword),
            Found::ByMessage => Found::ByMessage,
            Found::Nothing => Found::Nothing,
        }
    }

    /// Stores a dword; not one that is not aligned.
    pub fn store(&self, iova: u64, dword: u32) -> Found<()> {
        self.within(iova, size_of::<u32>(), true, |memory, offset| {
            let slice = memory.get_slice(offset, size_of::<u32>());
            slice.is_ok_and(|slice| slice.store(dword.to_le(), 0, Ordering::Release).is_ok())
        })
    }

    /// Lends the memory of these ranges, if all of it is mapped and in one window. Returns whether it did.
    pub fn lend(
        &self,
        segments: &[Segment],
        loan: Loan,
        access: &mut dyn FnMut(&[VolatileSlice<'_>]),
    ) -> bool {
        let windows = self.by_start.read().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = segments.first() else { return false };
        let Some((start, window)) = windows.range(..=first.iova).next_back() else { return false };
        if !loan.waits {
            return window.access(*start, segments, loan.written, &self.log, access);
        }
        let (start, window) = (*start, Arc::clone(window));
        // Locked while the table is locked: a removal finds the window either in the table, or lent.
        let lent = window.lent.read().unwrap_or_else(PoisonError::into_inner);
        drop(windows);
        let accessed = window.access(start, segments, loan.written, &self.log, access);
        drop(lent);
        accessed
    }

    fn within(
        &self,
        iova: u64,
        len: usize,
        written: bool,
        copy: impl FnOnce(&MmapRegion, usize) -> bool,
    ) -> Found<()> {
        let windows = self.by_start.read().unwrap_or_else(PoisonError::into_inner);
        let last = iova.checked_add((len as u64).saturating_sub(1));
        let found = windows.range(..=iova).next_back();
        let Some((start, window)) = found.filter(|(_, window)| last.is_some_and(|last| last <= window.last))
        else {
            return Found::Nothing;
        };
        if !(if written { window.writable } else { window.readable }) {
            return Found::Nothing;
        }
        let Some(memory) = &window.memory else { return Found::ByMessage };
        let found = match usize::try_from(iova - start) {
            Ok(offset) if copy(memory, offset) => Found::Done(()),
            _ => Found::Nothing,
        };
        if written {
            self.log.mark(iova, len);
        }
        found
    }
}

/// `PROT_READ` and `PROT_WRITE`: the same on every architecture.
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
/// `MAP_SHARED | MAP_NORESERVE`: the same on x86-64 and arm64.
const MAP_SHARED_NORESERVE: i32 = 0x4001;

fn mapped(
    object: Arc<File>,
    offset: u64,
    len: u64,
    readable: bool,
    writable: bool,
) -> Result<MmapRegion, Errno> {
    let prot = if readable { PROT_READ } else { 0 } | if writable { PROT_WRITE } else { 0 };
    MmapRegionBuilder::new(usize::try_from(len).map_err(|_| Errno::INVAL)?)
        .with_mmap_prot(prot)
        .with_mmap_flags(MAP_SHARED_NORESERVE)
        .with_file_offset(FileOffset::from_arc(object, offset))
        .build()
        .map_err(|_| Errno::NOMEM)
}

#[cfg(test)]
mod tests;
