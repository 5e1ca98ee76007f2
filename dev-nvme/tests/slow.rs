// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An image whose disk is slow: nobody waits for it who has something else to do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dev_nvme::Device;
use dev_nvme::identity::Identity;
use dev_nvme::media::{Image, Media};
use dev_nvme::service;
use dev_nvme::spec::command::{Command, io as opcode};
use host::client::Client;
use host::local::image;
use host::{Driver, PAGE, Queue, Ram, Wire, blank, pattern, read, status, write};
use vm_memory::VolatileSlice;

const LEN: u64 = 8 << 20;

/// Far longer than anything here takes, and short enough to wait for where a test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A disk that can be stopped: writes and flushes of the image wait until it goes on.
#[derive(Default)]
struct Disk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    waiting: u32,
    flushed: u32,
}

impl Disk {
    fn stop(&self, stopped: bool) {
        self.state.lock().unwrap().stopped = stopped;
        self.changed.notify_all();
    }

    /// What every write to it goes through.
    fn turn(&self, change: impl FnOnce(&mut State)) {
        // Even where it goes on at once: long enough that writes stay with the workers for seconds.
        thread::sleep(Duration::from_millis(200));
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| state.stopped).unwrap();
        state = waited.0;
        state.waiting -= 1;
        change(&mut state);
    }

    /// Waits until so many wait for it.
    fn until_waiting(&self, count: u32) {
        let state = self.state.lock().unwrap();
        let (state, timeout) =
            self.changed.wait_timeout_while(state, PATIENCE / 2, |state| state.waiting < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} ask the disk", state.waiting);
    }
}

struct Slow {
    image: Image,
    disk: Arc<Disk>,
}

impl Media for Slow {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.image.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.turn(|_| ());
        self.image.write_at(offset, bytes)
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.image.read_to(offset, memory)
    }

    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool> {
        self.image.read_at_once(offset, memory)
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.disk.turn(|_| ());
        self.image.write_from(offset, memory)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.turn(|state| state.flushed += 1);
        self.image.flush()
    }

    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        self.image.zero(offset, len, release)
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        self.image.release(offset, len)
    }
}

/// A controller over it, and a host whose memory is mapped, so that the connection's thread helps.
struct Machine {
    disk: Arc<Disk>,
    device: Arc<Device>,
    driver: Driver<Client>,
}

impl Machine {
    fn start() -> Machine {
        let disk = Arc::new(Disk::default());
        let media = Slow { image: Image::new(image(LEN)), disk: Arc::clone(&disk) };
        let identity = Identity::new("SLOW", LEN, 512).unwrap();
        let device = Arc::new(Device::new(identity, Box::new(media)));
        service::start_workers(&device).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = Arc::clone(&device);
        thread::spawn(move || service::serve_client(&served, theirs.into()).unwrap());
        let client = Client::connect(ours);
        let ram = Ram::new(8 << 20);
        client.map(&ram, true);
        Machine { disk, device, driver: Driver::start(client, ram) }
    }

    /// Asserts that somebody serves registers, and another queue.
    fn is_served(&self, other: &mut Queue, page: u64) {
        let since = Instant::now();
        assert_eq!(self.driver.csts(), 1);
        assert_eq!(status(&self.driver.run(other, read(0, 8, page, 0))), 0);
        assert!(since.elapsed() < PATIENCE / 2, "served after {:?}", since.elapsed());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.disk.stop(false);
        self.device.engine().end();
    }
}

#[test]
fn registers_and_other_queues_are_served_while_writes_wait_for_the_disk() {
    let machine = Machine::start();
    let driver = &machine.driver;
    let (mut queue, mut other) = (driver.create(1, 64), driver.create(2, 8));
    let pages: Vec<u64> = (0..25).map(|_| driver.pages(1)).collect();
    for (seed, page) in (0..24).zip(&pages) {
        driver.ram.put(*page, &pattern(seed, PAGE as usize));
    }
    // The first one of a quiet disk may be made by whoever serves the connection; it shows that the disk is slow.
    assert_eq!(status(&driver.run(&mut queue, write(0, 8, pages[0], 0))), 0);
    machine.disk.stop(true);
    for (number, page) in (0..).zip(&pages[..24]) {
        driver.enqueue(&mut queue, write(number * 8, 8, *page, 0));
    }
    driver.ring(&queue);
    machine.disk.until_waiting(24);
    machine.is_served(&mut other, pages[24]);
    machine.disk.stop(false);
    for _ in 0..24 {
        assert_eq!(status(&driver.wait(&mut queue)), 0);
    }
    for seed in 0..24 {
        assert_eq!(status(&driver.run(&mut other, read(seed * 8, 8, pages[24], 0))), 0);
        assert_eq!(driver.ram.get(pages[24], PAGE as usize), pattern(seed, PAGE as usize));
    }
}

#[test]
fn what_is_to_be_on_the_disk_is_waited_for_by_workers_from_the_first() {
    const FORCE_UNIT_ACCESS: u32 = 1 << 30;
    let machine = Machine::start();
    let driver = &machine.driver;
    let (mut queue, mut other) = (driver.create(1, 64), driver.create(2, 8));
    let page = driver.pages(1);
    machine.disk.stop(true);
    let mut forced = write(0, 8, page, 0);
    forced.cdw12 = (forced.cdw12.get() | FORCE_UNIT_ACCESS).into();
    let flush = Command { nsid: 1.into(), ..blank(opcode::FLUSH) };
    driver.enqueue(&mut queue, forced);
    driver.enqueue(&mut queue, flush);
    driver.ring(&queue);
    machine.disk.until_waiting(2);
    machine.is_served(&mut other, page);
    assert_eq!(machine.disk.state.lock().unwrap().flushed, 0);
    assert!(driver.poll(&mut queue, true).is_none());
    machine.disk.stop(false);
    for _ in 0..2 {
        assert_eq!(status(&driver.wait(&mut queue)), 0);
    }
    assert_eq!(machine.disk.state.lock().unwrap().flushed, 2);
}

#[test]
fn reset_waits_for_a_write_on_its_way() {
    let machine = Machine::start();
    let driver = &machine.driver;
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    assert_eq!(status(&driver.run(&mut queue, write(0, 8, page, 0))), 0);
    machine.disk.stop(true);
    driver.submit(&mut queue, write(0, 8, page, 0));
    machine.disk.until_waiting(1);
    driver.wire.write(0x14, 4, 0);
    for _ in 0..20 {
        assert_eq!(driver.csts() & 1, 1, "ready is gone only with the last job");
        thread::sleep(Duration::from_millis(1));
    }
    machine.disk.stop(false);
    driver.until("disabled", |csts| csts & 1 == 0);
    assert_eq!(machine.disk.state.lock().unwrap().waiting, 0);
}
