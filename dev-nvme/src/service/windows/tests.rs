// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows meet, end, and are gone; unsealed memory is never mapped.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipc::shm::region::Region;
use ipc::vfio_user::dma::DmaMap;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::{Found, Loan, Segment, Windows};

fn sealed(len: u64) -> OwnedFd {
    Region::create("window", len).unwrap().file().try_clone().unwrap().into()
}

const READ_WRITE: u32 = DmaMap::READ | DmaMap::WRITE;

#[test]
fn window_is_read_and_written_up_to_its_last_byte() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x10_0000, 0x3000, 0x1000, READ_WRITE), Some(sealed(0x4000))).unwrap();
    assert_eq!(windows.write(0x10_2ffc, b"last"), Found::Done(()));
    let mut bytes = [0; 4];
    assert_eq!(windows.read(0x10_2ffc, &mut bytes), Found::Done(()));
    assert_eq!(&bytes, b"last");
    assert_eq!(windows.read(0x10_2ffd, &mut bytes), Found::Nothing);
    assert_eq!(windows.read(0xf_ffff, &mut bytes), Found::Nothing);
    assert_eq!(windows.read(u64::MAX - 1, &mut bytes), Found::Nothing);
    assert_eq!(windows.publish(0x10_0010, &[[7; 16]]), Found::Done(()));
    assert_eq!(windows.publish(0x10_0011, &[[7; 16]]), Found::Nothing);
    assert_eq!(windows.remove(0x10_0000, 0x2000), Err(Errno::NOENT));
    assert_eq!(windows.remove(0x10_0000, 0x3000), Ok(()));
    assert_eq!(windows.read(0x10_0000, &mut bytes), Found::Nothing);
}

#[test]
fn windows_that_meet_are_refused() {
    let windows = Windows::default();
    let add = |start, len| windows.add(&DmaMap::new(start, len, 0, READ_WRITE), None);
    assert_eq!(add(0x10_0000, 0x2000), Ok(false));
    for (start, len) in [(0x10_0000, 0x1000), (0x10_1000, 0x4000), (0xf_0000, 0x1_1000), (0, 0x100_0000)] {
        assert_eq!(add(start, len), Err(Errno::EXIST), "{start:#x}");
    }
    assert_eq!(add(0x10_2000, 0x1000), Ok(false));
    assert_eq!(add(0xf_f000, 0x1000), Ok(false));
    assert_eq!(add(u64::MAX - 0xfff, 0x1000), Ok(false));
    assert_eq!(windows.read(u64::MAX, &mut [0]), Found::ByMessage);
}

#[test]
fn direction_that_was_not_allowed_is_refused() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0, 0x1000, 0, DmaMap::READ), Some(sealed(0x1000))).unwrap();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, DmaMap::WRITE), None).unwrap();
    assert_eq!(windows.write(0, &[1]), Found::Nothing);
    assert_eq!(windows.read(0, &mut [1]), Found::Done(()));
    assert_eq!(windows.read(0x1000, &mut [1]), Found::Nothing);
    assert_eq!(windows.write(0x1000, &[1]), Found::ByMessage);
}

#[test]
fn memory_that_can_be_cut_short_is_not_mapped() {
    let windows = Windows::default();
    let unsealed = rustix::fs::memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 0x1000).unwrap();
    windows.add(&DmaMap::new(0, 0x1000, 0, READ_WRITE), Some(unsealed)).unwrap();
    assert_eq!(windows.read(0, &mut [0]), Found::ByMessage);
    let short = windows.add(&DmaMap::new(0x1_0000, 0x2000, 0, READ_WRITE), Some(sealed(0x1000)));
    assert_eq!(short, Err(Errno::INVAL));
}

#[test]
fn memory_in_huge_pages_is_not_mapped() {
    // With no page in the pool a touch would end this process.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(huge) = rustix::fs::memfd_create("huge", flags) else {
        println!("SKIPPED: this host makes no memory file of huge pages");
        return;
    };
    rustix::fs::ftruncate(&huge, 2 << 20).unwrap();
    rustix::fs::fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
    let windows = Windows::default();
    assert_eq!(windows.add(&DmaMap::new(0, 2 << 20, 0, READ_WRITE), Some(huge)), Ok(false));
    assert_eq!(windows.write(0, &[1]), Found::ByMessage);
}

#[test]
fn descriptor_that_is_no_memory_is_not_mapped() {
    let (pipe, _) = std::io::pipe().unwrap();
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let empty = rustix::fs::memfd_create("empty", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&empty, SealFlags::SHRINK).unwrap();
    let windows = Windows::default();
    for (start, fd) in (0..).step_by(0x1000).zip([pipe.into(), eventfd, file.into()]) {
        let map = DmaMap::new(start, 0x1000, 0, READ_WRITE);
        assert_eq!(windows.add(&map, Some(fd)), Ok(false));
        assert_eq!(windows.read(start, &mut [0]), Found::ByMessage);
    }
    assert_eq!(windows.add(&DmaMap::new(0x1_0000, 0x1000, 0, READ_WRITE), Some(empty)), Err(Errno::INVAL));
}

