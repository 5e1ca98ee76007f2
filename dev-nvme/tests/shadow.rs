// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Doorbells in the host's memory: no command is lost or done twice, whatever is told by which way, and who may have
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dev_nvme::Device;
use dev_nvme::identity::Identity;
use dev_nvme::media::Image;
use dev_nvme::service;
use dev_nvme::spec::command::admin;
use host::client::Client;
use host::local::{Local, image};
use host::{Driver, PAGE, Queue, Ram, Wire, blank, read, status};
use ipc::vfio_user::feature::MigState;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const INVALID_OPCODE: u16 = 0x01;
const INVALID_FIELD: u16 = 0x02;

/// A device in this process, and how many registers were written.
struct Counted {
    local: Local,
    writes: Cell<u64>,
}

impl Wire for Counted {
    fn read(&self, offset: u64, len: usize) -> u64 {
        self.local.read(offset, len)
    }

    fn write(&self, offset: u64, len: usize, value: u64) {
        self.writes.set(self.writes.get() + 1);
        self.local.write(offset, len, value);
    }

    fn progress(&self) {
        self.local.progress();
    }
}

impl Counted {
    fn new(file: std::fs::File, ram: &Ram) -> Counted {
        let local = Local::new(file, 512, ram);
        local.device.engine().with(|controller| controller.offer_shadow_doorbells(true));
        Counted { local, writes: Cell::new(0) }
    }
}

fn started() -> Driver<Counted> {
    let ram = Ram::new(8 * MIB);
    Driver::start(Counted::new(image(MIB), &ram), ram)
}

fn work(driver: &Driver<Counted>) {
    // Far more than there is to do: a device that finds work for ever is caught.
    let steps = (0..10_000).take_while(|_| driver.wire.local.step()).count();
    assert!(steps < 10_000, "the device does not come to rest");
}

fn take_all(driver: &Driver<Counted>, queue: &mut Queue) -> Vec<u16> {
    std::iter::from_fn(|| driver.poll(queue, true))
        .map(|completion| {
            assert_eq!(status(&completion), 0);
            completion.cid.get()
        })
        .collect()
}

/// Bit 8 of `OACS`.
fn is_offered<W: Wire>(driver: &Driver<W>) -> bool {
    driver.identify(1, 0).unwrap()[257] & 1 == 1
}

#[test]
fn busy_device_needs_no_register_write() {
    let driver = started();
    assert!(is_offered(&driver));
    driver.keep_doorbells(&[]).unwrap();
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    work(&driver);
    let before = driver.wire.writes.get();
    let expected: Vec<u16> = (0..40).map(|_| driver.submit(&mut queue, read(0, 8, page, 0))).collect();
    // The first one passed the event index; nobody has looked since.
    assert_eq!(driver.wire.writes.get(), before + 1);
    work(&driver);
    assert_eq!(take_all(&driver, &mut queue), expected);
    // Nobody needs to know which completions were seen, but it was asked for once.
    assert_eq!(driver.wire.writes.get(), before + 2);
}

#[test]
fn register_of_a_queue_with_doorbells_in_memory_is_a_hint() {
    let driver = started();
    driver.keep_doorbells(&[]).unwrap();
    let mut queue = driver.create(1, 8);
    let page = driver.pages(1);
    for _ in 0..5 {
        driver.submit(&mut queue, read(0, 8, page, 0));
    }
    work(&driver);
    assert_eq!(take_all(&driver, &mut queue).len(), 5);
    // Late news, and nonsense: a tail that goes back would fetch the whole queue again.
    for value in [2, 0, 7, 100] {
        driver.wire.write(0x1008, 4, value);
        driver.wire.write(0x100c, 4, value);
        work(&driver);
        assert_eq!(take_all(&driver, &mut queue), [0; 0]);
    }
    // The admin queue's is what it always was.
    assert!(driver.identify(1, 0).is_ok());
}

#[test]
fn value_that_cannot_be_is_told_once_and_changes_nothing() {
    let driver = started();
    driver.keep_doorbells(&[]).unwrap();
    let mut queue = driver.create(1, 8);
    let (doorbells, _) = driver.shadow.get().unwrap();
    driver.submit(&mut driver.admin.borrow_mut(), blank(admin::ASYNC_EVENT_REQUEST));
    driver.ram.swap(doorbells + 8, 8);
    driver.wire.write(0x1008, 4, 0);
    work(&driver);
    let event = driver.poll(&mut driver.admin.borrow_mut(), true).unwrap();
    // Error type, invalid doorbell value, error log.
    assert_eq!(event.dw0.get(), 0x0001_0100);
    assert_eq!(take_all(&driver, &mut queue), [0; 0]);
    driver.ram.swap(doorbells + 8, 0);
    let page = driver.pages(1);
    driver.submit(&mut queue, read(0, 8, page, 0));
    driver.wire.write(0x1008, 4, 0);
    work(&driver);
    assert_eq!(take_all(&driver, &mut queue).len(), 1);
}

