// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::fs::File;
use std::os::fd::AsFd;

use ipc::shm::dirty_log::{self, OwedMap};

use super::*;

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 200;

fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: Gpa(BASE), len: PAGES * PAGE_LEN, file_offset: 0 }]).unwrap()
}

fn tracking(method: Method, bypass: bool) -> DirtyTracking {
    let (layout, parent) = (layout(), Some(ObjectId(3)));
    let tracking = DirtyTracking {
        method,
        parent,
        layout,
        enabled: true,
        logs: true,
        exact: false,
        bypass,
        page_len: PAGE_LEN,
    };
    DirtyTracking { exact: tracking.can_be_exact(), ..tracking }
}

fn log() -> DirtyLog {
    let log = DirtyLog::create("dirty", &layout()).unwrap();
    let log = DirtyLog::attach(&log, &layout()).unwrap();
    log.enable(1);
    log
}

fn pages(log: &DirtyLog) -> OwedMap {
    let mut pages = OwedMap::new(&layout());
    dirty_log::rearm_and_harvest(log, &mut pages);
    pages
}

#[test]
fn bitmap_marks_its_pages_and_no_others() {
    let log = log();
    let mut asked = Vec::new();
    tracking(Method::Stage2, false)
        .for_each_run(PAGE_LEN, &log, |start, len, bitmap| {
            asked.push((start, len, bitmap.len()));
            bitmap.copy_from_slice(&[1, 1 << 63, 0, 0b10]);
            Ok(())
        })
        .unwrap();
    assert_eq!(asked, [(BASE, PAGES * PAGE_LEN, 4)]);
    let pages = pages(&log);
    let starts: Vec<u64> = pages.ranges().map(|range| (range.start().0 - BASE) / PAGE_LEN).collect();
    assert_eq!((starts, pages.count()), (vec![0, 127, 193], 3));
}

#[test]
fn coarse_log_marks_every_page_of_its_granule() {
    let log = log();
    tracking(Method::DeviceLog, true)
        .for_each_run(4 * PAGE_LEN, &log, |_, _, bitmap| {
            bitmap[0] = 0b10;
            Ok(())
        })
        .unwrap();
    let pages = pages(&log);
    assert_eq!(pages.count(), 4);
    assert!(pages.contains(Gpa(BASE + 4 * PAGE_LEN)) && !pages.contains(Gpa(BASE + 8 * PAGE_LEN)));
}

#[test]
fn log_that_cannot_be_read_is_everything_and_what_has_none_is_unseen() {
    let null = File::open("/dev/null").unwrap();
    let null = null.as_fd();
    let log = log();
    let read = |tracking: &mut DirtyTracking| {
        let exactness = tracking.read(null, null, &log);
        assert!(pages(&log).is_empty(), "what is not known is not marked");
        exactness
    };
    // /dev/null refuses both ioctls.
    for method in [Method::Stage2, Method::DeviceLog] {
        assert_eq!(read(&mut tracking(method, true)), Exactness::Everything, "{method:?}");
    }
    assert_eq!(read(&mut tracking(Method::Everything, true)), Exactness::Unseen);
    // One that could not be switched on.
    let mut refused = tracking(Method::Stage2, false);
    refused.enabled = false;
    refused.set_enabled(null, null, true);
    assert_eq!(read(&mut refused), Exactness::Unseen);
    let mut off = tracking(Method::Everything, false);
    off.set_enabled(null, null, false);
    assert_eq!(read(&mut off), Exactness::Exact);
}

#[test]
fn device_log_is_believed_only_while_the_stream_stayed_in_bypass() {
    let null = File::open("/dev/null").unwrap();
    let (null, dirty) = (null.as_fd(), log());
    let mut log = tracking(Method::DeviceLog, true);
    log.attached(true);
    assert!(log.exact);
    log.attached(false);
    assert_eq!(log.read(null, null, &dirty), Exactness::Unseen, "its addresses are not the guest's");
    // Back in bypass, but there was another attachment since it was exact.
    log.attached(true);
    assert!(!log.exact);
    assert_eq!(log.read(null, null, &dirty), Exactness::Everything);
    assert!(log.exact);
    let mut stage2 = tracking(Method::Stage2, false);
    stage2.attached(false);
    assert!(stage2.exact);
}

#[test]
fn without_any_log_the_choice_is_everything() {
    let null = File::open("/dev/null").unwrap();
    assert_eq!(DirtyTracking::choose(null.as_fd(), None, &layout()).method(), Method::Everything);
    assert_eq!(DirtyTracking::choose(null.as_fd(), Some(ObjectId(3)), &layout()).method(), Method::Stage2);
}