#[test]
fn only_what_is_in_a_window_and_may_be_written_is_logged() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    windows.add(&DmaMap::new(0x2000, 0x1000, 0, READ_WRITE), None).unwrap();
    windows.add(&DmaMap::new(0x3000, 0x1000, 0, DmaMap::READ), Some(sealed(0x1000))).unwrap();
    assert!(windows.log.start(Vec::new()));
    let reported = || windows.log.harvest(0, 16 << 12, 4096, 8);
    for at in [0x0, 0x3000, 0x4000, 0x1_0000, 1 << 40, u64::MAX - 0xfff] {
        assert_eq!(windows.write(at, &[1]), Found::Nothing);
        assert_eq!(windows.publish(at, &[[1; 16]]), Found::Nothing);
        assert_eq!(windows.store(at, 1), Found::Nothing);
        assert!(!windows.lend(&[segment(at, 8)], loan(true, true), &mut |_| ()));
    }
    assert_eq!(reported(), [0; 8]);
    assert_eq!(windows.read(0x1000, &mut [0]), Found::Done(()));
    assert!(windows.lend(&[segment(0x1000, 8)], loan(false, true), &mut |_| ()));
    assert_eq!(reported(), [0; 8]);
    // The client writes, and the bus logs it when it has.
    assert_eq!(windows.write(0x2fff, &[1]), Found::ByMessage);
    assert!(windows.lend(&[segment(0x1000, 8)], loan(true, false), &mut |_| ()));
    assert_eq!(reported(), [0b10, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn page_is_in_a_report_that_was_asked_for_after_it_was_written() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x2000, 0, READ_WRITE), Some(sealed(0x2000))).unwrap();
    assert!(windows.log.start(Vec::new()));
    let reported = || windows.log.harvest(0, 16 << 12, 4096, 8)[0];
    for loan in [loan(true, true), loan(true, false)] {
        let segments = [segment(0x1000, 8), segment(0x2000, 8)];
        for (segments, pages) in [(&segments[..1], 0b10), (&segments, 0b110)] {
            let lent = windows.lend(segments, loan, &mut |slices| {
                // A client that copies what is reported here copies the page as it was.
                let _ = reported();
                slices.iter().for_each(|slice| slice.copy_from(&[7; 8]));
            });
            assert!(lent);
            assert_eq!(reported(), pages, "{loan:?}");
        }
    }
}

fn segment(iova: u64, len: usize) -> Segment {
    Segment { iova, len }
}

const fn loan(written: bool, waits: bool) -> Loan {
    Loan { written, waits }
}

#[test]
fn memory_of_one_mapped_window_is_lent_in_the_order_asked_for() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x2000, 0, READ_WRITE), Some(sealed(0x2000))).unwrap();
    windows.add(&DmaMap::new(0x3000, 0x1000, 0, DmaMap::READ), Some(sealed(0x1000))).unwrap();
    windows.add(&DmaMap::new(0x4000, 0x1000, 0, READ_WRITE), None).unwrap();
    assert_eq!(windows.write(0x1ffe, b"abcd"), Found::Done(()));
    let mut seen = Vec::new();
    let lent = windows.lend(&[segment(0x2000, 2), segment(0x1ffe, 2)], loan(true, true), &mut |slices| {
        for slice in slices {
            let mut bytes = [0; 2];
            slice.copy_to(&mut bytes);
            seen.extend(bytes);
        }
    });
    assert!(lent && seen == b"cdab");
    let refused = |segments: &[Segment], written| {
        [true, false].into_iter().all(|waits| {
            let loan = loan(written, waits);
            !windows.lend(segments, loan, &mut |_| panic!("lent"))
        })
    };
    // Over a border, half in another window, by message, read-only, nowhere, nothing.
    assert!(refused(&[segment(0x2fff, 2)], false));
    assert!(refused(&[segment(0x2000, 2), segment(0x3000, 2)], false));
    assert!(refused(&[segment(0x3000, 2), segment(0x2000, 2)], false));
    assert!(refused(&[segment(0x4000, 2)], false));
    assert!(refused(&[segment(0x3000, 2)], true));
    assert!(refused(&[segment(0x10, 2), segment(u64::MAX, 2)], false));
    assert!(refused(&[segment(0x3000, usize::MAX)], false));
    assert!(refused(&[], false));
}