#[test]
fn queue_made_again_is_heard_whatever_its_event_index_was() {
    let driver = started();
    let page = driver.pages(1);
    let mut queue = driver.create(1, 16);
    driver.submit(&mut queue, read(0, 8, page, 0));
    // In memory from now on, with a command that nobody has looked at.
    driver.keep_doorbells(&[&queue]).unwrap();
    work(&driver);
    assert_eq!(take_all(&driver, &mut queue).len(), 1);
    for _ in 0..9 {
        driver.submit(&mut queue, read(0, 8, page, 0));
        work(&driver);
    }
    assert_eq!(take_all(&driver, &mut queue).len(), 9);
    let mut command = blank(admin::DELETE_IO_SQ);
    command.cdw10 = 1.into();
    assert_eq!(status(&driver.admin(command)), 0);
    command.opcode = admin::DELETE_IO_CQ;
    assert_eq!(status(&driver.admin(command)), 0);
    let (doorbells, _) = driver.shadow.get().unwrap();
    driver.ram.put(doorbells, &[0; PAGE as usize]);
    let mut queue = driver.create(1, 16);
    work(&driver);
    for _ in 0..20 {
        driver.submit(&mut queue, read(0, 8, page, 0));
        work(&driver);
        assert_eq!(take_all(&driver, &mut queue).len(), 1);
    }
}

#[test]
fn pages_that_cannot_be_are_refused_and_lost_ones_are_fatal_until_a_reset() {
    let driver = started();
    let page = driver.pages(1);
    for (first, second) in [(0, page), (page, 0), (page + 4, page), (page, page + 2048)] {
        let mut command = blank(admin::DOORBELL_BUFFER_CONFIG);
        (command.prp1, command.prp2) = (first.into(), second.into());
        assert_eq!(status(&driver.admin(command)), INVALID_FIELD);
    }
    driver.create(1, 8);
    let mut command = blank(admin::DOORBELL_BUFFER_CONFIG);
    (command.prp1, command.prp2) = (page.into(), 0x1000.into());
    assert_eq!(status(&driver.admin(command)), 0);
    work(&driver);
    assert_eq!(driver.csts() & 2, 2, "the controller is well without its pages");
    driver.enable();
    let mut queue = driver.create(1, 8);
    for _ in 0..10 {
        // A register is a register again.
        assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    }
}

/// What a host does, and the world around it.
#[derive(Clone, Debug)]
enum Step {
    Submit(usize, u32),
    Work(u32),
    Take(usize),
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..2, 1u32..6).prop_map(|(queue, count)| Step::Submit(queue, count)),
        4 => (0u32..6).prop_map(Step::Work),
        2 => (0usize..2).prop_map(Step::Take),
        1 => Just(Step::Move),
    ]
}

