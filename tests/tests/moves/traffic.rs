// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with everything in flight, each of which is counted.
//!
//! CPU 1 adds to its pages and posts numbers to a device without end. CPU 0 is the test's: its NVMe writes pages, reads
//! them back, and meets an address without a mapping; two more devices send messages and assert a pin when they like,
//! and when they are asked to stop ([`crate::signaller`]). Nothing may be lost, and nothing may come twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::code::{self, FILL, SUM, WORKER_PAGE_COUNT, worker_pages};
use crate::gic::{FIRST_LPI, Gic, TRANSLATER_OFFSET, TRANSLATER_PAGE, pin_intid};
use crate::monitor::Monitor;
use crate::nvme::{DATA_TRANSFER_ERROR, Nvme, PAGE_BLOCKS, Place, STREAM, SUCCESS, transfer, write_block};
use crate::signaller::{ASSERTED, AtStop, DONE, NOWHERE_COUNT, POSTED, STOP_VECTOR, Signaller};
use crate::smmu::{CLASS_IN, F_TRANSLATION, Granule, READ_WRITE, Record, Smmu, record};
use crate::support::{COMMAND, programs};

/// Slots of the bus: the NVMe, then the devices of the test's servers.
const DMA_SLOT: u64 = 2;
const PIN_SLOT: u64 = 3;
const CONFIG: u64 = 0x3000_0000;
/// MSI-X of a server's device: its capability, and its table in BAR 0.
const MSIX: u64 = 0x40;
const MSIX_TABLE: u64 = 0x2000;

/// Pages by number: the NVMe's queues, what it writes to its disk, where it reads that to, and what the other device
/// writes.
const QUEUES: u64 = 0;
const WRITTEN: u64 = 4;
const READ: u64 = WRITTEN + BUFFERS;
const DATA: u64 = READ + BUFFERS;
const PAGE_COUNT: u64 = DATA + 1;
/// Where devices find the ITS, and where they find nothing.
const TRANSLATER: u64 = 100;
const NOWHERE: u64 = 256;
const NOWHERE_OF_DMA: u64 = NOWHERE + NOWHERE_COUNT;

/// Pages that a test writes by whom it likes.
const POOL: u64 = 400;
pub const POOL_COUNT: u64 = 40;

/// Pages that nothing is mapped to for longer than it takes to write one, and the address through which that is done.
const UNMAPPED: u64 = 450;
const REUSED: u64 = 449;
/// All addresses at which devices write.
pub const DMA_ADDRESSES: Range<u64> = iova(0)..iova(512);

/// Pages that are written in each round, and those of the round before that are read.
const BUFFERS: u64 = 6;
/// Rounds until a block of the disk is written again.
const DISK_ROUNDS: u64 = 16;

const fn gpa(page: u64) -> u64 {
    0x4300_0000 + page * 0x1000
}

const fn iova(page: u64) -> u64 {
    0x12_4000_0000 + page * 0x1000
}

fn place(page: u64) -> Place {
    Place { gpa: gpa(page), iova: iova(page) }
}

/// The machine, and what its guest has seen.
pub struct Traffic {
    pub m: Monitor,
    smmu: Smmu,
    nvme: Nvme,
    gic: Gic,
    dma: Signaller,
    pin: Signaller,
    dma_bar: u64,
    pin_bar: u64,
    round: u64,
    /// Commands that are done.
    commands: u64,
    /// Messages by vector, and interrupts of the pin: those that its device wanted, and those for nothing.
    messages: [u64; 2],
    pins: u64,
    pins_for_nothing: u64,
    faults: BTreeMap<Record, u64>,
    /// The faults that there must have been, up to a round and a stop.
    faults_due: BTreeMap<Record, u64>,
    stops_due: u64,
    folder: TempDir,
}

impl Traffic {
    /// Starts it. Nothing, where a suite has to skip.
    pub fn start(name: &str) -> Option<Self> {
        Self::start_with(name, programs()?)
    }

