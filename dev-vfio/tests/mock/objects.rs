// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory by file, and objects that are all gone when their owner is, or when its next life clears up.

use dev_vfio::kernel::nested;

use super::*;

/// The numbers of objects are given out from 1, the lowest free one first.
fn lowest_free(iommu: BorrowedFd<'_>) -> ObjectId {
    let id = iommufd::ioas_alloc(iommu).unwrap();
    iommufd::destroy(iommu, id).unwrap();
    id
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
    assert_ne!(lowest_free(file.as_fd()), ObjectId(1));
    drop(mock);
    assert_eq!(lowest_free(file.as_fd()), ObjectId(1));
}

#[test]
fn next_life_clears_away_what_it_finds_in_whatever_order_it_was_made() {
    let Some(mut mock) = Mock::new(true) else { return };
    let file = mock.fd().try_clone_to_owned().unwrap();
    // Parents upon a space that has a higher number than they: the numbers of others that were destroyed were used again.
    let holes = [(); 2].map(|()| iommufd::ioas_alloc(mock.fd()).unwrap());
    let space = iommufd::ioas_alloc(mock.fd()).unwrap();
    holes.iter().for_each(|id| iommufd::destroy(mock.fd(), *id).unwrap());
    for _ in holes {
        let (parent, _) = nested::parent(&mut mock.objects, mock.device.bound, space).unwrap();
        assert!(parent < space);
    }
    // The process has died: its files are open elsewhere, and nothing was undone.
    std::mem::forget(mock);
    let found = Objects::new(file.try_clone().unwrap()).adopt();
    assert_eq!(found, None, "the mock's device is an object too");
    assert_eq!(lowest_free(file.as_fd()), ObjectId(1));
}
