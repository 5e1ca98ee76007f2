// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lives of a controller that end at any access to the host's memory or the medium, before it or behind it, and the
//! next ones, which go on from the journal: every command completes once and with the data that it is about, and what
//! the host has seen completed is not done again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dev_nvme::Device;
use dev_nvme::engine::Host;
use dev_nvme::identity::Identity;
use dev_nvme::journal::Journal;
use dev_nvme::media::Image;
use dev_nvme::spec::command::{admin, io as opcode};
use host::ending::{BLOCK, Dying, End, IMAGE_LEN, NEVER, RAM_LEN, begin, copy, identity, next};
use host::local::{Local, Raised, image};
use host::{BASE, Driver, PAGE, Queue, Ram, Wire, blank, block_command, pattern, read, status, write};
use ipc::shm::checkpoint::{CHECKPOINT_LEN, Checkpoint};
use ipc::shm::region::Region;
use ipc::vfio_user::feature::MigState;

/// What a host has under way: writes and reads of a few blocks each, a flush, zeros, and a command that is refused.
struct Work {
    queue: Queue,
    /// What is to be in the image at the end: first block, bytes.
    written: Vec<(u64, Vec<u8>)>,
    /// Where the data of writes is, by command.
    sources: BTreeMap<u16, u64>,
    /// Where the data of reads is to be.
    read: Vec<(u64, Vec<u8>)>,
    /// The status of each command.
    expected: BTreeMap<u16, u16>,
}

const BLOCKS: u32 = 8;

impl Work {
    fn submit(driver: &Driver<Local>, image: &File) -> Work {
        let queue = driver.create(1, 16);
        let mut work = Work {
            queue,
            written: Vec::new(),
            sources: BTreeMap::new(),
            read: Vec::new(),
            expected: BTreeMap::new(),
        };
        for turn in 0..3_u64 {
            let data = pattern(turn, PAGE as usize);
            let source = driver.pages(1);
            driver.ram.put(source, &data);
            let lba = turn * u64::from(BLOCKS);
            let cid = driver.enqueue(&mut work.queue, write(lba, BLOCKS, source, 0));
            work.sources.insert(cid, source);
            work.expected.insert(cid, 0);
            work.written.push((lba, data));
            let data = pattern(100 + turn, PAGE as usize);
            let lba = 1000 + turn * u64::from(BLOCKS);
            image.write_all_at(&data, lba * u64::from(BLOCK)).unwrap();
            let target = driver.pages(1);
            let cid = driver.enqueue(&mut work.queue, read(lba, BLOCKS, target, 0));
            work.expected.insert(cid, 0);
            work.read.push((target, data));
        }
        let zeroed = 500;
        image.write_all_at(&[7; 4096], zeroed * u64::from(BLOCK)).unwrap();
        let zeros = block_command(opcode::WRITE_ZEROES, zeroed, BLOCKS, 0, 0);
        let flush = block_command(opcode::FLUSH, 0, 1, 0, 0);
        for (command, status) in [(zeros, 0), (flush, 0), (read(1 << 30, 1, BASE, 0), 0x80)] {
            let cid = driver.enqueue(&mut work.queue, command);
            work.expected.insert(cid, status);
        }
        work.written.push((zeroed, vec![0; 4096]));
        driver.ring(&work.queue);
        work
    }

