// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO's ioctls, on an open `/dev/vfio/devices/vfioN` (`linux/vfio.h`).
//!
//! The structures of devices, regions, interrupts and features are those that vfio-user borrowed from the kernel: the
//! types of `ipc::vfio_user` serve here too, their checks included. The kernel is trusted more than a peer, but the
//! checks exist and cost nothing.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use ipc::vfio_user::Malformed;
use ipc::vfio_user::device::{DeviceInfo, IrqInfo, IrqSet, RegionDescription, RegionInfo};
use ipc::vfio_user::feature::{
    DMA_LOGGING_REPORT, DMA_LOGGING_START, DMA_LOGGING_STOP, FeatureHeader, FeatureOp, LoggingRange,
    MIG_DEVICE_STATE, MIGRATION, MigDeviceState, MigState, MigrationFlags,
};
use rustix::io::Errno;
use rustix::ioctl::Opcode;
use vfio_bindings::bindings::vfio as abi;
use zerocopy::{FromBytes, IntoBytes};

use super::iommufd::ObjectId;
use super::{DISCONNECTED, address_of, address_of_mut, len_of, update, vfio};

const DEVICE_GET_INFO: Opcode = vfio(107);
const DEVICE_GET_REGION_INFO: Opcode = vfio(108);
const DEVICE_GET_IRQ_INFO: Opcode = vfio(109);
const DEVICE_SET_IRQS: Opcode = vfio(110);
const DEVICE_RESET: Opcode = vfio(111);
const DEVICE_FEATURE: Opcode = vfio(117);
const DEVICE_BIND_IOMMUFD: Opcode = vfio(118);
const DEVICE_ATTACH_IOMMUFD_PT: Opcode = vfio(119);
const DEVICE_DETACH_IOMMUFD_PT: Opcode = vfio(120);

/// Every ioctl number in this file: exactly those that the sandbox profile has to allow.
pub const REQUESTS: [Opcode; 9] = [
    DEVICE_GET_INFO,
    DEVICE_GET_REGION_INFO,
    DEVICE_GET_IRQ_INFO,
    DEVICE_SET_IRQS,
    DEVICE_RESET,
    DEVICE_FEATURE,
    DEVICE_BIND_IOMMUFD,
    DEVICE_ATTACH_IOMMUFD_PT,
    DEVICE_DETACH_IOMMUFD_PT,
];

/// Their names in the header.
pub const NAMES: [&str; 9] = [
    "VFIO_DEVICE_GET_INFO",
    "VFIO_DEVICE_GET_REGION_INFO",
    "VFIO_DEVICE_GET_IRQ_INFO",
    "VFIO_DEVICE_SET_IRQS",
    "VFIO_DEVICE_RESET",
    "VFIO_DEVICE_FEATURE",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
];

/// Interrupts that one call sets at most: an MSI-X table's.
const IRQS_MAX: usize = 2048;

