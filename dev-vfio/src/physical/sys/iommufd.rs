// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! iommufd's ioctls, on an open `/dev/iommu`: objects are numbers of that one file (`linux/iommufd.h`).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use iommufd_bindings as abi;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use zerocopy::{Immutable, IntoBytes};

use super::{TYPE, address_of, address_of_mut, count_of, len_of, update};

/// The object's number, in the file that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// `IOMMU_HWPT_INVALIDATE`, which is counted separately.
pub(super) const HWPT_INVALIDATE: Opcode = number(abi::IOMMUFD_CMD_HWPT_INVALIDATE);
const DESTROY: Opcode = number(abi::IOMMUFD_CMD_DESTROY);
const IOAS_ALLOC: Opcode = number(abi::IOMMUFD_CMD_IOAS_ALLOC);
const IOAS_MAP_FILE: Opcode = number(abi::IOMMUFD_CMD_IOAS_MAP_FILE);
const HWPT_ALLOC: Opcode = number(abi::IOMMUFD_CMD_HWPT_ALLOC);
const GET_HW_INFO: Opcode = number(abi::IOMMUFD_CMD_GET_HW_INFO);
const SET_DIRTY_TRACKING: Opcode = number(abi::IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING);
const GET_DIRTY_BITMAP: Opcode = number(abi::IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP);
const VIOMMU_ALLOC: Opcode = number(abi::IOMMUFD_CMD_VIOMMU_ALLOC);
const VDEVICE_ALLOC: Opcode = number(abi::IOMMUFD_CMD_VDEVICE_ALLOC);
const VEVENTQ_ALLOC: Opcode = number(abi::IOMMUFD_CMD_VEVENTQ_ALLOC);

/// Every ioctl number in this file: exactly those that the sandbox profile has to allow.
pub const REQUESTS: [Opcode; 11] = [
    DESTROY,
    IOAS_ALLOC,
    IOAS_MAP_FILE,
    HWPT_ALLOC,
    GET_HW_INFO,
    SET_DIRTY_TRACKING,
    GET_DIRTY_BITMAP,
    HWPT_INVALIDATE,
    VIOMMU_ALLOC,
    VDEVICE_ALLOC,
    VEVENTQ_ALLOC,
];

/// Their names in the header.
pub const NAMES: [&str; 11] = [
    "IOMMU_DESTROY",
    "IOMMU_IOAS_ALLOC",
    "IOMMU_IOAS_MAP_FILE",
    "IOMMU_HWPT_ALLOC",
    "IOMMU_GET_HW_INFO",
    "IOMMU_HWPT_SET_DIRTY_TRACKING",
    "IOMMU_HWPT_GET_DIRTY_BITMAP",
    "IOMMU_HWPT_INVALIDATE",
    "IOMMU_VIOMMU_ALLOC",
    "IOMMU_VDEVICE_ALLOC",
    "IOMMU_VEVENTQ_ALLOC",
];

/// The most bytes of a dirty bitmap that one call asks for: 32 GiB of RAM.
pub const BITMAP_WORDS_MAX: usize = 128 << 10;

#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are 0x80 to 0x94; a longer one fails the test"
)]
const fn number(command: u32) -> Opcode {
    opcode::none(TYPE, command as u8)
}

/// The device's IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HwInfo {
    /// Its registers, if it is an SMMUv3.
    pub smmu: Option<SmmuInfo>,
    /// Whether it has dirty tracking (`IOMMU_HW_CAP_DIRTY_TRACKING`); independent of nesting.
    pub dirty_tracking: bool,
}

/// The kernel's type numbers for one kind of IOMMU with user-managed stage 1. The data passed under them never
/// contains an address of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Of the vIOMMU.
    pub viommu: u32,
    /// Of its vEVENTQ.
    pub veventq: u32,
    /// Of the data of a nested HWPT.
    pub nested: u32,
    /// Of the entries of an invalidation.
    pub invalidation: u32,
}

