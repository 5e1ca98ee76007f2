// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this host has cached of an image is not read once it has locked it.

use std::fs::File;
use std::io::{IoSliceMut, Write};

use rustix::fs::fstatfs;
use rustix::io::{ReadWriteFlags, preadv2};

use super::*;

const PAGE: usize = 4096;
/// statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Whether the first page is read without asking the disk.
fn is_cached(image: &File) -> Result<bool, Errno> {
    let mut page = [0; PAGE];
    match preadv2(image, &mut [IoSliceMut::new(&mut page)], 0, ReadWriteFlags::NOWAIT) {
        Ok(count) => Ok(count == PAGE),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

#[test]
fn cached_pages_of_a_disk_are_dropped_when_it_is_locked() {
    // Beside the build: a file in memory has no other place than the cache.
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut image = tempfile::tempfile_in(folder).unwrap();
    image.write_all(&[7; 16 * PAGE]).unwrap();
    image.sync_all().unwrap();
    match is_cached(&image) {
        Ok(true) => {}
        other => return println!("SKIPPED: this file system does not say what is cached: {other:?}"),
    }
    if fstatfs(&image).unwrap().f_type == TMPFS_MAGIC {
        return println!("SKIPPED: the cache is all that this file system has");
    }
    let disk = Lockable { image: image.try_clone().unwrap().into(), name: "it".to_owned(), readonly: false };
    lock(&[disk]).unwrap();
    match is_cached(&image) {
        Ok(false) => {}
        other => panic!("an old page may be read: {other:?}"),
    }
}
