// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptors of the same object count as one; objects that are gone do not count.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::{OBJECTS_MAX, Objects};

fn object() -> OwnedFd {
    rustix::fs::memfd_create("object", MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn descriptors_of_one_object_are_kept_once() {
    let (mut objects, memory) = (Objects::default(), object());
    let first = objects.share(memory.try_clone().unwrap()).unwrap().unwrap();
    let second = objects.share(memory.try_clone().unwrap()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let other = objects.share(object()).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
}

#[test]
fn descriptor_that_allows_less_does_not_stand_for_one_that_allows_more() {
    use std::os::fd::AsRawFd;
    let (mut objects, memory) = (Objects::default(), object());
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let readable = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
    let first = objects.share(readable).unwrap().unwrap();
    let second = objects.share(memory).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}

#[test]
fn objects_are_bounded_and_those_that_are_gone_make_room() {
    let mut objects = Objects::default();
    let mut held: Vec<_> = (0..OBJECTS_MAX).map(|_| objects.share(object()).unwrap().unwrap()).collect();
    assert!(objects.share(object()).unwrap().is_none());
    held.pop();
    assert!(objects.share(object()).unwrap().is_some());
}