fn moved(driver: Driver<Counted>, file: &std::fs::File) -> Driver<Counted> {
    let source = &driver.wire.local.device;
    source.set_migration_state(MigState::StopCopy).unwrap();
    let state = source.read_migration_data(1 << 20).unwrap();
    let ram = driver.ram.clone();
    let next = Counted::new(file.try_clone().unwrap(), &ram);
    next.local.device.set_migration_state(MigState::Resuming).unwrap();
    next.local.device.write_migration_data(&state).unwrap();
    next.local.device.set_migration_state(MigState::StopCopy).unwrap();
    assert_eq!(next.local.device.read_migration_data(1 << 20).unwrap(), state);
    next.local.device.set_migration_state(MigState::Running).unwrap();
    Driver::resume(next, ram, &driver)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_command_completes_once_through_any_steps_and_moves(steps in proptest::collection::vec(step(), 1..60)) {
        let (ram, file) = (Ram::new(8 * MIB), image(MIB));
        let mut driver = Driver::start(Counted::new(file.try_clone().unwrap(), &ram), ram);
        driver.keep_doorbells(&[]).unwrap();
        let mut queues = [driver.create(1, 5), driver.create(2, 9)];
        let page = driver.pages(1);
        let mut waiting = [BTreeSet::new(), BTreeSet::new()];
        for step in steps {
            match step {
                Step::Submit(at, count) => {
                    // As many as both queues have room for.
                    let room = [4, 8][at] - waiting[at].len().min([4, 8][at]);
                    for _ in 0..room.min(count as usize) {
                        waiting[at].insert(driver.submit(&mut queues[at], read(0, 8, page, 0)));
                    }
                }
                Step::Work(count) => {
                    for _ in 0..count {
                        driver.wire.local.step();
                    }
                }
                Step::Take(at) => {
                    for cid in take_all(&driver, &mut queues[at]) {
                        prop_assert!(waiting[at].remove(&cid), "{cid} completed twice");
                    }
                }
                Step::Move => driver = moved(driver, &file),
            }
        }
        work(&driver);
        for (queue, waiting) in queues.iter_mut().zip(&mut waiting) {
            for cid in take_all(&driver, queue) {
                prop_assert!(waiting.remove(&cid), "{cid} completed twice");
            }
            prop_assert!(waiting.is_empty(), "{waiting:?} were never seen");
        }
    }
}

/// A device with threads of its own behind a socket, and its client.
fn served(ram: &Ram, by_fd: bool) -> (Arc<Device>, Client, thread::JoinHandle<()>) {
    let identity = Identity::new("TEST", MIB, 512).unwrap();
    let device = Arc::new(Device::new(identity, Box::new(Image::new(image(MIB)))));
    service::start_workers(&device).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = Arc::clone(&device);
    let session = thread::spawn(move || service::serve_client(&served, theirs.into()).unwrap());
    let client = Client::connect(ours);
    client.map(ram, by_fd);
    (device, client, session)
}

#[test]
fn device_that_falls_asleep_at_any_moment_is_woken() {
    const COUNT: u32 = 4_000;
    let ram = Ram::new(8 * MIB);
    let (device, client, session) = served(&ram, true);
    let driver = Driver::start(client, ram);
    assert!(is_offered(&driver));
    driver.keep_doorbells(&[]).unwrap();
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    let (mut submitted, mut done) = (0, 0);
    let mut since = Instant::now();
    while done < COUNT {
        // One to seven under way, and a pause now and then: the device rests at every depth.
        while submitted < COUNT && submitted - done < 1 + submitted / 500 % 7 {
            driver.submit(&mut queue, read(0, 8, page, 0));
            submitted += 1;
        }
        match driver.poll(&mut queue, true) {
            Some(completion) => {
                assert_eq!(status(&completion), 0);
                (done, since) = (done + 1, Instant::now());
                if done.is_multiple_of(701) {
                    thread::sleep(Duration::from_micros(u64::from(done % 97)));
                }
            }
            None => assert!(since.elapsed() < Duration::from_secs(20), "{done} done, then nothing"),
        }
    }
    driver.wire.connection.close();
    session.join().unwrap();
    device.engine().end();
}

#[test]
fn doorbells_in_memory_work_by_messages_where_a_state_brings_them() {
    let source = started();
    source.keep_doorbells(&[]).unwrap();
    let mut queue = source.create(1, 16);
    let page = source.pages(1);
    work(&source);
    // Nobody has looked at this one.
    source.submit(&mut queue, read(0, 8, page, 0));
    let device = &source.wire.local.device;
    device.set_migration_state(MigState::StopCopy).unwrap();
    let state = device.read_migration_data(1 << 20).unwrap();
    let (device, client, session) = served(&source.ram, false);
    client.set_state(MigState::Resuming).unwrap();
    client.write_state(&state, 1000);
    client.set_state(MigState::Running).unwrap();
    let driver = Driver::resume(client, source.ram.clone(), &source);
    assert_eq!(status(&driver.wait(&mut queue)), 0);
    for _ in 0..20 {
        assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    }
    driver.wire.connection.close();
    session.join().unwrap();
    device.engine().end();
}

#[test]
fn memory_that_is_reached_by_messages_has_no_doorbells() {
    let ram = Ram::new(8 * MIB);
    let (device, client, session) = served(&ram, false);
    let driver = Driver::start(client, ram);
    assert!(!is_offered(&driver));
    assert_eq!(driver.keep_doorbells(&[]), Err(INVALID_OPCODE));
    driver.wire.connection.close();
    session.join().unwrap();
    device.engine().end();
}
