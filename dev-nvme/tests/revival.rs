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
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use dev_nvme::Device;
use dev_nvme::dma::{DmaError, HostMemory, Loan};
use dev_nvme::engine::Host;
use dev_nvme::identity::Identity;
use dev_nvme::journal::Journal;
use dev_nvme::media::{Image, Media};
use dev_nvme::prp::Segment;
use dev_nvme::spec::command::{admin, io as opcode};
use dev_nvme::spec::completion::COMPLETION_LEN;
use host::local::{Local, Raised, image};
use host::{BASE, Driver, PAGE, Queue, Ram, blank, block_command, pattern, read, status, write};
use ipc::shm::checkpoint::{CHECKPOINT_LEN, Checkpoint};
use ipc::shm::region::Region;
use ipc::vfio_user::feature::MigState;
use vm_memory::VolatileSlice;

const RAM_LEN: u64 = 1 << 20;
const IMAGE_LEN: u64 = 1 << 20;
const BLOCK: u32 = 512;

/// What a life leaves behind.
struct Left {
    journal: Region,
    ram: Ram,
    image: File,
}

/// Where a life ends: at this access, before it or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    access: u64,
    is_behind: bool,
}

/// The world as it is, and as it was at the end.
struct World {
    journal: Region,
    ram: Ram,
    image: File,
    accesses: u64,
    end: End,
    left: Option<Left>,
    /// The host is gone after the end: accesses fail.
    breaks: bool,
}

#[derive(Clone)]
struct Watched(Arc<Mutex<World>>);

fn copy(from: &File, to: &File, len: u64) {
    let mut bytes = vec![0; len as usize];
    from.read_exact_at(&mut bytes, 0).unwrap();
    to.write_all_at(&bytes, 0).unwrap();
}

impl World {
    fn look(&mut self, is_behind: bool) {
        if self.left.is_none() && self.end == (End { access: self.accesses, is_behind }) {
            let journal = Checkpoint::create("left").unwrap();
            copy(self.journal.file(), journal.file(), CHECKPOINT_LEN);
            let ram = Ram::new(RAM_LEN);
            ram.put(BASE, &self.ram.get(BASE, RAM_LEN as usize));
            let left = image(IMAGE_LEN);
            copy(&self.image, &left, IMAGE_LEN);
            self.left = Some(Left { journal, ram, image: left });
        }
    }
}

impl Watched {
    /// What the life leaves behind; of one whose host went first, with what it has written since.
    fn left(&self) -> Option<Left> {
        let mut world = self.0.lock().unwrap();
        let left = world.left.take()?;
        if world.breaks {
            copy(world.journal.file(), left.journal.file(), CHECKPOINT_LEN);
            copy(&world.image, &left.image, IMAGE_LEN);
        }
        Some(left)
    }

    /// The life ends there, counted from now on.
    fn ends_at(&self, end: End) {
        let mut world = self.0.lock().unwrap();
        (world.end, world.accesses) = (end, 0);
    }

    fn image(&self) -> File {
        self.0.lock().unwrap().image.try_clone().unwrap()
    }

    /// Makes an access, unless the host is gone.
    fn access<T>(&self, make: impl FnOnce(&World) -> T) -> Option<T> {
        let mut world = self.0.lock().unwrap();
        world.look(false);
        if world.left.is_some() && world.breaks {
            return None;
        }
        let made = make(&world);
        world.look(true);
        world.accesses += 1;
        Some(made)
    }
}

impl HostMemory for Watched {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        let len = bytes.len();
        self.access(|world| HostMemory::read(&world.ram, iova, bytes)).unwrap_or(Err(DmaError {
            iova,
            len,
            write: false,
        }))
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: true };
        self.access(|world| HostMemory::write(&world.ram, iova, bytes)).unwrap_or(Err(failed))
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        // By messages: first the body, then the dword that the host polls.
        for (at, entry) in (iova..).step_by(COMPLETION_LEN).zip(entries) {
            self.write(at, &entry[..12])?;
            self.write(at + 12, &entry[12..])?;
        }
        Ok(())
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        let mut bytes = [0; 4];
        self.read(iova, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        self.write(iova, &dword.to_le_bytes())
    }

    fn is_connected(&self) -> bool {
        let world = self.0.lock().unwrap();
        world.left.is_none() || !world.breaks
    }

    fn lend(&self, _: &[Segment], _: Loan, _: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        false
    }
}

/// The image, whose accesses are counted too. A host that is gone leaves it there.
struct WatchedMedia(Watched, Image);

impl WatchedMedia {
    fn access<T>(&self, make: impl FnOnce(&Image) -> T) -> T {
        self.0.0.lock().unwrap().look(false);
        let made = make(&self.1);
        let mut world = self.0.0.lock().unwrap();
        world.look(true);
        world.accesses += 1;
        made
    }
}