    /// The same with the programs in this folder.
    pub fn start_with(name: &str, built: PathBuf) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
        let image = folder.path().join("disk.img");
        File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
        let at_stop = AtStop::Dma { data: iova(DATA), nowhere: iova(NOWHERE_OF_DMA) };
        let dma = Signaller::start(folder.path(), "dma", at_stop);
        let pin = Signaller::start(folder.path(), "pin", AtStop::Pin);
        let mut m = Monitor::start(folder.path(), name, |options| {
            options.programs = built;
            options.nvme = vec![image];
            options.vfio_user = vec![dma.socket.clone(), pin.socket.clone()];
            options.arguments = ["--cpu", "soft", "--vcpus", "2"].map(Into::into).to_vec();
        })?;
        code::write(&mut m);
        let smmu = translations(&mut m);
        let [queues @ .., first, last] = [0, 1, 2, 3].map(|queue| place(QUEUES + queue));
        let mut nvme = Nvme::find(&mut m, queues, [first, last]);
        nvme.enable(&mut m);
        let dma_bar = bar(&mut m, DMA_SLOT);
        for vector in 0..2 {
            set_message(&mut m, dma_bar, vector, iova(TRANSLATER) + TRANSLATER_OFFSET, vector);
        }
        m.store32(CONFIG + (DMA_SLOT << 15) + MSIX, 1 << 31);
        let pin_bar = bar(&mut m, PIN_SLOT);
        let gic = Gic::enable(&mut m, &[pin_intid(PIN_SLOT)], DMA_SLOT << 3, 2);
        code::start_worker(&mut m, dma_bar + POSTED);
        Some(Self {
            m,
            smmu,
            nvme,
            gic,
            dma,
            pin,
            dma_bar,
            pin_bar,
            round: 0,
            commands: 0,
            messages: [0; 2],
            pins: 0,
            pins_for_nothing: 0,
            faults: BTreeMap::new(),
            faults_due: BTreeMap::new(),
            stops_due: 0,
            folder,
        })
    }

    /// Has every device work, and sees that what they have done is all that they were to do.
    pub fn round(&mut self) {
        let (now, before) = (self.round + 1, self.round);
        for buffer in 0..BUFFERS {
            self.m.call(FILL, gpa(WRITTEN + buffer) | seed(now, buffer) << 32);
        }
        let mut open = BTreeMap::new();
        let mut submit = |command, expected| {
            let id = self.nvme.submit(&mut self.m, 1, command);
            assert_eq!(open.insert(id, expected), None);
        };
        for buffer in 0..BUFFERS {
            submit(transfer(false, iova(WRITTEN + buffer), block(now, buffer)), SUCCESS);
            if before > 0 {
                submit(transfer(true, iova(READ + buffer), block(before, buffer)), SUCCESS);
            }
        }
        submit(write_block(nowhere(now)), DATA_TRANSFER_ERROR);
        self.expect_fault(STREAM, nowhere(now));
        self.dma.send();
        self.pin.raise();
        let until = Instant::now() + COMMAND;
        while !open.is_empty() {
            assert!(Instant::now() < until, "commands are lost: {open:?}");
            for (id, status) in self.nvme.completions(&mut self.m, 1) {
                assert_eq!(open.remove(&id), Some(status), "command {id}: done twice, or otherwise");
                self.commands += 1;
            }
        }
        for buffer in (0..BUFFERS).filter(|_| before > 0) {
            let sum = self.m.call(SUM, gpa(READ + buffer));
            assert_eq!(sum, code::sum_of(seed(before, buffer)), "page {buffer} of round {before}");
        }
        self.round = now;
        self.settle();
    }

    /// Waits until all that was signalled has come, once.
    pub fn settle(&mut self) {
        let until = Instant::now() + COMMAND;
        let stops = loop {
            self.take_interrupts();
            for record in self.smmu.events(&mut self.m) {
                *self.faults.entry(record).or_default() += 1;
            }
            let stops = self.dma.stops();
            while self.stops_due < stops {
                self.stops_due += 1;
                self.expect_fault(DMA_SLOT << 3, iova(NOWHERE_OF_DMA + self.stops_due % NOWHERE_COUNT));
            }
            let seen = (self.messages, self.pins, &self.faults);
            let due = ([self.round, stops], self.pin.rises(), &self.faults_due);
            if seen == due {
                break stops;
            }
            assert!(Instant::now() < until, "seen, and due: {seen:?}, {due:?}");
        };
        let written = self.m.load64(gpa(DATA));
        assert!((stops..=self.dma.stops()).contains(&written), "{written} of {stops} stops");
        self.dma.posted();
    }

    fn take_interrupts(&mut self) {
        while let Some(intid) = self.gic.take(&mut self.m) {
            if intid == pin_intid(PIN_SLOT) {
                if self.m.load32(self.pin_bar + ASSERTED) == 1 {
                    self.pins += 1;
                    self.m.store32(self.pin_bar + DONE, 2);
                } else {
                    self.pins_for_nothing += 1;
                }
            } else {
                let vector = usize::try_from(intid - FIRST_LPI).unwrap();
                self.messages[vector] += 1;
            }
            self.gic.end(&mut self.m, intid);
        }
    }

    fn expect_fault(&mut self, stream: u64, at: u64) {
        let record = record(F_TRANSLATION, stream, Some((true, CLASS_IN)), at, 0);
        *self.faults_due.entry(record).or_default() += 1;
    }

    /// A page of the pool.
    pub fn pool(page: u64) -> Place {
        place(POOL + page)
    }

    /// CPU 0 writes the page.
    pub fn write_by_cpu(&mut self, page: u64, value: u64) {
        self.m.store64(Self::pool(page).gpa, value);
        assert_eq!(self.m.load64(Self::pool(page).gpa), value);
    }

    /// A device writes the page, behind what the CPU writes.
    pub fn write_by_device(&mut self, page: u64, value: u64) {
        let Place { gpa, iova } = Self::pool(page);
        self.dma.write(iova + 8, value);
        assert_eq!(self.m.load64(gpa + 8), value);
    }

    /// A device's message writes the page instead of interrupting, behind what a device writes.
    pub fn write_by_message(&mut self, page: u64, value: u32) {
        let Place { gpa, iova: at } = Self::pool(page);
        set_message(&mut self.m, self.dma_bar, 0, at + 16, value.into());
        // The CPU does not write the page besides: it would be in the log for that.
        self.dma.send();
        self.m.poll32(gpa + 16, "what a message writes", |found| found == value);
        set_message(&mut self.m, self.dma_bar, 0, iova(TRANSLATER) + TRANSLATER_OFFSET, 0);
    }

    /// The NVMe writes the page: what is on its disk of the last round.
    pub fn write_by_disk(&mut self, page: u64) {
        let buffer = page % BUFFERS;
        let Place { gpa, iova } = Self::pool(page);
        let read = transfer(true, iova, block(self.round, buffer));
        assert_eq!(self.nvme.run(&mut self.m, 1, read), SUCCESS);
        self.commands += 1;
        assert_eq!(self.m.call(SUM, gpa), code::sum_of(seed(self.round, buffer)));
    }

    /// A device writes so many pages, one after the other through one address: each is unmapped before the next is
    /// mapped there, and has never been mapped elsewhere. Returns them; the last one stays mapped.
    pub fn write_by_reused_address(&mut self, count: u64, value: u64) -> Vec<u64> {
        let pages: Vec<u64> = (UNMAPPED..UNMAPPED + count).map(gpa).collect();
        for page in &pages {
            self.smmu.map(&mut self.m, iova(REUSED), page | READ_WRITE);
            self.dma.write(iova(REUSED) + 8, value);
            assert_eq!(self.m.load64(page + 8), value, "{page:#x}");
        }
        pages
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How often the devices were asked to stop, and have signalled then.
    pub fn stops(&self) -> [u64; 2] {
        [self.dma.stops(), self.pin.stops()]
    }

    /// Runs `bulkhead TASK ARGUMENTS...` while `meanwhile` goes on.
    pub fn during(&mut self, task: &str, arguments: &[&str], mut meanwhile: impl FnMut(&mut Self)) -> Output {
        let mut command = self.m.vm.controller().command(task, &[&["--json"], arguments].concat());
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        loop {
            meanwhile(self);
            if running.try_wait().unwrap().is_some() {
                return running.wait_with_output().unwrap();
            }
        }
    }

    /// What is in flight in all processes, as `inspect` has it: vectors and pins, and all else.
    pub fn in_flight(&self) -> ([u64; 2], u64) {
        let count = |what| self.m.vm.counter(&format!("in_flight.{what}")).unwrap();
        (
            ["vectors", "pins"].map(count),
            ["posts", "faults", "stage1_requests", "transfers"].map(count).iter().sum(),
        )
    }

    /// Waits until nothing is in flight. (A wire may be rung behind what it is rung for.)
    pub fn await_quiet(&self) {
        let until = Instant::now() + COMMAND;
        while self.in_flight() != ([0, 0], 0) {
            assert!(Instant::now() < until, "in flight: {}", self.m.vm.control_json("inspect").unwrap());
        }
    }

    /// Stops CPU 1: every page has all that was added, and every number that was posted has come.
    pub fn stop_worker(&mut self) -> u64 {
        let rounds = code::stop_worker(&mut self.m);
        let added = rounds * (rounds + 1) / 2;
        for page in worker_pages() {
            assert_eq!(self.m.load64(page), added, "{page:#x} after {rounds} rounds of CPU 1");
        }
        let until = Instant::now() + COMMAND;
        while u64::from(self.dma.posted()) != rounds {
            assert!(Instant::now() < until, "{} of {rounds} posted writes have come", self.dma.posted());
        }
        rounds
    }

    /// Switches it off, and says what was counted.
    pub fn end(mut self) -> String {
        let rounds = self.stop_worker();
        self.settle();
        self.await_quiet();
        self.m.vm.console.send(".").unwrap();
        assert!(self.m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", self.m.vm.console.errors());
        assert_eq!(self.m.vm.left_over(), [""; 0]);
        let faults: u64 = self.faults.values().sum();
        format!(
            "{} NVMe commands, {faults} faults, {} and {} messages, {} interrupts of the pin and {} for nothing, {rounds} posted \
             writes, {} pages dirtied as often: each once",
            self.commands,
            self.messages[0],
            self.messages[STOP_VECTOR],
            self.pins,
            self.pins_for_nothing,
            WORKER_PAGE_COUNT,
        )
    }
}

/// All pages of all devices, by one context.
fn translations(m: &mut Monitor) -> Smmu {
    let mut smmu = Smmu::enable(m, Granule::K4, STREAM);
    for page in (0..PAGE_COUNT).chain(POOL..POOL + POOL_COUNT) {
        smmu.map(m, iova(page), gpa(page) | READ_WRITE);
    }
    smmu.map(m, iova(TRANSLATER), TRANSLATER_PAGE | READ_WRITE);
    for slot in [DMA_SLOT, PIN_SLOT] {
        smmu.stream = slot << 3;
        smmu.put_stream(m, smmu.entry());
        smmu.renew_stream(m);
    }
    smmu.stream = STREAM;
    smmu
}

/// Enables a device's memory and DMA: its BAR 0.
fn bar(m: &mut Monitor, slot: u64) -> u64 {
    let config = CONFIG + (slot << 15);
    m.store32(config + 4, 0b110);
    let [low, high] = [0x10, 0x14].map(|offset| m.load32(config + offset));
    u64::from(low & !0xf) | u64::from(high) << 32
}

/// Has the device's vector write `data` to an address. Returns when the device has it.
fn set_message(m: &mut Monitor, bar: u64, vector: u64, address: u64, data: u64) {
    let entry = bar + MSIX_TABLE + 16 * vector;
    m.store64(entry, address);
    m.store64(entry + 8, data);
    assert_eq!(m.load64(entry + 8), data);
}

/// What a page begins from: never 0.
fn seed(round: u64, buffer: u64) -> u64 {
    (round * BUFFERS + buffer) & 0xffff_ffff | 1 << 31
}

fn block(round: u64, buffer: u64) -> u32 {
    let page = 1 + round % DISK_ROUNDS * BUFFERS + buffer;
    u32::try_from(page).unwrap() * PAGE_BLOCKS
}

fn nowhere(round: u64) -> u64 {
    iova(NOWHERE + round % NOWHERE_COUNT)
}
