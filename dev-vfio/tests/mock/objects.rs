// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory by file, and objects that are all gone when their owner is, or when its next life clears up.

use dev_vfio::physical::nested;

use super::nested::MOCK;
use super::*;

/// Whether nothing is left. The numbers of objects are given out from 1, the lowest free one first: more than any test
/// here makes must come without a gap.
fn is_empty(iommu: BorrowedFd<'_>) -> bool {
    const MORE: u32 = 32;
    let made: Vec<ObjectId> = (0..MORE).map(|_| iommufd::ioas_alloc(iommu).unwrap()).collect();
    made.iter().for_each(|id| iommufd::destroy(iommu, *id).unwrap());
    made.into_iter().eq((1..=MORE).map(ObjectId))
}

#[test]
fn memory_of_a_file_appears_where_the_layout_says() {
    let Some(mock) = Mock::new(true) else { return };
    let access = ioctl::access(mock.fd(), mock.ioas).unwrap();
    let text = |place: u64| format!("at {place:#012x}").into_bytes();
    for (gpa, offset) in
        [(FIRST, 0), (SECOND, FIRST_PAGES * PAGE), (SECOND + 0x7ff8, FIRST_PAGES * PAGE + 0x7ff8)]
    {
        assert_eq!(rustix::io::pwrite(&mock.ram, &text(gpa), offset), Ok(text(gpa).len()));
    }
    for gpa in [FIRST, SECOND, SECOND + 0x7ff8] {
        let mut found = text(0);
        ioctl::read(mock.fd(), access.as_fd(), gpa, &mut found).unwrap();
        assert_eq!(found, text(gpa));
    }
    let behind = ioctl::read(mock.fd(), access.as_fd(), FIRST + FIRST_PAGES * PAGE, &mut [0]);
    assert_eq!(behind, Err(Errno::NOENT));
    // What is mapped already cannot be mapped again, and nothing is where the host keeps addresses for itself.
    let again = iommufd::ioas_map_file(mock.fd(), mock.ioas, mock.ram.as_fd(), 0, PAGE, FIRST);
    assert!(matches!(again, Err(Errno::EXIST | Errno::ADDRINUSE)), "{again:?}");
}

#[test]
fn objects_are_gone_with_their_owner() {
    let Some(mut mock) = Mock::new(true) else { return };
    let file = mock.fd().try_clone_to_owned().unwrap();
    nested::parent(&mut mock.objects, mock.device.bound, mock.ioas).unwrap();
    assert!(!is_empty(file.as_fd()));
    drop(mock);
    assert!(is_empty(file.as_fd()));
}

#[test]
fn next_life_clears_away_what_it_finds_in_whatever_order_it_was_made() {
    let Some(mut mock) = Mock::new(true) else { return };
    let file = mock.fd().try_clone_to_owned().unwrap();
    // Each of them has a lower number than what it stands on: those of others that are gone are used again.
    let holes = [(); 4].map(|()| iommufd::ioas_alloc(mock.fd()).unwrap());
    let space = iommufd::ioas_alloc(mock.fd()).unwrap();
    let [of_table, of_vdevice, of_viommu, of_parent] = holes;
    let (iommu, device) = (file.as_fd(), mock.device.bound);
    let free = |hole| iommufd::destroy(iommu, hole).unwrap();
    free(of_parent);
    let (parent, _) = nested::parent(&mut mock.objects, device, space).unwrap();
    free(of_viommu);
    let viommu = iommufd::viommu_alloc(iommu, &MOCK, device, parent).unwrap();
    free(of_vdevice);
    let vdevice = iommufd::vdevice_alloc(iommu, device, viommu, 8).unwrap();
    free(of_table);
    let table = iommufd::hwpt_alloc_nested(iommu, &MOCK, device, viommu, &[0_u32; 2]).unwrap();
    assert_eq!([table, vdevice, viommu, parent], holes);
    // The process has died: its files are open elsewhere, and nothing was undone.
    std::mem::forget(mock);
    let found = Objects::new(file.try_clone().unwrap()).clear_earlier();
    assert_eq!(found, None, "the mock's device is an object too");
    assert!(is_empty(file.as_fd()));
}
