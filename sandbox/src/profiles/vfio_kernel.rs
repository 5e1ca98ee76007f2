// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a physical device: what the one behind vfio-user has, with VFIO's and iommufd's ioctls by number,
//! each on its own descriptor; and without the right to map guest RAM.
//!
//! The file of guest RAM is given only to be handed to the kernel when the process is configured, and is closed then,
//! before the first word of a guest or a device is read. So that it cannot be mapped before, a mapping is of one of the
//! four shared objects that the process needs, or of no file at all. Spawned by the sealed coordinator, so every rule
//! here is also the coordinator's.

use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, union};
use crate::profiles::{common, vfio};

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "vfio-kernel",
        arch,
        root: RootKind::Inherited,
        // 64 interrupt vectors and the queue of faults, beside what it is given. Guest RAM is pinned in this process's
        // name.
        limits: Limits {
            nofile_count: 112,
            nproc_count: 16,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 192 << 20,
            address_len: (192 << 20) + super::SHARED_LEN,
            locked_len: None,
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        rules: rules(),
        memory_files: None,
        absent: common::ABSENT,
    }
}

pub fn rules() -> Vec<Rule> {
    let memory: Vec<Rule> = common::memory().into_iter().filter(|rule| rule.syscall != "mmap").collect();
    let own = [common::map(&MAPPED), ioctl()];
    let descriptors = common::descriptors();
    union(&[&memory, &own, &common::threads(), &common::ending(), &descriptors, &vfio::interrupts()])
}

/// The shared objects that it maps.
const MAPPED: [&str; 4] = ["dirty-log", "ring", "msi-board", "checkpoint"];

const KNOWN: &str = "only the listed ioctls of VFIO and iommufd are needed";
const OF_DEVICE: &str = "this ioctl is for the device's own file";
const OF_IOMMU: &str = "this ioctl is for the device's own iommufd";

/// VFIO_DEVICE_GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, RESET, FEATURE, BIND_IOMMUFD, ATTACH_IOMMUFD_PT,
/// DETACH_IOMMUFD_PT. (Linux, include/uapi/linux/vfio.h; the same on every architecture.)
const ON_DEVICE: [u32; 9] = [0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f, 0x3b75, 0x3b76, 0x3b77, 0x3b78];

/// IOMMU_DESTROY, IOAS_ALLOC, IOAS_MAP_FILE, HWPT_ALLOC, GET_HW_INFO, HWPT_SET_DIRTY_TRACKING, HWPT_GET_DIRTY_BITMAP,
/// HWPT_INVALIDATE, VIOMMU_ALLOC, VDEVICE_ALLOC, VEVENTQ_ALLOC. (include/uapi/linux/iommufd.h)
const ON_IOMMU: [u32; 11] =
    [0x3b80, 0x3b81, 0x3b8f, 0x3b89, 0x3b8a, 0x3b8b, 0x3b8c, 0x3b8d, 0x3b90, 0x3b91, 0x3b93];

fn ioctl() -> Rule {
    let on = |slot, whose| {
        move |request: &u32| vec![Check::descriptor(0, slot, whose), Check::int(1, *request, KNOWN)]
    };
    let when = ON_DEVICE.iter().map(on("vfio-device", OF_DEVICE));
    let when = when.chain(ON_IOMMU.iter().map(on("iommufd", OF_IOMMU))).collect();
    Rule::alternatives("ioctl", when)
        .needed_for("VFIO and iommufd: the device, its translation, its interrupts")
}
