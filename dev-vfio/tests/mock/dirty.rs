// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Written pages by the nesting parent's own log: step (c) of `physical::dirty`, which no SMMU has today.

use std::fs::File;

use dev_vfio::physical::dirty::{DirtyTracking, Method};
use dev_vfio::physical::nested;
use dev_vfio::physical::sys::iommufd::{self, ObjectId};
use ipc::protocol::control::Exactness;
use ipc::shm::dirty_log::{self, DirtyLog, OwedMap};
use std::os::fd::AsFd;

use super::*;

/// How often pages are written and the log is read.
const ROUNDS: usize = 60;

/// The log of a parent over the mock's RAM, switched on, and what stands for a device without a log of its own.
struct Log {
    parent: ObjectId,
    tracking: DirtyTracking,
    no_device: File,
    log: DirtyLog,
}

fn no_pages() -> OwedMap {
    OwedMap::new(&layout())
}

impl Log {
    fn new(mock: &mut Mock) -> Log {
        let (parent, logs) = nested::parent(&mut mock.objects, mock.device.bound, mock.ioas).unwrap();
        ioctl::attach(mock.fd(), mock.device, parent).unwrap();
        let no_device = File::open("/dev/null").unwrap();
        let tracking = DirtyTracking::choose(no_device.as_fd(), logs.then_some(parent), &layout());
        let dirty = DirtyLog::create("dirty", &layout()).unwrap();
        let dirty = DirtyLog::attach(&dirty, &layout()).unwrap();
        dirty.enable(1);
        let mut log = Log { parent, tracking, no_device, log: dirty };
        log.switch(mock, true);
        log
    }

    fn switch(&mut self, mock: &Mock, enabled: bool) {
        self.tracking.set_enabled(self.no_device.as_fd(), mock.fd(), enabled);
    }

    /// What is exactly known.
    fn read(&mut self, mock: &Mock) -> OwedMap {
        assert_eq!(self.exactness(mock), Exactness::Exact);
        let mut pages = no_pages();
        dirty_log::rearm_and_harvest(&self.log, &mut pages);
        pages
    }

    fn exactness(&mut self, mock: &Mock) -> Exactness {
        self.tracking.read(self.no_device.as_fd(), mock.fd(), &self.log)
    }

    /// The device writes these pages, each at its beginning or in the middle (the mock's own pages have 2 KiB), and
    /// they are marked in `expected`.
    fn write(&self, mock: &Mock, pages: &[u64], expected: &mut OwedMap) {
        for (index, page) in pages.iter().enumerate() {
            const HALF: u64 = PAGE / 2;
            let at = page + HALF * (index as u64 % 2);
            // A word of the mock's bitmap covers 64 units: only the first bit is ours.
            assert_eq!(ioctl::write_pages(mock.fd(), self.parent, at, HALF, &[1]), Ok(1));
            expected.mark(Gpa(*page), PAGE);
        }
    }
}

/// A page by its number, counted over both pieces of RAM.
fn page(index: u64) -> u64 {
    match index.checked_sub(FIRST_PAGES) {
        None => FIRST + index * PAGE,
        Some(index) => SECOND + index * PAGE,
    }
}

/// A fixed sequence that looks random (Knuth's constants).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn stage_2_log_tells_the_pages_that_were_written_and_no_others() {
    let Some(mut mock) = Mock::new(true) else { return };
    assert!(iommufd::get_hw_info(mock.fd(), mock.device.bound).unwrap().dirty_tracking);
    let mut log = Log::new(&mut mock);
    assert_eq!(log.tracking.method(), Method::Stage2);
    assert_eq!(log.read(&mock).count(), 0, "nothing was written");

    let (mut state, mut sum) = (1, 0);
    for round in 0..ROUNDS {
        // Both ends of both pieces first, then ever more at random, some of them twice.
        let mut written = vec![page(0), page(FIRST_PAGES - 1), page(FIRST_PAGES)];
        written.push(page(FIRST_PAGES + SECOND_PAGES - 1));
        if round > 0 {
            written.clear();
        }
        written.extend((0..round).map(|_| page(random(&mut state) % (FIRST_PAGES + SECOND_PAGES))));
        let mut expected = no_pages();
        log.write(&mock, &written, &mut expected);
        assert_eq!(log.read(&mock), expected, "round {round}");
        assert_eq!(log.read(&mock).count(), 0, "what was told is forgotten");
        sum += expected.count();
    }
    println!("SEEN: stage 2: {sum} pages written in {ROUNDS} rounds, each told once and no other");
}

#[test]
fn stage_2_log_begins_anew_when_it_is_switched_on_and_says_nothing_while_it_is_off() {
    let Some(mut mock) = Mock::new(true) else { return };
    let mut log = Log::new(&mut mock);
    let mut expected = no_pages();
    log.write(&mock, &[page(3), page(310)], &mut expected);
    log.switch(&mock, false);
    assert_eq!(log.read(&mock).count(), 0);
    log.switch(&mock, true);
    assert_eq!(log.read(&mock).count(), 0, "what was written before belongs to nobody");
    // An attachment of the stream does not matter to a log of stage 2.
    log.tracking.attached(false);
    expected = no_pages();
    log.write(&mock, &[page(4)], &mut expected);
    assert_eq!(log.read(&mock), expected);
}

#[test]
fn stage_2_log_of_pages_that_may_be_mapped_together_misses_none() {
    let Some(iommu) = iommu() else { return };
    let Some(mut mock) = Mock::over(iommu, true, false) else { return };
    let mut log = Log::new(&mut mock);
    let mut written = no_pages();
    log.write(&mock, &[page(0), page(77), page(420)], &mut written);
    let told = log.read(&mock);
    for range in written.ranges() {
        assert!(told.contains(range.start()), "{:#x}", range.start().0);
    }
    println!("3 pages written, {} told where the kernel may map several with one entry", told.count());
    assert!(told.count() < FIRST_PAGES + SECOND_PAGES, "nothing is known then");
}

#[test]
fn iommu_without_a_log_nests_and_what_it_writes_is_unseen() {
    let Some(mut mock) = Mock::new(false) else { return };
    assert!(!iommufd::get_hw_info(mock.fd(), mock.device.bound).unwrap().dirty_tracking);
    let refused = iommufd::hwpt_alloc_parent(mock.fd(), mock.device.bound, mock.ioas, true);
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
    let mut log = Log::new(&mut mock);
    assert_eq!(log.tracking.method(), Method::Everything);
    assert_eq!(log.exactness(&mock), Exactness::Unseen);
}

#[test]
fn stage_2_log_that_has_gone_is_all_of_ram() {
    let Some(mut mock) = Mock::new(true) else { return };
    let mut log = Log::new(&mut mock);
    // Its RAM is taken out from under it: the kernel has nothing to tell of these addresses.
    iommufd::destroy(mock.fd(), mock.device.itself).unwrap();
    mock.objects.destroy(log.parent);
    assert_eq!(log.exactness(&mock), Exactness::Everything);
}