impl Media for WatchedMedia {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.access(|image| image.read_at(offset, bytes))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.access(|image| image.write_at(offset, bytes))
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.access(|image| image.read_to(offset, memory))
    }

    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool> {
        self.access(|image| image.read_at_once(offset, memory))
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.access(|image| image.write_from(offset, memory))
    }

    fn flush(&self) -> io::Result<()> {
        self.access(Media::flush)
    }

    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        self.access(|image| image.zero(offset, len, release))
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        self.access(|image| image.release(offset, len))
    }
}

fn identity() -> Identity {
    Identity::new("TEST", IMAGE_LEN, BLOCK).unwrap()
}

/// A life, and the way to its registers. It begins out of reset, or as the one before left it.
fn life(watched: &Watched, is_revived: bool) -> Local {
    let (journal, file) = {
        let world = watched.0.lock().unwrap();
        (Journal::attach(&world.journal).unwrap(), world.image.as_fd().try_clone_to_owned().unwrap())
    };
    let media = WatchedMedia(watched.clone(), Image::new(file.into()));
    let device = Arc::new(Device::new(identity(), Box::new(media)));
    if is_revived {
        device.revive(journal).unwrap();
    } else {
        device.keep_in(journal);
    }
    let raised = Arc::new(Raised::default());
    device.connect(Host { memory: Arc::new(watched.clone()), interrupts: Arc::clone(&raised) as _ });
    device.begin();
    device.set_migration_state(MigState::Running).unwrap();
    Local { device, raised, works: Arc::new(AtomicU64::new(1)) }
}

/// The first life of a controller that dies there.
fn begin(end: End, breaks: bool) -> (Watched, Driver<Local>) {
    let (journal, ram, image) = (Checkpoint::create("journal").unwrap(), Ram::new(RAM_LEN), image(IMAGE_LEN));
    let world = World { journal, ram: ram.clone(), image, accesses: 0, end: NEVER, left: None, breaks };
    let watched = Watched(Arc::new(Mutex::new(world)));
    let driver = Driver::start(life(&watched, false), ram);
    watched.ends_at(end);
    (watched, driver)
}

const NEVER: End = End { access: u64::MAX, is_behind: false };

/// The next life, in the world that the one before left, and a host that goes on there.
fn next(left: Left, before: &Driver<Local>) -> (Watched, Driver<Local>) {
    let Left { journal, ram, image } = left;
    let world =
        World { journal, ram: ram.clone(), image, accesses: 0, end: NEVER, left: None, breaks: false };
    let watched = Watched(Arc::new(Mutex::new(world)));
    let driver = Driver::resume(life(&watched, true), ram, before);
    (watched, driver)
}

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
    for breaks in [false, true] {
        let ends = each_end(|end| {
            // What comes before the work ends no life here.
            let (watched, driver) = begin(NEVER, breaks);
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
    for breaks in [false, true] {
        let ends = each_end(|end| {
            let (watched, driver) = begin(end, breaks);
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
fn life_that_follows_one_that_died_on_its_way_goes_on_from_the_same() {
    let end = End { access: 5, is_behind: true };
    let (watched, driver) = begin(NEVER, false);
    let mut work = Work::submit(&driver, &watched.image());
    watched.ends_at(end);
    while driver.wire.step() {}
    let mut left = watched.left().unwrap();
    for death in 0..20 {
        let journal = Journal::attach(&left.journal).unwrap();
        let device = Device::new(identity(), Box::new(Image::new(left.image.try_clone().unwrap())));
        device.revive(journal).unwrap();
        device.begin();
        if death % 2 == 0 {
            // It works a little.
            let world = World {
                journal: left.journal,
                ram: left.ram,
                image: left.image,
                accesses: 0,
                end: End { access: death, is_behind: false },
                left: None,
                breaks: true,
            };
            let watched = Watched(Arc::new(Mutex::new(world)));
            let memory = Arc::new(watched.clone());
            device.connect(Host { memory, interrupts: Arc::new(Raised::default()) });
            device.set_migration_state(MigState::Running).unwrap();
            while device.engine().step() {}
            let mut world = watched.0.lock().unwrap();
            let (journal, ram, image) = (world.journal.clone(), world.ram.clone(), world.image.try_clone());
            left = world.left.take().unwrap_or(Left { journal, ram, image: image.unwrap() });
        }
    }
    let image = left.image.try_clone().unwrap();
    let (_next, driver) = next(left, &driver);
    work.finish(&driver, &image, end);
}

#[test]
fn reset_in_the_next_life_drops_what_the_one_before_had_begun() {
    let (watched, driver) = begin(NEVER, false);
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
    let (watched, driver) = begin(NEVER, false);
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
