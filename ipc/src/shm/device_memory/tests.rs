// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is safe to map is; all other is refused with the reason.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::addr::Gpa;
use crate::shm::memory_file;

const GPA: u64 = 0x1100_0000;

fn file(len: u64, seals: SealFlags) -> OwnedFd {
    let file = memory_file::create("device").unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

fn window(file_offset: u64, len: u64, writable: bool) -> DeviceWindow {
    DeviceWindow { region: 1, offset: 0, len, file_offset, writable }
}

fn map(file: OwnedFd, window: DeviceWindow) -> Result<DeviceMemory, Unsafe> {
    DeviceMemory::map(file, &window, GpaRange::new(Gpa(GPA), window.len.max(1)).unwrap())
}

#[test]
fn sealed_memory_is_reached_in_every_size_and_nowhere_else() {
    let file = file(0x3000, SealFlags::SHRINK);
    let server = file.as_fd().try_clone_to_owned().unwrap();
    let memory = map(file, window(0x1000, 0x1000, true)).unwrap();
    for (at, size) in [(0, 1), (2, 2), (4, 4), (8, 8), (0x11, 4), (0x1b, 8)] {
        assert!(memory.write(GPA + at, size, 0x8877_6655_4433_2211));
        let expected = 0x8877_6655_4433_2211 & (u64::MAX >> (64 - 8 * u32::from(size)));
        assert_eq!(memory.read(GPA + at, size), Some(expected), "{at:#x}");
        let mut bytes = [0; 8];
        rustix::io::pread(&server, &mut bytes[..size.into()], 0x1000 + at).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), expected, "the server sees it at its offset");
    }
    assert_eq!(memory.read(GPA + 0xfff, 2), None);
    assert_eq!(memory.read(GPA - 1, 1), None);
    assert_eq!(memory.read(GPA, 0), None);
    assert!(!memory.write(GPA + 0x1000, 1, 0));
    assert!(!memory.write(u64::MAX, 8, 0));
}

#[test]
fn read_only_window_takes_no_writes() {
    let memory = map(file(0x1000, SealFlags::SHRINK), window(0, 0x1000, false)).unwrap();
    assert_eq!(memory.read(GPA, 4), Some(0));
    assert!(!memory.write(GPA, 4, 1));
    assert!(!memory.is_writable());
}

#[test]
fn file_that_could_shrink_is_refused() {
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::SEAL] {
        let refused = map(file(0x1000, seals), window(0, 0x1000, true)).unwrap_err();
        assert!(matches!(refused, Unsafe::Unsealed(_)), "{refused}");
    }
    let ordinary = tempfile();
    assert!(matches!(map(ordinary, window(0, 0x1000, true)), Err(Unsafe::Unsealed(_))));
}

fn tempfile() -> OwnedFd {
    std::fs::File::open("/proc/self/exe").unwrap().into()
}

#[test]
fn window_behind_the_file_or_off_its_pages_is_refused() {
    let sealed = || file(0x2000, SealFlags::SHRINK);
    assert!(matches!(map(sealed(), window(0x1000, 0x2000, true)), Err(Unsafe::Short { .. })));
    assert!(matches!(map(sealed(), window(!0xfff, 0x2000, true)), Err(Unsafe::Unaligned)));
    for odd in [window(0x10, 0x1000, true), window(0, 0x800, true), window(0, 0, true)] {
        assert!(matches!(map(sealed(), odd), Err(Unsafe::Unaligned)), "{odd:?}");
    }
}

#[test]
fn read_only_descriptor_is_not_mapped_for_writing() {
    let sealed = file(0x1000, SealFlags::SHRINK);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed));
    let read_only: OwnedFd = std::fs::File::open(path).unwrap().into();
    assert!(matches!(map(read_only, window(0, 0x1000, true)), Err(Unsafe::Host(_))));
}

#[test]
fn hole_that_the_server_punches_reads_as_zeros() {
    let sealed = file(0x1000, SealFlags::SHRINK);
    let server = sealed.as_fd().try_clone_to_owned().unwrap();
    let memory = map(sealed, window(0, 0x1000, true)).unwrap();
    assert!(memory.write(GPA, 8, u64::MAX));
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    fallocate(&server, hole, 0, 0x1000).unwrap();
    assert_eq!(memory.read(GPA, 8), Some(0));
    assert!(ftruncate(&server, 0).is_err(), "the seal holds");
}

#[test]
fn huge_pages_are_refused() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(huge) = memfd_create("huge", flags) else {
        println!("SKIPPED: this host makes no memory file of huge pages");
        return;
    };
    fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
    assert!(matches!(map(huge, window(0, 0x1000, true)), Err(Unsafe::FileSystem(_))));
}