#[test]
fn removal_of_a_window_waits_until_it_is_given_back() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    windows.add(&DmaMap::new(0x2000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    let removed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        windows.lend(&[segment(0x1000, 8)], loan(true, true), &mut |_| {
            scope.spawn(|| {
                windows.remove(0x1000, 0x1000).unwrap();
                removed.store(true, Ordering::SeqCst);
            });
            // It is not in the table any more, and still here; others are not kept waiting.
            while windows.read(0x1000, &mut [0; 4]) != Found::Nothing {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50));
            assert!(!removed.load(Ordering::SeqCst));
            assert_eq!(windows.read(0x2000, &mut [0; 4]), Found::Done(()));
        });
    });
    assert!(removed.load(Ordering::SeqCst));
}

#[test]
fn removal_waits_for_an_access_that_does_not_wait_too() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    let removed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        windows.lend(&[segment(0x1000, 8)], loan(true, false), &mut |_| {
            scope.spawn(|| {
                windows.remove(0x1000, 0x1000).unwrap();
                removed.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!removed.load(Ordering::SeqCst));
        });
    });
    assert!(removed.load(Ordering::SeqCst));
}

#[test]
fn entries_are_published_one_behind_the_other_within_a_window() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    let entries = [1, 2, 3].map(|entry| [entry; 16]);
    assert_eq!(windows.publish(0x1fd0, &entries), Found::Done(()));
    let mut bytes = [0; 0x40];
    assert_eq!(windows.read(0x1fc0, &mut bytes), Found::Done(()));
    assert_eq!(bytes.as_chunks::<16>().0, [[0; 16], entries[0], entries[1], entries[2]]);
    // The last one would be outside: none is written.
    assert_eq!(windows.publish(0x1fe0, &entries), Found::Nothing);
    assert_eq!(windows.read(0x1fc0, &mut bytes), Found::Done(()));
    assert_eq!(bytes.as_chunks::<16>().0[2], entries[1]);
}

#[test]
fn dword_is_loaded_and_stored_only_where_it_is_aligned() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x1000, 0, READ_WRITE), Some(sealed(0x1000))).unwrap();
    windows.add(&DmaMap::new(0x2000, 0x1000, 0, DmaMap::READ), Some(sealed(0x1000))).unwrap();
    assert_eq!(windows.store(0x1ffc, 0x0102_0304), Found::Done(()));
    assert_eq!(windows.load(0x1ffc), Found::Done(0x0102_0304));
    assert_eq!(windows.load(0x1ffe), Found::Nothing);
    assert_eq!(windows.load(0x1001), Found::Nothing);
    assert_eq!(windows.store(0x2000, 1), Found::Nothing);
    assert_eq!(windows.load(0x2000), Found::Done(0));
}

#[test]
fn windows_in_one_object_hold_one_descriptor() {
    let windows = Windows::default();
    let memory = sealed(0x100_0000);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for page in 0..4096 {
        let map = DmaMap::new(page * 0x2000, 0x1000, page * 0x1000, READ_WRITE);
        assert_eq!(windows.add(&map, Some(memory.try_clone().unwrap())), Ok(true));
    }
    // Other tests of this process open a few at the same time.
    assert!(open() < before + 100, "{} descriptors more", open() - before);
    assert_eq!(windows.write(4095 * 0x2000, b"last"), Found::Done(()));
}

#[test]
fn range_that_consists_of_windows_is_removed_whole_and_one_that_cuts_a_window_is_not() {
    let windows = Windows::default();
    let add = |start, len| windows.add(&DmaMap::new(start, len, 0, READ_WRITE), None).unwrap();
    for start in [0x1_0000, 0x1_1000, 0x1_4000] {
        add(start, 0x1000);
    }
    add(0x2_0000, 0x2000);
    for (start, len) in [(0x2_1000, 0x1000), (0x1_4000, 0xd000), (0x2_1000, 0x8000), (0x3_0000, 0x1000)] {
        assert_eq!(windows.remove(start, len), Err(Errno::NOENT), "{start:#x}");
    }
    assert_eq!(windows.remove(u64::MAX - 0xfff, 0x2000), Err(Errno::INVAL));
    assert_eq!(windows.remove(0x1_0000, 0x1_0000), Ok(()));
    assert_eq!(windows.read(0x1_1000, &mut [0]), Found::Nothing);
    assert_eq!(windows.read(0x2_1fff, &mut [0]), Found::ByMessage);
    assert_eq!(windows.remove(0, u64::MAX), Ok(()));
}

#[test]
fn reach_of_a_window_ends_with_it() {
    let windows = Windows::default();
    windows.add(&DmaMap::new(0x1000, 0x2000, 0, READ_WRITE), None).unwrap();
    windows.add(&DmaMap::new(u64::MAX - 0xfff, 0x1000, 0, READ_WRITE), None).unwrap();
    let reaches = [0xfff, 0x1000, 0x2fff, 0x3000, u64::MAX].map(|iova| windows.reach(iova));
    assert_eq!(reaches, [None, Some(0x2000), Some(1), None, Some(1)]);
}