    /// All of it completes, once each.
    fn finish(&mut self, driver: &Driver<Local>, image: &File, end: End) {
        let mut completed = BTreeMap::new();
        while completed.len() < self.expected.len() {
            let completion = driver.wait(&mut self.queue);
            let twice = completed.insert(completion.cid.get(), status(&completion));
            assert_eq!(twice, None, "command {} completed twice, {end:?}", completion.cid.get());
        }
        assert_eq!(completed, self.expected, "{end:?}");
        for (lba, data) in &self.written {
            let mut found = vec![0; data.len()];
            image.read_exact_at(&mut found, lba * u64::from(BLOCK)).unwrap();
            assert!(found == *data, "block {lba}, {end:?}");
        }
        for (target, data) in &self.read {
            assert!(driver.ram.get(*target, data.len()) == *data, "what was read to {target:#x}, {end:?}");
        }
        while driver.wire.step() {}
        assert_eq!(driver.poll(&mut self.queue, true), None, "nothing more comes, {end:?}");
        // The queues go on, around their ends.
        let page = driver.pages(1);
        for _ in 0..40 {
            assert_eq!(status(&driver.run(&mut self.queue, read(1000, BLOCKS, page, 0))), 0, "{end:?}");
        }
    }

    /// The host uses again what it has seen to be done: a write that is made once more would be of that.
    fn reuse(&self, ram: &Ram) {
        let seen = (0..).map(|index: u64| ram.get(self.queue.completions() + index * 16, 16));
        let seen = seen.take_while(|entry| entry[14] & 1 == 1).take(15);
        for entry in seen {
            let cid = u16::from_le_bytes([entry[12], entry[13]]);
            if let Some(source) = self.sources.get(&cid) {
                ram.put(*source, &[0xee; 4096]);
            }
        }
    }
}

/// Every end of a life that there is in what `run` does, until it does not come to it any more.
fn each_end(run: impl Fn(End) -> bool) -> u64 {
    for access in 0.. {
        for is_behind in [false, true] {
            if !run(End { access, is_behind }) {
                return access;
            }
        }
    }
    0
}

#[test]
fn command_of_a_life_that_ends_anywhere_completes_once_with_its_data() {
    for dying in [Dying::Process, Dying::Host, Dying::Connection] {
        let ends = each_end(|end| {
            // What comes before the work ends no life here.
            let (watched, driver) = begin(NEVER, dying);
            let mut work = Work::submit(&driver, &watched.image());
            watched.ends_at(end);
            while driver.wire.step() {}
            let Some(left) = watched.left() else { return false };
            work.reuse(&left.ram);
            let image = left.image.try_clone().unwrap();
            let (_next, driver) = next(left, &driver);
            work.finish(&driver, &image, end);
            true
        });
        assert!(ends > 30, "{ends} accesses");
    }
}

#[test]
fn admin_command_of_a_life_that_ends_anywhere_is_done_once() {
    for dying in [Dying::Process, Dying::Host, Dying::Connection] {
        let ends = each_end(|end| {
            let (watched, driver) = begin(end, dying);
            let (sq, cq, page) = (driver.pages(1), driver.pages(1), driver.pages(1));
            let mut expected = Vec::new();
            {
                let mut queue = driver.admin.borrow_mut();
                let mut create_cq = blank(admin::CREATE_IO_CQ);
                (create_cq.prp1, create_cq.cdw10, create_cq.cdw11) =
                    (cq.into(), (7 << 16 | 1).into(), (1 << 16 | 0b11).into());
                let mut create_sq = blank(admin::CREATE_IO_SQ);
                (create_sq.prp1, create_sq.cdw10, create_sq.cdw11) =
                    (sq.into(), (7 << 16 | 1).into(), (1 << 16 | 1).into());
                let mut identify = blank(admin::IDENTIFY);
                (identify.prp1, identify.cdw10) = (page.into(), 1.into());
                let mut event = blank(admin::ASYNC_EVENT_REQUEST);
                event.nsid = 0.into();
                let mut coalescing = blank(admin::SET_FEATURES);
                (coalescing.cdw10, coalescing.cdw11) = (8.into(), 0x1234.into());
                for (command, completes) in [
                    (create_cq, true),
                    (event, false),
                    (create_sq, true),
                    (identify, true),
                    (coalescing, true),
                ] {
                    let cid = driver.enqueue(&mut queue, command);
                    expected.extend(completes.then_some(cid));
                }
                driver.ring(&queue);
            }
            while driver.wire.step() {}
            let Some(left) = watched.left() else { return false };
            let (_next, driver) = next(left, &driver);
            for cid in expected {
                let completion = driver.wait(&mut driver.admin.borrow_mut());
                assert_eq!((completion.cid.get(), status(&completion)), (cid, 0), "{end:?}");
            }
            while driver.wire.step() {}
            assert_eq!(driver.poll(&mut driver.admin.borrow_mut(), true), None, "{end:?}");
            let mut get = blank(admin::GET_FEATURES);
            get.cdw10 = 8.into();
            assert_eq!(driver.admin(get).dw0.get(), 0x1234, "{end:?}");
            assert_eq!(driver.ram.get(page + 4, 4), b"TEST", "{end:?}");
            // The request for an event waits, once: three more are taken, and a fourth is one too many.
            let more: Vec<u16> = {
                let mut queue = driver.admin.borrow_mut();
                (0..4).map(|_| driver.enqueue(&mut queue, blank(admin::ASYNC_EVENT_REQUEST))).collect()
            };
            driver.ring(&driver.admin.borrow());
            let refused = driver.wait(&mut driver.admin.borrow_mut());
            assert_eq!((refused.cid.get(), status(&refused)), (more[3], 0x105), "{end:?}");
            true
        });
        assert!(ends > 10, "{ends} accesses");
    }
}

