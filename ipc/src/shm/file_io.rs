// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moves bytes between a file and shared memory without a copy in between: the kernel is given the memory's addresses.
//!
//! For devices whose data goes between a disk image and a guest without being interpreted. Data that is interpreted is
//! copied first and read from the copy.
#![expect(
    unsafe_code,
    reason = "the kernel's calls take addresses, and references to shared memory must not exist"
)]
// UNSAFETY: rustix and the standard library take `&mut [u8]`, which promises that nobody else writes these bytes. Here
// a peer may write them at any time, so the addresses go to the kernel as they are.

use core::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;
use vm_memory::volatile_memory::PtrGuardMut;

/// The most pieces that one call of the kernel takes (`IOV_MAX`).
const PIECES_MAX: usize = 1024;

/// Fills all of `memory` from a place in `file`.
///
/// # Errors
/// The kernel's; `NODATA` if the file ends before. A part may have been filled.
pub fn read_at(file: BorrowedFd<'_>, memory: &[VolatileSlice<'_>], offset: u64) -> Result<(), Errno> {
    whole(memory, offset, Errno::NODATA, |pieces, count, offset| {
        // SAFETY: `pieces` are `count` descriptions of memory that `memory` borrows, so that it stays mapped; and
        // volatile memory may be written by anybody at any time.
        unsafe { libc::preadv(file.as_raw_fd(), pieces, count, offset) }
    })
}

/// Fills all of `memory` if that needs no waiting, from the page cache. Returns whether it did.
///
/// # Errors
/// The kernel's. A file system that cannot tell is one that would have to wait.
pub fn read_at_once(file: BorrowedFd<'_>, memory: &[VolatileSlice<'_>], offset: u64) -> Result<bool, Errno> {
    let read = whole(memory, offset, Errno::NODATA, |pieces, count, offset| {
        // Not by the C library's function: it is a cancellation point, which adds to the cost of a read from the cache.
        // On 64-bit machines the whole offset is in the lower half.
        let (fd, none, flags) = (file.as_raw_fd(), 0, libc::RWF_NOWAIT);
        // SAFETY: as for `read_at`.
        let read = unsafe { libc::syscall(libc::SYS_preadv2, fd, pieces, count, offset, none, flags) };
        // What the kernel was given is below the address space.
        isize::try_from(read).unwrap_or(-1)
    });
    match read {
        Ok(()) => Ok(true),
        // Also at the end of the file: the caller then reads with waiting, and sees the end.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Writes all of `memory` to a place in `file`.
///
/// # Errors
/// The kernel's; `IO` if it takes nothing. A part may have been written.
pub fn write_at(file: BorrowedFd<'_>, memory: &[VolatileSlice<'_>], offset: u64) -> Result<(), Errno> {
    whole(memory, offset, Errno::IO, |pieces, count, offset| {
        // SAFETY: as for reading, and the memory is only read.
        unsafe { libc::pwritev(file.as_raw_fd(), pieces, count, offset) }
    })
}

/// How often this thread has blocked: a call during which this rises has waited, and has not only been preempted.
///
/// # Errors
/// If the kernel refuses the call.
pub fn waits() -> Result<u64, Errno> {
    let mut usage = MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure that it is given.
    let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if done != 0 {
        return Err(last_error());
    }
    // SAFETY: it was filled, as the kernel says, and is made of integers.
    let usage: libc::rusage = unsafe { usage.assume_init() };
    Ok(u64::try_from(usage.ru_nvcsw).unwrap_or(0))
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Repeats a call until all bytes are moved.
fn whole(
    memory: &[VolatileSlice<'_>],
    offset: u64,
    nothing: Errno,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> Result<(), Errno> {
    let piece = |guard: &PtrGuardMut| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() };
    // Guards keep memory mapped that is mapped on access only. One piece is the most frequent case by far: it must not
    // allocate.
    if let [slice] = memory {
        let guard = slice.ptr_guard_mut();
        return move_all(&mut [piece(&guard)], offset, nothing, call);
    }
    let guards: Vec<_> = memory.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let mut pieces: Vec<_> = guards.iter().map(piece).collect();
    move_all(&mut pieces, offset, nothing, call)
}

fn move_all(
    pieces: &mut [libc::iovec],
    offset: u64,
    nothing: Errno,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> Result<(), Errno> {
    let mut offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    // Empty ones are passed over.
    let mut rest = behind(pieces, 0);
    while !rest.is_empty() {
        let count = rest.len().min(PIECES_MAX);
        let moved = call(rest.as_ptr(), libc::c_int::try_from(count).unwrap_or(0), offset);
        match usize::try_from(moved) {
            Ok(0) => return Err(nothing),
            Ok(moved) => {
                offset = libc::off_t::try_from(moved)
                    .ok()
                    .and_then(|moved| offset.checked_add(moved))
                    .ok_or(Errno::INVAL)?;
                rest = behind(rest, moved);
            }
            Err(_) => match last_error() {
                Errno::INTR => {}
                errno => return Err(errno),
            },
        }
    }
    Ok(())
}

/// What is left of `pieces` after the first `moved` bytes.
fn behind(mut pieces: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    while let Some(first) = pieces.first_mut() {
        if moved < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(moved);
            first.iov_len -= moved;
            break;
        }
        moved -= first.iov_len;
        pieces = pieces.get_mut(1..).unwrap_or_default();
    }
    pieces
}

#[cfg(test)]
mod tests;
