// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sealed memory objects, and typed views of them.
//!
//! The coordinator makes every object, of a fixed size, and seals it: it cannot be shrunk (an access behind the end
//! would be SIGBUS), grown, or sealed further. A receiver checks seals and size before it maps it. A `View` is a
//! reference into a mapping that lives as long as the view; its type ensures that any bytes are a valid value and that
//! all access is atomic, so that a peer's writes are never undefined behaviour here.

#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "mapping a memory object and viewing it as atomics has no safe form")
)]
// UNSAFETY: this file turns fds into references. It is the one place of the crate that does: the ring, the
// dirty log and the register page are built on `View` alone.

#[cfg(not(loom))]
use core::ptr::NonNull;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::SealFlags;

#[cfg(not(loom))]
use crate::error::Breach;
use crate::error::{Error, Violation};
use crate::shm::memory_file;

/// The seals every shared object has: its size, and the set of seals itself, never change.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A sealed memory object of known size.
#[derive(Clone, Debug)]
pub struct Region {
    file: Arc<File>,
    len: u64,
}

impl Region {
    /// Makes an object of `len` zero bytes. `name` shows up in `/proc/PID/maps`.
    ///
    /// # Errors
    /// If the kernel refuses: out of memory or of fds.
    pub fn create(name: &str, len: u64) -> Result<Self, Error> {
        let fd = memory_file::create(name).map_err(|errno| Error::io("memfd_create", errno))?;
        rustix::fs::ftruncate(&fd, len).map_err(|errno| Error::io("ftruncate", errno))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(|errno| Error::io("fcntl(F_ADD_SEALS)", errno))?;
        Ok(Self { file: Arc::new(fd.into()), len })
    }

    /// Takes an object from a peer, after checking its seals and size.
    ///
    /// # Errors
    /// A violation if it has not; `Io` if it is no memory object at all.
    pub fn from_fd(fd: OwnedFd, len: u64) -> Result<Self, Error> {
        let seals =
            rustix::fs::fcntl_get_seals(&fd).map_err(|errno| Error::io("fcntl(F_GET_SEALS)", errno))?;
        let violation = |breach| Error::Violation(Violation::new("memory object", breach));
        if !seals.contains(SEALS) {
            return Err(violation(crate::error::Breach::Seals { found: seals.bits(), needed: SEALS.bits() }));
        }
        // Sealed: the size stays true.
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io("fstat", errno))?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != len {
            return Err(violation(crate::error::Breach::RegionLength { found, expected: len }));
        }
        Ok(Self { file: Arc::new(fd.into()), len })
    }

    /// The size in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the object has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The object as a file, for mapping by other means (guest RAM).
    #[must_use]
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Types that shared memory can be viewed as.
///
/// # Safety
/// 1. Every byte pattern is a value of the type.
/// 2. All access to it goes through atomics: it has interior mutability in every byte, or padding.
/// 3. It has no destructor and no pointers.
#[cfg(not(loom))]
pub(crate) unsafe trait Shareable {}

#[cfg(not(loom))]
// SAFETY: an integer (1) behind an atomic (2) without more (3).
unsafe impl Shareable for core::sync::atomic::AtomicU64 {}

/// A reference into shared memory that keeps its mapping alive.
#[cfg(not(loom))]
pub(crate) struct View<T: ?Sized> {
    target: NonNull<T>,
    _mapping: Arc<Mapping>,
}

#[cfg(not(loom))]
impl<T: ?Sized> Clone for View<T> {
    fn clone(&self) -> Self {
        Self { target: self.target, _mapping: Arc::clone(&self._mapping) }
    }
}

#[cfg(not(loom))]
// SAFETY: a view is a shared reference to a `T`, and an owner of a part of the mapping, which any thread may unmap.
unsafe impl<T: ?Sized + Sync> Send for View<T> {}
#[cfg(not(loom))]
// SAFETY: as above: all that `&View` gives is `&T`.
unsafe impl<T: ?Sized + Sync> Sync for View<T> {}