/// SMMUv3: a nested page table is the first two words of a stream table entry, an invalidation the guest's commands,
/// all of them little-endian.
pub const ARM_SMMUV3: Types = Types {
    viommu: abi::iommu_viommu_type_IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
    veventq: abi::iommu_veventq_type_IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
    nested: abi::iommu_hwpt_data_type_IOMMU_HWPT_DATA_ARM_SMMUV3,
    invalidation: abi::iommu_hwpt_invalidate_data_type_IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
};

/// `iommu_hw_info_arm_smmuv3`: identification registers as the hardware has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmmuInfo {
    /// `SMMU_IDR0` to `SMMU_IDR5`.
    pub idr: [u32; 6],
    /// `SMMU_IIDR`.
    pub iidr: u32,
    /// `SMMU_AIDR`.
    pub aidr: u32,
}

/// `IOMMU_DESTROY`.
///
/// # Errors
/// `EBUSY` while another object needs it; `ENOENT` if there is none.
pub fn destroy(iommu: BorrowedFd<'_>, id: ObjectId) -> Result<(), Errno> {
    let mut argument = abi::iommu_destroy { size: len_of::<abi::iommu_destroy>(), id: id.0 };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(iommu, DESTROY, &mut argument) }
}

/// `IOMMU_IOAS_ALLOC`: an empty address space.
///
/// # Errors
/// If the kernel refuses the call.
pub fn ioas_alloc(iommu: BorrowedFd<'_>) -> Result<ObjectId, Errno> {
    let mut argument =
        abi::iommu_ioas_alloc { size: len_of::<abi::iommu_ioas_alloc>(), ..Default::default() };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(iommu, IOAS_ALLOC, &mut argument) }?;
    Ok(ObjectId(argument.out_ioas_id))
}

/// `IOMMU_IOAS_MAP_FILE`: `len` bytes of a memory file, from `start`, appear at `iova`, readable and writable. The
/// pages are pinned until they are unmapped; this process needs no mapping of its own.
///
/// # Errors
/// `ENOTTY` before Linux 6.13; `ENOMEM` beyond `RLIMIT_MEMLOCK`.
pub fn ioas_map_file(
    iommu: BorrowedFd<'_>,
    ioas: ObjectId,
    file: BorrowedFd<'_>,
    start: u64,
    len: u64,
    iova: u64,
) -> Result<(), Errno> {
    let mut argument = abi::iommu_ioas_map_file {
        size: len_of::<abi::iommu_ioas_map_file>(),
        flags: abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
            | abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
            | abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
        ioas_id: ioas.0,
        fd: file.as_raw_fd(),
        start,
        length: len,
        iova,
    };
    // SAFETY: number and structure belong together; no addresses of this process in it.
    unsafe { update(iommu, IOAS_MAP_FILE, &mut argument) }
}

/// `IOMMU_HWPT_ALLOC` of a nesting parent over an address space; with a log of written pages if `dirty_tracking`.
///
/// # Errors
/// `EOPNOTSUPP` if the IOMMU does not nest, or cannot log.
pub fn hwpt_alloc_parent(
    iommu: BorrowedFd<'_>,
    device: ObjectId,
    ioas: ObjectId,
    dirty_tracking: bool,
) -> Result<ObjectId, Errno> {
    let tracking =
        if dirty_tracking { abi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING } else { 0 };
    let flags = abi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT | tracking;
    hwpt_alloc(iommu, abi::iommu_hwpt_alloc { flags, dev_id: device.0, pt_id: ioas.0, ..Default::default() })
}

/// `IOMMU_HWPT_ALLOC` of a nested page table on a vIOMMU.
///
/// # Errors
/// `EIO` if an SMMUv3 cannot nest the words.
pub fn hwpt_alloc_nested<T: IntoBytes + Immutable>(
    iommu: BorrowedFd<'_>,
    types: &Types,
    device: ObjectId,
    viommu: ObjectId,
    data: &T,
) -> Result<ObjectId, Errno> {
    hwpt_alloc(
        iommu,
        abi::iommu_hwpt_alloc {
            dev_id: device.0,
            pt_id: viommu.0,
            data_type: types.nested,
            data_len: len_of::<T>(),
            data_uptr: address_of(core::slice::from_ref(data)),
            ..Default::default()
        },
    )
}

