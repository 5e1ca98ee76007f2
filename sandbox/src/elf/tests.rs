// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which files count as static programs for this machine.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::MemfdFlags;

use super::*;

/// This test itself: the project's programs are all built static.
fn own() -> Vec<u8> {
    std::fs::read("/proc/self/exe").unwrap()
}

fn judged(bytes: &[u8]) -> Result<(), NotStatic> {
    let file = File::from(rustix::fs::memfd_create(c"program", MemfdFlags::CLOEXEC).unwrap());
    rustix::io::pwrite(&file, bytes, 0).unwrap();
    check(file.as_fd())
}

#[test]
fn static_program_passes() {
    assert_eq!(judged(&own()[..4096]), Ok(()));
}

#[test]
fn program_with_an_interpreter_is_dynamic() {
    let mut bytes = own()[..4096].to_vec();
    // The first program header's type.
    bytes[64..68].copy_from_slice(&3u32.to_le_bytes());
    assert_eq!(judged(&bytes), Err(NotStatic::Dynamic));
}

#[test]
fn program_for_another_machine_is_named() {
    let mut bytes = own()[..4096].to_vec();
    bytes[18..20].copy_from_slice(&243u16.to_le_bytes());
    assert_eq!(judged(&bytes), Err(NotStatic::OtherMachine(243)));
}

#[test]
fn broken_headers_are_not_programs() {
    let good = own()[..4096].to_vec();
    assert_eq!(judged(b"#!/bin/sh\n"), Err(NotStatic::NotElf));
    assert_eq!(judged(&good[..63]), Err(NotStatic::NotElf));
    // Class, data, kind (relocatable), entry size, entry count, a table beyond the file, a table at the end of numbers.
    for (at, with) in [
        (4, vec![1]),
        (5, vec![2]),
        (16, vec![1, 0]),
        (54, vec![32, 0]),
        (56, vec![0xff, 0xff]),
        (32, vec![0, 0, 1, 0, 0, 0, 0, 0]),
        (32, vec![0xff; 8]),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(&with);
        assert!(judged(&bytes).is_err(), "byte {at}");
    }
}