#[cfg(not(loom))]
impl<T: ?Sized> core::ops::Deref for View<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. the constructors checked size and alignment within the mapping; 2. the mapping lives as long
        // as this view and its object cannot shrink; 3. they admit `Shareable` types only, for which any bytes
        // are a value and a peer's writes are atomic accesses.
        unsafe { self.target.as_ref() }
    }
}

#[cfg(not(loom))]
impl Region {
    /// Maps the object and views its first bytes as a `T`.
    pub(crate) fn view<T: Shareable>(&self) -> Result<View<T>, Error> {
        let mapping = self.map(0, self.len)?;
        self.check_room(size_of::<T>())?;
        const { assert!(align_of::<T>() <= MAPPING_ALIGN) };
        let target = mapping.start.cast();
        Ok(View { target, _mapping: Arc::new(mapping) })
    }

    /// Maps the pages of `count` items from `offset` on, and views these.
    pub(crate) fn view_slice<T: Shareable>(&self, offset: usize, count: usize) -> Result<View<[T]>, Error> {
        let end = size_of::<T>().checked_mul(count).and_then(|len| len.checked_add(offset));
        let end = end.unwrap_or(usize::MAX);
        self.check_room(end)?;
        if !offset.is_multiple_of(align_of::<T>()) {
            return Err(Error::Refused("a misaligned view of shared memory"));
        }
        let in_page = offset % OFFSET_ALIGN;
        let (start, len) = (offset - in_page, end - offset + in_page);
        let mapping =
            self.map(u64::try_from(start).unwrap_or(u64::MAX), u64::try_from(len).unwrap_or(u64::MAX))?;
        // SAFETY: the mapping begins `in_page` bytes before `offset`, and ends where the last item does.
        let first = unsafe { mapping.start.byte_add(in_page) };
        let target = NonNull::slice_from_raw_parts(first.cast(), count);
        Ok(View { target, _mapping: Arc::new(mapping) })
    }

    fn check_room(&self, end: usize) -> Result<(), Error> {
        if u64::try_from(end).is_ok_and(|end| end <= self.len) {
            return Ok(());
        }
        let expected = u64::try_from(end).unwrap_or(u64::MAX);
        let breach = Breach::RegionLength { found: self.len, expected };
        Err(Error::Violation(Violation::new("view of a memory object", breach)))
    }

    /// Maps a part, which begins with a page.
    fn map(&self, start: u64, len: u64) -> Result<Mapping, Error> {
        use rustix::mm::{MapFlags, ProtFlags};
        let len = usize::try_from(len.max(1)).ok().filter(|_| self.len > 0);
        let len = len.ok_or(Error::Refused("mapping a memory object that cannot be mapped"))?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), len, prot, MapFlags::SHARED, &self.file, start)
        };
        let start = start.map_err(|errno| Error::io("mmap", errno))?;
        let start = NonNull::new(start).ok_or(Error::Refused("a mapping at address zero"))?;
        Ok(Mapping { start: start.cast(), len })
    }
}

/// What an offset in a file is a multiple of, to be mapped from: the largest page that a host has.
#[cfg(not(loom))]
const OFFSET_ALIGN: usize = 64 << 10;

/// The least alignment of a mapping.
#[cfg(not(loom))]
const MAPPING_ALIGN: usize = 4096;

#[cfg(not(loom))]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

#[cfg(not(loom))]
// SAFETY: the mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Mapping {}
#[cfg(not(loom))]
// SAFETY: a shared `Mapping` gives no access to its bytes; views do, under their own rules.
unsafe impl Sync for Mapping {}

#[cfg(not(loom))]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of one whole mapping of ours, and no view is left: each holds an `Arc` of
        // this.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// Under the model checker shared memory is a heap object that all threads of the model hold.
#[cfg(loom)]
pub(crate) type View<T> = Arc<T>;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