fn hwpt_alloc(iommu: BorrowedFd<'_>, mut argument: abi::iommu_hwpt_alloc) -> Result<ObjectId, Errno> {
    argument.size = len_of::<abi::iommu_hwpt_alloc>();
    // SAFETY: number and structure belong together; the data, if there is any, is the caller's, of the length given,
    // and the kernel reads it only.
    unsafe { update(iommu, HWPT_ALLOC, &mut argument) }?;
    Ok(ObjectId(argument.out_hwpt_id))
}

/// `IOMMU_GET_HW_INFO`.
///
/// # Errors
/// `ENOENT` if that is no device.
pub fn get_hw_info(iommu: BorrowedFd<'_>, device: ObjectId) -> Result<HwInfo, Errno> {
    let mut data = [abi::iommu_hw_info_arm_smmuv3::default()];
    let mut argument = abi::iommu_hw_info {
        size: len_of::<abi::iommu_hw_info>(),
        flags: 0,
        dev_id: device.0,
        data_len: len_of::<abi::iommu_hw_info_arm_smmuv3>(),
        data_uptr: address_of_mut(&mut data),
        __bindgen_anon_1: abi::iommu_hw_info__bindgen_ty_1 { in_data_type: 0 },
        out_max_pasid_log2: 0,
        __reserved: [0; 3],
        out_capabilities: 0,
    };
    // SAFETY: number and structure belong together; the kernel writes at most `data_len` bytes of `data`.
    unsafe { update(iommu, GET_HW_INFO, &mut argument) }?;
    // SAFETY: both fields of the union are a plain number.
    let kind = unsafe { argument.__bindgen_anon_1.out_data_type };
    let [abi::iommu_hw_info_arm_smmuv3 { idr, iidr, aidr, .. }] = data;
    let is_smmu = kind == abi::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_ARM_SMMUV3;
    let capability = u64::from(abi::iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING);
    Ok(HwInfo {
        smmu: is_smmu.then_some(SmmuInfo { idr, iidr, aidr }),
        dirty_tracking: argument.out_capabilities & capability != 0,
    })
}

