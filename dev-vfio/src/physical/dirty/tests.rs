// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::fs::File;
use std::os::fd::AsFd;

use super::*;

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 200;

fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: Gpa(BASE), len: PAGES * PAGE_LEN, file_offset: 0 }]).unwrap()
}

fn tracking(method: Method, bypass: bool) -> DirtyTracking {
    let (layout, parent) = (layout(), Some(ObjectId(3)));
    let tracking =
        DirtyTracking { method, parent, layout, enabled: true, exact: false, bypass, page_len: PAGE_LEN };
    DirtyTracking { exact: tracking.can_be_exact(), ..tracking }
}

#[test]
fn bitmap_marks_its_pages_and_no_others() {
    let mut pages = DirtyPages::none(&layout());
    let mut asked = Vec::new();
    tracking(Method::Stage2, false)
        .for_each_run(PAGE_LEN, &mut pages, |start, len, bitmap| {
            asked.push((start, len, bitmap.len()));
            bitmap.copy_from_slice(&[1, 1 << 63, 0, 0b10]);
            Ok(())
        })
        .unwrap();
    assert_eq!(asked, [(BASE, PAGES * PAGE_LEN, 4)]);
    let starts: Vec<u64> = pages.ranges().map(|range| (range.start().0 - BASE) / PAGE_LEN).collect();
    assert_eq!((starts, pages.count()), (vec![0, 127, 193], 3));
}

#[test]
fn coarse_log_marks_every_page_of_its_granule() {
    let mut pages = DirtyPages::none(&layout());
    tracking(Method::DeviceLog, true)
        .for_each_run(4 * PAGE_LEN, &mut pages, |_, _, bitmap| {
            bitmap[0] = 0b10;
            Ok(())
        })
        .unwrap();
    assert_eq!(pages.count(), 4);
    assert!(pages.contains(Gpa(BASE + 4 * PAGE_LEN)) && !pages.contains(Gpa(BASE + 8 * PAGE_LEN)));
}

#[test]
fn log_that_cannot_be_read_or_believed_is_all_of_ram() {
    let null = File::open("/dev/null").unwrap();
    let null = null.as_fd();
    let read = |tracking: &mut DirtyTracking| {
        let mut pages = DirtyPages::none(&layout());
        tracking.read(null, null, &mut pages);
        pages.count()
    };
    // /dev/null refuses both ioctls.
    for method in [Method::Stage2, Method::DeviceLog, Method::Everything] {
        assert_eq!(read(&mut tracking(method, true)), PAGES, "{method:?}");
    }
    let mut off = tracking(Method::Everything, false);
    off.set_enabled(null, null, false);
    assert_eq!(read(&mut off), 0);
}

#[test]
fn device_log_is_believed_only_while_the_stream_stayed_in_bypass() {
    let mut log = tracking(Method::DeviceLog, true);
    log.attached(true);
    assert!(log.exact);
    log.attached(false);
    // Back in bypass, but there was another attachment since the last reading.
    log.attached(true);
    assert!(!log.exact);
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
