// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM of two regions, written through the dirty log.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use vm_memory::{Bytes, GuestAddress};

use super::{GuestMemory, map};
use crate::addr::{Gpa, GpaRange};
use crate::error::Error;
use crate::protocol::ram::{RamLayout, RamRegion};
use crate::shm::dirty_log::{self, DirtyLog, OwedMap};
use crate::shm::region::Region;

const LOW: u64 = 0x4000_0000;
const HIGH: u64 = 0x8000_0000;

fn layout() -> RamLayout {
    let region = |gpa, file_offset| RamRegion { gpa: Gpa(gpa), len: 0x1_0000, file_offset };
    RamLayout::new(vec![region(LOW, 0x1000), region(HIGH, 0x2_0000)]).unwrap()
}

fn memory() -> (Region, GuestMemory, DirtyLog) {
    let ram = Region::create("ram", layout().file_len()).unwrap();
    let log = DirtyLog::create("dirty", &layout()).unwrap();
    let producer = DirtyLog::attach(&log, &layout()).unwrap();
    producer.enable(1);
    let memory = GuestMemory::new(Arc::new(map(&ram, &layout()).unwrap()), Arc::new(producer));
    (ram, memory, DirtyLog::attach(&log, &layout()).unwrap())
}

fn harvest(log: &DirtyLog) -> Vec<GpaRange> {
    let mut pages = OwedMap::new(&layout());
    dirty_log::rearm_and_harvest(log, &mut pages);
    pages.ranges().collect()
}

fn range(gpa: u64, len: u64) -> GpaRange {
    GpaRange::new(Gpa(gpa), len).unwrap()
}

#[test]
fn writes_land_in_the_file_where_the_layout_says_and_are_marked() {
    let (ram, memory, log) = memory();
    memory.write(Gpa(LOW + 0x1ffe), &[1, 2, 3, 4]).unwrap();
    memory.store(Gpa(HIGH), 0x0807_0605_u32, SeqCst).unwrap();
    let mut bytes = [0; 4];
    rustix::io::pread(&ram, &mut bytes, 0x1000 + 0x1ffe).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    rustix::io::pread(&ram, &mut bytes, 0x2_0000).unwrap();
    assert_eq!(bytes, [5, 6, 7, 8]);
    assert_eq!(harvest(&log), [range(LOW + 0x1000, 0x2000), range(HIGH, 0x1000)]);
}

#[test]
fn reads_see_another_mapping_and_mark_nothing() {
    let (ram, memory, log) = memory();
    let other = map(&ram, &layout()).unwrap();
    other.write_obj(0x1122_3344_u32, GuestAddress(HIGH + 8)).unwrap();
    let mut bytes = [0; 4];
    memory.read(Gpa(HIGH + 8), &mut bytes).unwrap();
    assert_eq!(bytes, [0x44, 0x33, 0x22, 0x11]);
    assert_eq!(memory.load::<u32>(Gpa(HIGH + 8), SeqCst), Ok(0x1122_3344));
    assert_eq!(harvest(&log), []);
}

#[test]
fn access_outside_ram_is_refused_and_writes_nothing() {
    let (_ram, memory, log) = memory();
    let end = LOW + 0x1_0000;
    assert!(memory.write(Gpa(end - 2), &[9; 4]).is_err());
    let mut bytes = [1; 2];
    memory.read(Gpa(end - 2), &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0], "all or nothing");
    assert!(memory.read(Gpa(end - 2), &mut [0; 4]).is_err());
    for gpa in [0, end, HIGH - 4, u64::MAX, u64::MAX - 3] {
        assert!(memory.write(Gpa(gpa), &[0; 4]).is_err(), "{gpa:#x}");
        assert!(memory.store(Gpa(gpa), 0_u32, SeqCst).is_err(), "{gpa:#x}");
        assert!(memory.load::<u32>(Gpa(gpa), SeqCst).is_err(), "{gpa:#x}");
    }
    assert!(memory.store(Gpa(LOW + 2), 0_u32, SeqCst).is_err(), "misaligned");
    assert!(memory.contains(range(LOW, 0x1_0000)) && !memory.contains(range(LOW, 0x1_0001)));
    assert_eq!(harvest(&log), [], "nothing was written, nothing is marked");
}

#[test]
fn memory_object_shorter_than_the_layout_is_refused() {
    let short = Region::create("ram", layout().file_len() - 0x1000).unwrap();
    assert!(matches!(map(&short, &layout()), Err(Error::Violation(_))));
}