/// `IOMMU_HWPT_SET_DIRTY_TRACKING`. Switching it on clears the log.
///
/// # Errors
/// `EOPNOTSUPP` if the page table was not made for it.
pub fn set_dirty_tracking(iommu: BorrowedFd<'_>, hwpt: ObjectId, enabled: bool) -> Result<(), Errno> {
    let mut argument = abi::iommu_hwpt_set_dirty_tracking {
        size: len_of::<abi::iommu_hwpt_set_dirty_tracking>(),
        flags: u32::from(enabled),
        hwpt_id: hwpt.0,
        __reserved: 0,
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(iommu, SET_DIRTY_TRACKING, &mut argument) }
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP`: sets a bit in `bitmap` for each 4 KiB page, from `iova` on, that was written, and
/// clears the log.
///
/// # Errors
/// `EINVAL` if `len` or `iova` are no whole pages or the bitmap is too short; the kernel's others.
pub fn get_dirty_bitmap(
    iommu: BorrowedFd<'_>,
    hwpt: ObjectId,
    iova: u64,
    len: u64,
    bitmap: &mut [u64],
) -> Result<(), Errno> {
    const PAGE_LEN: u64 = 4096;
    let bits = u64::try_from(bitmap.len()).unwrap_or(u64::MAX).saturating_mul(64);
    if len / PAGE_LEN > bits || bitmap.len() > BITMAP_WORDS_MAX {
        return Err(Errno::INVAL);
    }
    let mut argument = abi::iommu_hwpt_get_dirty_bitmap {
        size: len_of::<abi::iommu_hwpt_get_dirty_bitmap>(),
        hwpt_id: hwpt.0,
        flags: 0,
        __reserved: 0,
        iova,
        length: len,
        page_size: PAGE_LEN,
        data: address_of_mut(bitmap),
    };
    // SAFETY: number and structure belong together; one bit for each page of `len` is inside `bitmap`, as checked.
    unsafe { update(iommu, GET_DIRTY_BITMAP, &mut argument) }
}

/// `IOMMU_VIOMMU_ALLOC` on a nesting parent.
///
/// # Errors
/// `EOPNOTSUPP` if the host's SMMU cannot keep a guest from non-coherent access (neither FWB nor CANWBS), or the kernel
/// has no such driver.
pub fn viommu_alloc(
    iommu: BorrowedFd<'_>,
    types: &Types,
    device: ObjectId,
    parent: ObjectId,
) -> Result<ObjectId, Errno> {
    let mut argument = abi::iommu_viommu_alloc {
        size: len_of::<abi::iommu_viommu_alloc>(),
        type_: types.viommu,
        dev_id: device.0,
        hwpt_id: parent.0,
        ..Default::default()
    };
    // SAFETY: number and structure belong together; no data comes along.
    unsafe { update(iommu, VIOMMU_ALLOC, &mut argument) }?;
    Ok(ObjectId(argument.out_viommu_id))
}

/// `IOMMU_VDEVICE_ALLOC`: gives the device the vSID `stream` in the vIOMMU.
///
/// # Errors
/// `EEXIST` if the device or the number is taken.
pub fn vdevice_alloc(
    iommu: BorrowedFd<'_>,
    device: ObjectId,
    viommu: ObjectId,
    stream: u32,
) -> Result<ObjectId, Errno> {
    let mut argument = abi::iommu_vdevice_alloc {
        size: len_of::<abi::iommu_vdevice_alloc>(),
        viommu_id: viommu.0,
        dev_id: device.0,
        out_vdevice_id: 0,
        virt_id: stream.into(),
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(iommu, VDEVICE_ALLOC, &mut argument) }?;
    Ok(ObjectId(argument.out_vdevice_id))
}

/// `IOMMU_VEVENTQ_ALLOC`: the object and the file that its events are read from.
///
/// # Errors
/// `EEXIST` if the vIOMMU has one.
pub fn veventq_alloc(
    iommu: BorrowedFd<'_>,
    types: &Types,
    viommu: ObjectId,
    depth: u32,
) -> Result<(ObjectId, OwnedFd), Errno> {
    let mut argument = abi::iommu_veventq_alloc {
        size: len_of::<abi::iommu_veventq_alloc>(),
        viommu_id: viommu.0,
        type_: types.veventq,
        veventq_depth: depth,
        ..Default::default()
    };
    // SAFETY: number and structure belong together; no addresses in it.
    unsafe { update(iommu, VEVENTQ_ALLOC, &mut argument) }?;
    let fd = RawFd::try_from(argument.out_veventq_fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just opened it for us and nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((ObjectId(argument.out_veventq_id), fd))
}

/// `IOMMU_HWPT_INVALIDATE` on a vIOMMU: all entries in one call. Returns how many, from the first on, have taken
/// effect, and why the next one has not.
pub fn invalidate<T: IntoBytes + Immutable>(
    iommu: BorrowedFd<'_>,
    types: &Types,
    viommu: ObjectId,
    entries: &[T],
) -> (usize, Result<(), Errno>) {
    let entry_num = match count_of(entries) {
        Ok(count) => count,
        Err(errno) => return (0, Err(errno)),
    };
    let mut argument = abi::iommu_hwpt_invalidate {
        size: len_of::<abi::iommu_hwpt_invalidate>(),
        hwpt_id: viommu.0,
        data_uptr: address_of(entries),
        data_type: types.invalidation,
        entry_len: len_of::<T>(),
        entry_num,
        __reserved: 0,
    };
    // SAFETY: number and structure belong together; `entry_num` entries of `entry_len` bytes are what the slice has,
    // and the kernel reads them only.
    let result = unsafe { update(iommu, HWPT_INVALIDATE, &mut argument) };
    // Written back on success and on failure; a call that failed before it looked at the entries leaves what we gave.
    let said = usize::try_from(argument.entry_num).unwrap_or(0).min(entries.len());
    let done = match result {
        Ok(()) => entries.len(),
        Err(_) if said == entries.len() => 0,
        Err(_) => said,
    };
    (done, result)
}