/// `VFIO_DEVICE_BIND_IOMMUFD`: the device's number in that iommufd. Before it, the device answers nothing else.
///
/// # Errors
/// `EINVAL` if it is bound already; `EPERM` if its group is used in the old way.
pub fn bind(device: BorrowedFd<'_>, iommu: BorrowedFd<'_>) -> Result<ObjectId, Errno> {
    let mut argument = abi::vfio_device_bind_iommufd {
        // Without the token, which only virtual functions of a VFIO physical function need; older kernels know no more.
        argsz: u32::try_from(core::mem::offset_of!(abi::vfio_device_bind_iommufd, token_uuid_ptr))
            .unwrap_or(0),
        iommufd: iommu.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(device, DEVICE_BIND_IOMMUFD, &mut argument) }?;
    Ok(ObjectId(argument.out_devid))
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: attaches the device to this HWPT, in place of the previous one, atomically.
///
/// # Errors
/// `ENOENT` if that needs a vDEVICE; `EBUSY` during a reset.
pub fn attach(device: BorrowedFd<'_>, page_table: ObjectId) -> Result<(), Errno> {
    let mut argument = abi::vfio_device_attach_iommufd_pt {
        argsz: u32::try_from(core::mem::offset_of!(abi::vfio_device_attach_iommufd_pt, pasid)).unwrap_or(0),
        pt_id: page_table.0,
        ..Default::default()
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(device, DEVICE_ATTACH_IOMMUFD_PT, &mut argument) }
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`: the device's DMA is blocked.
///
/// # Errors
/// If the kernel refuses the call.
pub fn detach(device: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut argument = abi::vfio_device_detach_iommufd_pt {
        argsz: u32::try_from(core::mem::offset_of!(abi::vfio_device_detach_iommufd_pt, pasid)).unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(device, DEVICE_DETACH_IOMMUFD_PT, &mut argument) }
}

/// `VFIO_DEVICE_GET_INFO`.
///
/// # Errors
/// If the kernel refuses the call.
pub fn device_info(device: BorrowedFd<'_>) -> Result<DeviceInfo, Errno> {
    let mut argument = DeviceInfo::request();
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(device, DEVICE_GET_INFO, &mut argument) }?;
    Ok(argument)
}

/// `VFIO_DEVICE_GET_REGION_INFO`, with what may be mapped.
///
/// # Errors
/// The kernel's, or that its answer is not understood.
pub fn region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> Result<Result<RegionDescription, Malformed>, Errno> {
    let request = RegionInfo::request(index);
    let mut argument = request.as_bytes().to_vec();
    argument.resize(usize::try_from(request.argsz.get()).unwrap_or(argument.len()), 0);
    // SAFETY: `argsz`, at the beginning, is the slice's length, and the kernel writes no more; no addresses in it.
    unsafe { update(device, DEVICE_GET_REGION_INFO, argument.as_mut_slice()) }?;
    Ok(RegionDescription::decode(&argument, index))
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
///
/// # Errors
/// `EINVAL` if there are no such interrupts.
pub fn irq_info(device: BorrowedFd<'_>, index: u32) -> Result<IrqInfo, Errno> {
    let mut argument = IrqInfo::new(index, 0, 0);
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(device, DEVICE_GET_IRQ_INFO, &mut argument) }?;
    Ok(argument)
}

/// `VFIO_DEVICE_SET_IRQS`: connects interrupts from `start` on to eventfds. With none, all of them are disconnected.
///
/// # Errors
/// `EINVAL` if there are not as many; `ENOSPC` if the host has no room for them.
pub fn set_irqs(
    device: BorrowedFd<'_>,
    index: u32,
    start: u32,
    eventfds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let count = u32::try_from(eventfds.len()).ok().filter(|_| eventfds.len() <= IRQS_MAX);
    let count = count.ok_or(Errno::INVAL)?;
    let data = if count == 0 { IrqSet::DATA_NONE } else { IrqSet::DATA_EVENTFD };
    DISCONNECTED.fetch_add(u64::from(count == 0), Ordering::Relaxed);
    let mut set = IrqSet::new(index, data | IrqSet::ACTION_TRIGGER, start, count);
    set.argsz = len_of::<IrqSet>().saturating_add(count.saturating_mul(len_of::<i32>())).into();
    let mut argument = set.as_bytes().to_vec();
    argument.extend(eventfds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()));
    // SAFETY: `argsz`, at the beginning, is the slice's length, and it holds `count` numbers; no addresses in it.
    unsafe { update(device, DEVICE_SET_IRQS, argument.as_mut_slice()) }
}

/// `VFIO_DEVICE_SET_IRQS`: unmasks the only interrupt of an index, which masked itself when it signalled.
///
/// # Errors
/// `EINVAL` if it is not connected.
pub fn unmask_irq(device: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    let mut set = IrqSet::new(index, IrqSet::DATA_NONE | IrqSet::ACTION_UNMASK, 0, 1);
    // SAFETY: number and structure belong together; no addresses in it, and no data behind it.
    unsafe { update(device, DEVICE_SET_IRQS, &mut set) }
}

/// `VFIO_DEVICE_RESET`.
///
/// # Errors
/// If the kernel refuses the call.
pub fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes no argument; the kernel looks at none.
    unsafe { update(device, DEVICE_RESET, &mut ()) }
}

/// Whether the device has a feature, to read (`get`) or to write.
///
/// # Errors
/// `ENOTTY` if it has not.
pub fn probe_feature(device: BorrowedFd<'_>, number: u16, get: bool) -> Result<(), Errno> {
    feature(device, number, FeatureOp::Probe { get, set: !get }, &mut ())
}

/// The feature `MIGRATION`: which states the device has.
///
/// # Errors
/// `ENOTTY` if it has none.
pub fn migration_flags(device: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut flags = MigrationFlags { flags: 0.into() };
    feature(device, MIGRATION, FeatureOp::Get, &mut flags)?;
    Ok(flags.flags.get())
}

/// The state the device is in; `None` is one that we do not know.
///
/// # Errors
/// `ENOTTY` if it has none.
pub fn migration_state(device: BorrowedFd<'_>) -> Result<Option<MigState>, Errno> {
    let mut state = MigDeviceState::new(MigState::Error);
    feature(device, MIG_DEVICE_STATE, FeatureOp::Get, &mut state)?;
    Ok(MigState::from_number(state.device_state.get()))
}

/// Moves the device to `state`, by as many transitions as that takes. Returns the file for reading or writing its
/// state, if the last transition opened one.
///
/// # Errors
/// If the device fails. [`migration_state`] returns its state then; only a reset leaves `ERROR`.
pub fn set_migration_state(device: BorrowedFd<'_>, state: MigState) -> Result<Option<OwnedFd>, Errno> {
    let mut wanted = MigDeviceState::new(state);
    feature(device, MIG_DEVICE_STATE, FeatureOp::Set, &mut wanted)?;
    let fd = RawFd::from_ne_bytes(wanted.data_fd.get().to_ne_bytes());
    // SAFETY: the kernel has just opened it for us and nobody else knows its number.
    Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// The feature `DMA_LOGGING_START`: the device logs what it writes in this range of its own addresses, by pages of
/// `page_len` bytes or what the device makes of that.
///
/// # Errors
/// `ENOTTY` if it cannot.
pub fn dma_logging_start(device: BorrowedFd<'_>, iova: u64, len: u64, page_len: u64) -> Result<u64, Errno> {
    let range = [LoggingRange { iova: iova.into(), length: len.into() }];
    let mut control = [page_len, 1, address_of(&range)];
    feature(device, DMA_LOGGING_START, FeatureOp::Set, control.as_mut_bytes())?;
    let [granted, ..] = control;
    Ok(granted)
}

/// The feature `DMA_LOGGING_STOP`.
///
/// # Errors
/// If the device refuses.
pub fn dma_logging_stop(device: BorrowedFd<'_>) -> Result<(), Errno> {
    feature(device, DMA_LOGGING_STOP, FeatureOp::Set, &mut ())
}

/// The feature `DMA_LOGGING_REPORT`: sets a bit for each page of the range that was written, and clears the log.
///
/// # Errors
/// `EINVAL` if the bitmap is too short; the device's. Then every page must be taken as written.
pub fn dma_logging_report(
    device: BorrowedFd<'_>,
    iova: u64,
    len: u64,
    page_len: u64,
    bitmap: &mut [u64],
) -> Result<(), Errno> {
    let bits = u64::try_from(bitmap.len()).unwrap_or(0).saturating_mul(64);
    if len.checked_div(page_len).is_none_or(|pages| pages > bits) {
        return Err(Errno::INVAL);
    }
    let mut report = [iova, len, page_len, address_of_mut(bitmap)];
    feature(device, DMA_LOGGING_REPORT, FeatureOp::Get, report.as_mut_bytes())
}

/// `VFIO_DEVICE_FEATURE`: the header, then the feature's data.
fn feature<T: IntoBytes + FromBytes + ?Sized>(
    device: BorrowedFd<'_>,
    number: u16,
    op: FeatureOp,
    data: &mut T,
) -> Result<(), Errno> {
    let len = size_of::<FeatureHeader>().saturating_add(size_of_val(data));
    let header = FeatureHeader::request(number, op, u32::try_from(len).map_err(|_| Errno::INVAL)?);
    let mut argument = [header.as_bytes(), data.as_mut_bytes()].concat();
    // SAFETY: `argsz`, at the beginning, is the slice's length, and the kernel writes no more; the addresses in the
    // data of the two features that have one were made by their functions above, from slices as long as they say.
    unsafe { update(device, DEVICE_FEATURE, argument.as_mut_slice()) }?;
    if let Some(answer) = argument.get(size_of::<FeatureHeader>()..) {
        data.as_mut_bytes().copy_from_slice(answer);
    }
    Ok(())
}
