// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ioctl by which the kernel's mock of an IOMMU is told what to do (`CONFIG_IOMMUFD_TEST`), one function per
//! operation.
//!
//! It is no stable interface: number and layout are those of Linux 7.2 and 7.3
//! (`drivers/iommu/iommufd/iommufd_test.h`). A command is a head of four words, a body that depends on the operation,
//! and a last word.
// UNSAFETY: an ioctl is an untyped call with an untyped address, and this one is for tests alone: the product's own
// calls (`dev-vfio/src/kernel/sys`) must not have it. Each function below makes its body from values and slices of its
// own.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use core::ffi::c_void;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use dev_vfio::physical::sys::iommufd::ObjectId;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// `IOMMU_TEST_CMD`, and `IOMMU_OPTION` of the ordinary interface, which the product does not use.
const TEST: Opcode = opcode::none(b';', 0xa0);
const OPTION: Opcode = opcode::none(b';', 0x87);

const CREATE_ACCESS: u32 = 5;
const ACCESS_RW: u32 = 8;
const MOCK_DOMAIN_REPLACE: u32 = 10;
const MOCK_DOMAIN_FLAGS: u32 = 12;
const DIRTY: u32 = 13;
const MD_CHECK_IOTLB: u32 = 14;
const DEV_CHECK_CACHE: u32 = 16;
const TRIGGER_VEVENT: u32 = 17;

/// What of a device the test holds.
#[derive(Clone, Copy, Debug)]
pub struct MockDevice {
    /// The device itself: it is gone when this is destroyed.
    pub itself: ObjectId,
    /// As a driver that is bound knows it.
    pub bound: ObjectId,
}

#[repr(C)]
struct Command {
    size: u32,
    op: u32,
    id: u32,
    reserved: u32,
    body: [u64; 6],
    last: u64,
}

const _: () = assert!(size_of::<Command>() == 72);

/// A device of the mock's own bus, attached to a page table that the kernel makes over `ioas`. It can tell what was
/// written only if `logs`.
pub fn device(iommu: BorrowedFd<'_>, ioas: ObjectId, logs: bool) -> Result<MockDevice, Errno> {
    const NO_DIRTY: u64 = 1 << 0;
    let flags = if logs { 0 } else { NO_DIRTY };
    // SAFETY: three numbers come back, and flags go in; no addresses.
    let [first, second, ..] = unsafe { test(iommu, MOCK_DOMAIN_FLAGS, ioas, [0, flags << 32, 0, 0, 0, 0]) }?;
    Ok(MockDevice { itself: ObjectId(low(first)), bound: ObjectId(low(second)) })
}

/// Attaches the device to this page table, at once.
pub fn attach(iommu: BorrowedFd<'_>, device: MockDevice, table: ObjectId) -> Result<(), Errno> {
    // SAFETY: a number; no addresses.
    unsafe { test(iommu, MOCK_DOMAIN_REPLACE, device.itself, [table.0.into(), 0, 0, 0, 0, 0]) }.map(drop)
}

/// As if a device had written: at `iova`, once in each unit of `unit` bytes whose bit is set. Returns how many these
/// were.
pub fn write_pages(
    iommu: BorrowedFd<'_>,
    table: ObjectId,
    iova: u64,
    unit: u64,
    bits: &[u64],
) -> Result<u64, Errno> {
    let len = unit * 64 * u64::try_from(bits.len()).unwrap();
    let address = bits.as_ptr().expose_provenance() as u64;
    // SAFETY: the kernel reads one bit for each unit of `len`, which is what the slice has.
    let [.., count] = unsafe { test(iommu, DIRTY, table, [0, iova, len, unit, address, 0]) }?;
    Ok(count)
}

/// Whether this entry of a nested page table's mock of a TLB holds `value`.
pub fn iotlb_is(iommu: BorrowedFd<'_>, table: ObjectId, entry: u32, value: u32) -> bool {
    // SAFETY: two numbers; no addresses.
    unsafe { test(iommu, MD_CHECK_IOTLB, table, [pair(entry, value), 0, 0, 0, 0, 0]) }.is_ok()
}

/// Whether this entry of the device's mock of a cache holds `value`.
pub fn cache_is(iommu: BorrowedFd<'_>, device: MockDevice, entry: u32, value: u32) -> bool {
    // SAFETY: two numbers; no addresses.
    unsafe { test(iommu, DEV_CHECK_CACHE, device.bound, [pair(entry, value), 0, 0, 0, 0, 0]) }.is_ok()
}

/// The device has an event to report.
pub fn trigger_event(iommu: BorrowedFd<'_>, device: MockDevice) -> Result<(), Errno> {
    // SAFETY: a number; no addresses.
    unsafe { test(iommu, TRIGGER_VEVENT, ObjectId(0), [device.bound.0.into(), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Opens an address space for [`read`] and [`write`].
pub fn access(iommu: BorrowedFd<'_>, ioas: ObjectId) -> Result<OwnedFd, Errno> {
    // SAFETY: a number comes back; no addresses.
    let [opened, ..] = unsafe { test(iommu, CREATE_ACCESS, ioas, [0; 6]) }?;
    let fd = RawFd::try_from(low(opened)).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just opened it for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads what is mapped at `iova`.
pub fn read(iommu: BorrowedFd<'_>, access: BorrowedFd<'_>, iova: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let (address, len) = (bytes.as_mut_ptr().expose_provenance() as u64, bytes.len() as u64);
    let id = ObjectId(u32::try_from(access.as_raw_fd()).unwrap());
    // SAFETY: the kernel writes `len` bytes, which is what the slice has.
    unsafe { test(iommu, ACCESS_RW, id, [iova, len, address, 0, 0, 0]) }.map(drop)
}

/// Lets the address space map page by page, also where memory is in one piece.
pub fn small_pages(iommu: BorrowedFd<'_>, ioas: ObjectId) -> Result<(), Errno> {
    const HUGE_PAGES: u32 = 1;
    let mut option = [24, HUGE_PAGES, 0, ioas.0, 0, 0];
    // SAFETY: `iommu_option`: size, option, operation (set), object, and a value of 64 bits; no addresses.
    unsafe { call(iommu, OPTION, &mut option) }
}

/// # Safety
/// Every address in `body` must be valid for what the operation does there.
unsafe fn test(iommu: BorrowedFd<'_>, op: u32, id: ObjectId, body: [u64; 6]) -> Result<[u64; 6], Errno> {
    let size = u32::try_from(size_of::<Command>()).unwrap();
    let mut command = Command { size, op, id: id.0, reserved: 0, body, last: 0 };
    // SAFETY: number and structure belong together; the addresses are the caller's to vouch for.
    unsafe { call(iommu, TEST, &mut command) }?;
    Ok(command.body)
}

/// # Safety
/// `T` must be what the kernel takes for `request`, and every address in it valid for what it does there.
unsafe fn call<T>(iommu: BorrowedFd<'_>, request: Opcode, argument: &mut T) -> Result<(), Errno> {
    let call = Update { request, argument: core::ptr::from_mut(argument).cast() };
    // SAFETY: as this function's own.
    unsafe { rustix::ioctl::ioctl(iommu, call) }
}

/// A call whose argument the kernel reads and writes in place.
struct Update {
    request: Opcode,
    argument: *mut c_void,
}

// SAFETY: the argument is what `call`'s caller vouches for.
unsafe impl Ioctl for Update {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap()
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
