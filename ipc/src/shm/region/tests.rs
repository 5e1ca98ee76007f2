// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory objects as they are received.

use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{MemfdFlags, SealFlags};

use super::{Region, View};
use crate::error::{Breach, Error};

fn breach(result: Result<Region, Error>) -> Breach {
    match result {
        Err(Error::Violation(violation)) => violation.breach,
        other => panic!("{other:?}"),
    }
}

#[test]
fn region_passed_on_is_accepted_and_is_the_same_memory() {
    let ours = Region::create("test", 8192).unwrap();
    let theirs = Region::from_fd(ours.as_fd().try_clone_to_owned().unwrap(), 8192).unwrap();
    let (a, b): (View<[AtomicU64]>, View<[AtomicU64]>) =
        (ours.view_slice(4096, 512).unwrap(), theirs.view_slice(4096, 512).unwrap());
    drop((ours, theirs));
    a[511].store(9, Relaxed);
    assert_eq!(b[511].load(Relaxed), 9);
}

#[test]
fn region_can_neither_shrink_nor_grow_nor_be_sealed_further() {
    let region = Region::create("test", 4096).unwrap();
    assert!(region.file().set_len(0).is_err());
    assert!(region.file().set_len(8192).is_err());
    assert!(rustix::fs::fcntl_add_seals(&region, SealFlags::WRITE).is_err());
}

#[test]
fn region_without_all_seals_is_refused() {
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::SHRINK | SealFlags::GROW] {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        assert!(matches!(breach(Region::from_fd(fd, 4096)), Breach::Seals { .. }), "{seals:?}");
    }
}

#[test]
fn region_of_another_size_is_refused() {
    let region = Region::create("test", 4096).unwrap();
    for len in [0, 4095, 4097, u64::MAX] {
        let fd = region.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(breach(Region::from_fd(fd, len)), Breach::RegionLength { found: 4096, expected: len });
    }
}

#[test]
fn fd_that_is_no_memory_object_is_refused() {
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    assert!(matches!(Region::from_fd(reader, 4096), Err(Error::Io { .. })));
}

#[test]
fn view_beyond_the_end_or_misaligned_does_not_exist() {
    let region = Region::create("test", 4096).unwrap();
    let view = |offset, count| region.view_slice::<AtomicU64>(offset, count);
    assert!(view(0, 512).is_ok() && view(4096, 0).is_ok());
    for (offset, count) in [(0, 513), (8, 512), (4104, 0), (0, usize::MAX / 8), (usize::MAX & !7, 2), (4, 1)]
    {
        assert!(view(offset, count).is_err(), "{offset} {count}");
    }
    assert!(Region::create("empty", 0).unwrap().view_slice::<AtomicU64>(0, 0).is_err());
}
