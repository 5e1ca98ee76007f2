// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::{PIECES_MAX, behind, read_at, read_at_once, waits, write_at};
use crate::shm::memory_file;

fn file(len: usize) -> File {
    let file = File::from(memory_file::create("file").unwrap());
    let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    file.write_all_at(&bytes, 0).unwrap();
    file
}

fn bytes(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// `count` pieces of `len` bytes, the last one first, none of them beside the next.
fn pieces(memory: &MmapRegion, count: usize, len: usize) -> Vec<VolatileSlice<'_>> {
    (0..count).rev().map(|number| memory.get_slice(number * (len + 3), len).unwrap()).collect()
}

fn held(pieces: &[VolatileSlice<'_>]) -> Vec<u8> {
    let mut held = Vec::new();
    for piece in pieces {
        let mut bytes = vec![0; piece.len()];
        piece.copy_to(&mut bytes);
        held.extend_from_slice(&bytes);
    }
    held
}

#[test]
fn more_pieces_than_a_call_takes_are_read_and_written_in_order() {
    let (count, len) = (PIECES_MAX * 2 + 5, 13);
    let memory: MmapRegion = MmapRegion::new(count * (len + 3)).unwrap();
    let pieces = pieces(&memory, count, len);
    let from = file(count * len + 100);
    read_at(from.as_fd(), &pieces, 50).unwrap();
    assert!(held(&pieces) == bytes(&from, 50, count * len));
    let to = file(0);
    write_at(to.as_fd(), &pieces, 9).unwrap();
    assert!(bytes(&to, 9, count * len) == held(&pieces));
    assert_eq!(to.metadata().unwrap().len(), 9 + (count * len) as u64);
}

#[test]
fn file_that_ends_before_is_an_error_and_so_is_a_closed_direction() {
    let memory: MmapRegion = MmapRegion::new(4096).unwrap();
    let all = [memory.get_slice(0, 4096).unwrap()];
    let short = file(4000);
    assert_eq!(read_at(short.as_fd(), &all, 0), Err(Errno::NODATA));
    assert_eq!(read_at(short.as_fd(), &all, u64::MAX), Err(Errno::INVAL));
    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(write_at(reader.as_fd(), &all, 0), Err(Errno::SPIPE));
    drop(writer);
    assert_eq!(read_at(short.as_fd(), &[], 1 << 40), Ok(()));
}

#[test]
fn what_is_in_the_page_cache_is_read_at_once_and_only_that() {
    let path = std::env::temp_dir().join(format!("bulkhead-file-io-{}", std::process::id()));
    let on_disk = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    on_disk.write_all_at(&[0x5a; 64 << 10], 0).unwrap();
    let memory: MmapRegion = MmapRegion::new(8192).unwrap();
    let pieces = pieces(&memory, 3, 1000);
    let whole = read_at_once(on_disk.as_fd(), &pieces, 77).unwrap();
    if whole {
        assert!(held(&pieces) == [0x5a; 3000]);
    } else {
        println!("not tested here: {} cannot tell what is in its page cache", std::env::temp_dir().display());
    }
    // Behind the end there is nothing to have at once, and a failure is a failure.
    assert_eq!(read_at_once(on_disk.as_fd(), &pieces, 1 << 30), Ok(false));
    assert_eq!(read_at_once(on_disk.as_fd(), &pieces, u64::MAX), Err(Errno::INVAL));
    // Out of the page cache, where there is a disk behind it.
    on_disk.sync_all().unwrap();
    rustix::fs::fadvise(&on_disk, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let cold = read_at_once(on_disk.as_fd(), &pieces, 77).unwrap();
    println!("after the page cache was dropped: read at once: {cold}");
    read_at(on_disk.as_fd(), &pieces, 77).unwrap();
    assert!(held(&pieces) == [0x5a; 3000]);
}

#[test]
fn rest_of_a_partial_transfer_begins_where_it_ended() {
    let lens = |pieces: &[libc::iovec]| pieces.iter().map(|piece| piece.iov_len).collect::<Vec<_>>();
    let make = || [5, 7, 9].map(|len| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: len });
    for (moved, left) in
        [(0, vec![5, 7, 9]), (4, vec![1, 7, 9]), (5, vec![7, 9]), (13, vec![8]), (21, vec![])]
    {
        assert_eq!(lens(behind(&mut make(), moved)), left, "{moved}");
    }
    let mut moved = make();
    assert_eq!(behind(&mut moved, 6).first().map(|piece| piece.iov_base.addr()), Some(1));
}

#[test]
fn waits_are_those_of_this_thread() {
    let before = waits().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let slept = waits().unwrap();
    assert!(slept > before);
    let other = std::thread::spawn(|| {
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        waits().unwrap()
    });
    // Busy until the other one is through.
    while !other.is_finished() {
        std::hint::spin_loop();
    }
    assert!(other.join().unwrap() >= 10);
    assert!(waits().unwrap() < slept + 10);
}