#[test]
fn completion_that_was_held_back_beyond_its_queue_keeps_its_place() {
    let (watched, driver) = begin(NEVER, Dying::Process);
    let mut queue = driver.create(1, 4);
    let page = driver.pages(1);
    for _ in 0..4 {
        driver.submit(&mut queue, read(1000, BLOCKS, page, 0));
        while driver.wire.step() {}
    }
    // Three fill the queue. The fourth gets its place when there is no Submission Queue of it any more.
    driver.replace(&mut queue, 2);
    for _ in 0..4 {
        assert_eq!(status(&driver.wait(&mut queue)), 0);
    }
    watched.ends_at(End { access: 0, is_behind: false });
    let cid = driver.enqueue(&mut queue, read(1000, BLOCKS, page, 0));
    driver.wire.write(0x1010, 4, 1);
    while driver.wire.step() {}
    let (_next, driver) = next(watched.left().unwrap(), &driver);
    let completion = driver.wait(&mut queue);
    assert_eq!((completion.cid.get(), completion.sqid.get(), status(&completion)), (cid, 2, 0));
}

#[test]
fn life_that_follows_one_that_died_on_its_way_goes_on_from_the_same() {
    let end = End { access: 5, is_behind: true };
    let (watched, driver) = begin(NEVER, Dying::Process);
    let mut work = Work::submit(&driver, &watched.image());
    watched.ends_at(end);
    while driver.wire.step() {}
    let mut left = watched.left().unwrap();
    for death in 0..20 {
        left = left.of_a_short_life((death % 2 == 0).then_some(death));
    }
    let image = left.image.try_clone().unwrap();
    let (_next, driver) = next(left, &driver);
    work.finish(&driver, &image, end);
}

#[test]
fn reset_in_the_next_life_drops_what_the_one_before_had_begun() {
    let (watched, driver) = begin(NEVER, Dying::Process);
    let _work = Work::submit(&driver, &watched.image());
    watched.ends_at(End { access: 3, is_behind: true });
    while driver.wire.step() {}
    let left = watched.left().unwrap();
    let (_next, driver) = next(left, &driver);
    driver.enable();
    let mut queue = driver.create(1, 16);
    let page = driver.pages(1);
    for _ in 0..40 {
        assert_eq!(status(&driver.run(&mut queue, read(1000, BLOCKS, page, 0))), 0);
    }
}

