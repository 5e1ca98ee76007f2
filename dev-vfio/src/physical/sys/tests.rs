// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers and sizes, held against the kernel's headers by value; and that each call reaches a kernel.

use std::fs::File;
use std::os::fd::AsFd;

use iommufd_bindings as abi;
use vfio_bindings::bindings::vfio;

use super::iommufd::{ARM_SMMUV3, ObjectId};
use super::{cdev, iommufd};
use rustix::io::Errno;

#[test]
fn numbers_are_those_of_the_kernels_headers() {
    let iommufd = [0x3b80, 0x3b81, 0x3b8f, 0x3b89, 0x3b8a, 0x3b8b, 0x3b8c, 0x3b8d, 0x3b90, 0x3b91, 0x3b93];
    assert_eq!(iommufd::REQUESTS, iommufd);
    let vfio = [0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f, 0x3b75, 0x3b76, 0x3b77, 0x3b78];
    assert_eq!(cdev::REQUESTS, vfio);
}

#[test]
fn structures_have_the_kernels_sizes_and_offsets() {
    let sizes = [
        size_of::<abi::iommu_destroy>(),
        size_of::<abi::iommu_ioas_alloc>(),
        size_of::<abi::iommu_ioas_map_file>(),
        size_of::<abi::iommu_hwpt_alloc>(),
        size_of::<abi::iommu_hw_info>(),
        size_of::<abi::iommu_hw_info_arm_smmuv3>(),
        size_of::<abi::iommu_hwpt_set_dirty_tracking>(),
        size_of::<abi::iommu_hwpt_get_dirty_bitmap>(),
        size_of::<abi::iommu_hwpt_invalidate>(),
        size_of::<abi::iommu_viommu_alloc>(),
        size_of::<abi::iommu_vdevice_alloc>(),
        size_of::<abi::iommu_veventq_alloc>(),
        size_of::<abi::iommufd_vevent_header>(),
        size_of::<abi::iommu_hwpt_arm_smmuv3>(),
        size_of::<abi::iommu_viommu_arm_smmuv3_invalidate>(),
    ];
    assert_eq!(sizes, [8, 12, 40, 48, 40, 40, 16, 48, 32, 40, 24, 32, 8, 16, 16]);
    let iommufd::Types { viommu, veventq, nested, invalidation } = ARM_SMMUV3;
    assert_eq!([viommu, veventq, nested, invalidation], [1, 1, 2, 1]);
    let offsets = [
        core::mem::offset_of!(abi::iommu_ioas_map_file, fd),
        core::mem::offset_of!(abi::iommu_ioas_map_file, iova),
        core::mem::offset_of!(abi::iommu_hwpt_alloc, out_hwpt_id),
        core::mem::offset_of!(abi::iommu_hwpt_alloc, data_uptr),
        core::mem::offset_of!(abi::iommu_hw_info, __bindgen_anon_1),
        core::mem::offset_of!(abi::iommu_hw_info, out_capabilities),
        core::mem::offset_of!(abi::iommu_hwpt_invalidate, entry_num),
        core::mem::offset_of!(abi::iommu_viommu_alloc, out_viommu_id),
        core::mem::offset_of!(abi::iommu_vdevice_alloc, virt_id),
        core::mem::offset_of!(abi::iommu_veventq_alloc, out_veventq_fd),
        core::mem::offset_of!(vfio::vfio_device_bind_iommufd, out_devid),
        core::mem::offset_of!(vfio::vfio_device_bind_iommufd, token_uuid_ptr),
        core::mem::offset_of!(vfio::vfio_device_attach_iommufd_pt, pasid),
    ];
    assert_eq!(offsets, [12, 32, 16, 32, 24, 32, 24, 20, 16, 24, 12, 16, 12]);
}

#[test]
fn calls_on_a_file_that_is_no_device_are_refused_by_the_kernel() {
    let file = File::open("/dev/null").unwrap();
    let (null, id) = (file.as_fd(), ObjectId(1));
    assert_eq!(iommufd::ioas_alloc(null), Err(Errno::NOTTY));
    assert_eq!(iommufd::invalidate(null, &ARM_SMMUV3, id, &[[0_u64; 2]; 3]), (0, Err(Errno::NOTTY)));
    assert_eq!(iommufd::get_hw_info(null, id), Err(Errno::NOTTY));
    assert_eq!(iommufd::get_dirty_bitmap(null, id, 0, 4096 * 65, &mut [0]), Err(Errno::INVAL));
    assert_eq!(cdev::bind(null, null), Err(Errno::NOTTY));
    assert_eq!(cdev::region_info(null, 0), Err(Errno::NOTTY));
    assert_eq!(cdev::set_irqs(null, 2, 0, &[null]), Err(Errno::NOTTY));
    assert_eq!(cdev::probe_feature(null, 1, true), Err(Errno::NOTTY));
    assert_eq!(cdev::dma_logging_report(null, 0, 4096 * 65, 4096, &mut [0]), Err(Errno::INVAL));
    assert_eq!(cdev::dma_logging_report(null, 0, 1, 0, &mut [0]), Err(Errno::INVAL));
}
