// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Only the named character device is mapped. `/dev/zero` stands for a VFIO device: a character device that can be
//! mapped.

use std::fs::File;

use super::*;
use crate::shm::memory_file;

fn zero() -> (OwnedFd, u64) {
    let file = OwnedFd::from(File::options().read(true).write(true).open("/dev/zero").unwrap());
    let device = rustix::fs::fstat(&file).unwrap().st_rdev;
    (file, device)
}

fn window(file_offset: u64, len: u64) -> DeviceWindow {
    DeviceWindow { region: 1, offset: 0, len, file_offset, writable: true }
}

/// The line of `/proc/self/maps` with this address, if something is mapped there.
fn mapped_at(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find(|line| line.starts_with(&format!("{address:x}-"))).map(str::to_owned)
}

#[test]
fn named_device_is_mapped_until_it_is_dropped() {
    let (file, device) = zero();
    let bar = HostBar::map(file, &window(0x1000, 0x2000), device).unwrap();
    let address = bar.host_address();
    let line = mapped_at(address).unwrap();
    assert!(line.contains(" rw-s ") && line.contains("/dev/zero"), "{line}");
    assert!(line.starts_with(&format!("{address:x}-{:x} ", address + 0x2000)), "{line}");
    drop(bar);
    assert_eq!(mapped_at(address), None);
    let (file, device) = zero();
    let read_only = DeviceWindow { writable: false, ..window(0, 0x1000) };
    let bar = HostBar::map(file, &read_only, device).unwrap();
    assert!(mapped_at(bar.host_address()).unwrap().contains(" r--s "));
}

#[test]
fn any_other_file_is_refused() {
    let (file, device) = zero();
    let refused = HostBar::map(file, &window(0, 0x1000), device + 1).unwrap_err();
    assert!(refused.to_string().contains("another device"), "{refused}");
    let memory = memory_file::create("device").unwrap();
    rustix::fs::ftruncate(&memory, 0x1000).unwrap();
    let refused = HostBar::map(memory, &window(0, 0x1000), device).unwrap_err();
    assert!(refused.to_string().contains("no character device"), "{refused}");
}

#[test]
fn numbers_that_are_no_pages_are_refused() {
    for (offset, len) in [(0, 0), (0x800, 0x1000), (0, 0x800)] {
        let (file, device) = zero();
        let refused = HostBar::map(file, &window(offset, len), device).unwrap_err();
        assert!(matches!(refused, Unmappable::Unaligned), "{refused}");
    }
    let (file, device) = zero();
    let beyond = HostBar::map(file, &window(0, 1 << 62), device).unwrap_err();
    assert!(matches!(beyond, Unmappable::Host(_)), "{beyond}");
}