#[test]
fn journal_that_nobody_wrote_or_of_another_disk_is_refused_and_any_other_is_harmless() {
    let region = Checkpoint::create("journal").unwrap();
    let revive = |region: &Region, identity: Identity| {
        let device = Device::new(identity, Box::new(Image::new(image(IMAGE_LEN))));
        device.revive(Journal::attach(region).unwrap()).map_err(|error| error.to_string())
    };
    assert!(revive(&region, identity()).unwrap_err().contains("no whole checkpoint"));
    let (watched, driver) = begin(NEVER, Dying::Process);
    let _work = Work::submit(&driver, &watched.image());
    let region = watched.0.lock().unwrap().journal.clone();
    let other = Identity::new("OTHER", IMAGE_LEN, BLOCK).unwrap();
    assert!(revive(&region, other).unwrap_err().contains("the state is of"));
    revive(&region, identity()).unwrap();
    // Words that no life has written: refused, or a controller that does no harm.
    let mut seed = 7_u64;
    let mut refused = 0;
    for _ in 0..200 {
        let broken = Checkpoint::create("broken").unwrap();
        copy(region.file(), broken.file(), CHECKPOINT_LEN);
        for _ in 0..4 {
            let bytes = pattern(seed, 16);
            seed += 1;
            let at = u64::from_le_bytes(bytes[..8].try_into().unwrap()) % (CHECKPOINT_LEN / 8 - 4096) + 4096;
            broken.file().write_all_at(&bytes[8..], at * 8).unwrap();
        }
        for word in 0..4 * 17 {
            if seed.is_multiple_of(5) {
                let bytes = pattern(seed, 8);
                broken.file().write_all_at(&bytes, (4096 + word) * 8).unwrap();
            }
        }
        let device = Device::new(identity(), Box::new(Image::new(image(IMAGE_LEN))));
        if device.revive(Journal::attach(&broken).unwrap()).is_err() {
            refused += 1;
            continue;
        }
        device.connect(Host { memory: Arc::new(Ram::new(RAM_LEN)), interrupts: Arc::new(Raised::default()) });
        device.begin();
        device.set_migration_state(MigState::Running).unwrap();
        for _ in 0..10_000 {
            if !device.engine().step() {
                break;
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn controller_that_begins_failed_does_nothing_until_its_host_resets_it_and_serves_then() {
    let ram = Ram::new(32 << 20);
    let journal = Checkpoint::create("journal").unwrap();
    // What nobody is to read.
    journal.file().write_all_at(&[0xa5; 4096], 0).unwrap();
    let device = Arc::new(Device::new(identity(), Box::new(Image::new(image(IMAGE_LEN)))));
    device.fail_in(Journal::attach(&journal).unwrap());
    let raised = Arc::new(Raised::default());
    device.connect(Host { memory: Arc::new(ram.clone()), interrupts: Arc::clone(&raised) as _ });
    device.begin();
    device.set_migration_state(MigState::Running).unwrap();
    let local = Local { device: Arc::clone(&device), raised, works: Arc::new(1.into()) };
    let (enabled, failed) = (1, 2);
    assert_eq!((local.read(0x14, 4) & enabled, local.read(0x1c, 4)), (enabled, failed));
    for doorbell in [0x1000, 0x1004, 0x1008, 0x100c] {
        local.write(doorbell, 4, 1);
    }
    while local.step() {}
    assert_eq!((local.read(0x1c, 4), local.raised.take()), (failed, [0; 17]));
    // The host's driver finds that, and does what it does with any controller that failed.
    let driver = Driver::start(local, ram);
    assert_eq!(driver.csts() & 3, 1);
    assert!(driver.identify(1, 0).is_ok());
    let mut queue = driver.create(1, 16);
    let page = driver.pages(1);
    driver.ram.put(page, &pattern(1, PAGE as usize));
    assert_eq!(status(&driver.run(&mut queue, write(0, BLOCKS, page, 0))), 0);
    // And the next life goes on from there.
    let next = Device::new(identity(), Box::new(Image::new(image(IMAGE_LEN))));
    next.revive(Journal::attach(&journal).unwrap()).unwrap();
}
