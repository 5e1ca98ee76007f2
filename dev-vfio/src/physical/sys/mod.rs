// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ioctls of VFIO (`cdev`) and iommufd (`iommufd`), each as one safe function, and nothing else.
//!
//! Layouts and numbers are the kernel's `linux/vfio.h` and `linux/iommufd.h`. Every address that a structure holds is
//! made here, from a slice that outlives the call. An error is the errno alone: its meaning depends on the call, and
//! callers add it. Every call is counted, so that tests can check "one batch, one ioctl".
// UNSAFETY: an ioctl is an untyped call with an untyped address; that number, structure and what the kernel does with
// both agree can only be read in the kernel's headers. Each function below is one number with its structure.
#![expect(unsafe_code, reason = "ioctls have no safe form; the wall of this crate")]

pub mod cdev;
pub mod iommufd;

use core::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// The ioctl type of both interfaces (';').
const TYPE: u8 = b';';

/// How many ioctls this process has made, by their numbers, which differ in both interfaces: for `inspect`, and for
/// tests of batching and of what a next life of this process does not do.
static CALLS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// How often interrupts were disconnected.
static DISCONNECTED: AtomicU64 = AtomicU64::new(0);

/// Which calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `IOMMU_HWPT_INVALIDATE`.
    Invalidate,
    /// All others.
    Other,
}

/// How many calls of this kind were made.
pub fn calls(kind: Kind) -> u64 {
    let is_meant = |request: &Opcode| (*request == iommufd::HWPT_INVALIDATE) == (kind == Kind::Invalidate);
    all().map(|(request, _)| request).filter(is_meant).map(count).sum()
}

/// All calls that were made, each with its number.
pub fn made() -> impl Iterator<Item = (&'static str, u64)> {
    let counted = all().map(|(request, name)| (name, count(request)));
    let counted = counted.chain([("interrupts_disconnected", DISCONNECTED.load(Ordering::Relaxed))]);
    counted.filter(|(_, count)| *count > 0)
}

fn all() -> impl Iterator<Item = (Opcode, &'static str)> {
    cdev::REQUESTS.into_iter().zip(cdev::NAMES).chain(iommufd::REQUESTS.into_iter().zip(iommufd::NAMES))
}

fn count(request: Opcode) -> u64 {
    counter(request).map_or(0, |counter| counter.load(Ordering::Relaxed))
}

fn counter(request: Opcode) -> Option<&'static AtomicU64> {
    CALLS.get(usize::try_from(request & 0xff).ok()?)
}

/// The number of VFIO's ioctl `nr`: all are `_IO`, without direction or size.
const fn vfio(nr: u8) -> Opcode {
    opcode::none(TYPE, nr)
}

/// A call whose argument the kernel reads and writes in place.
struct Update {
    request: Opcode,
    argument: *mut c_void,
}

// SAFETY: the argument is what `update`'s caller vouches for; the output is the call's own value.
unsafe impl Ioctl for Update {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// Makes one call. `argument` is read, and written also if the call fails. A positive result is not success: the only
/// call with one returns the number of interrupts that are available.
///
/// # Safety
/// `T` must be what the kernel takes for `request` on this kind of file (at least as long as it reads and writes), and
/// every address in it must be valid for what the kernel does there.
unsafe fn update<T: ?Sized>(fd: BorrowedFd<'_>, request: Opcode, argument: &mut T) -> Result<(), Errno> {
    if let Some(counter) = counter(request) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    let call = Update { request, argument: core::ptr::from_mut(argument).cast() };
    // SAFETY: as this function's own.
    match unsafe { rustix::ioctl::ioctl(fd, call) }? {
        0 => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

/// The length of a structure, for its first field.
fn len_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// The address of a slice's first element, for a field.
fn address_of<T>(slice: &[T]) -> u64 {
    u64::try_from(slice.as_ptr().expose_provenance()).unwrap_or(0)
}

/// The address of a slice that the kernel writes.
fn address_of_mut<T>(slice: &mut [T]) -> u64 {
    u64::try_from(slice.as_mut_ptr().expose_provenance()).unwrap_or(0)
}

/// The number of elements, for a field.
fn count_of<T>(slice: &[T]) -> Result<u32, Errno> {
    u32::try_from(slice.len()).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests;
