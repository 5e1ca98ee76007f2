// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clients that pass descriptors which are not what the message calls them, or hold up who uses them: the next client
//! is served as ever.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dev_nvme::Device;
use dev_nvme::identity::Identity;
use dev_nvme::media::Image;
use dev_nvme::service::{self, ServiceError};
use host::client::{Client, soon};
use host::local::image;
use host::{BASE, Driver, PAGE, Ram, pattern, read, status, write};
use ipc::vfio_user::connection::ConnectionError;
use ipc::vfio_user::device::{IrqSet, PCI_MSIX_IRQ};
use ipc::vfio_user::dma::DmaMap;
use ipc::vfio_user::header::Command;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use zerocopy::IntoBytes;

const LEN: u64 = 8 << 20;

/// A counter at its end: one more signal waits.
const FULL: u64 = u64::MAX - 1;

struct Server {
    device: Arc<Device>,
}

type Session = JoinHandle<Result<(), ServiceError>>;

impl Server {
    fn new() -> Server {
        let identity = Identity::new("TEST", LEN, 512).unwrap();
        let device = Arc::new(Device::new(identity, Box::new(Image::new(image(LEN)))));
        service::start_workers(&device).unwrap();
        Server { device }
    }

    fn client(&self, patience: Duration) -> (Client, Session) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let device = Arc::clone(&self.device);
        let session = thread::spawn(move || service::serve_in_turn(&device, theirs.into(), patience));
        (Client::connect(ours), session)
    }

    /// A client that does what clients do, and must get what they get.
    fn serves_the_next_one(&self) {
        let (client, session) = self.client(Duration::from_secs(60));
        let ram = Ram::new(2 << 20);
        client.map(&ram, true);
        client.eventfds(17);
        work(&client, &ram);
        client.connection.close();
        session.join().unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.device.engine().end();
    }
}

fn work(client: &Client, ram: &Ram) {
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    ram.put(page, &pattern(7, 4096));
    assert_eq!(status(&driver.run(&mut queue, write(0, 8, page, 0))), 0);
    ram.put(page, &[0; 4096]);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    assert!(ram.get(page, 4096) == pattern(7, 4096));
}

fn connect(client: &Client, fd: impl AsFd, vector: u32) -> Result<(), ConnectionError> {
    let set = IrqSet::new(PCI_MSIX_IRQ, IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER, vector, 1);
    let request =
        client.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[fd.as_fd()], soon());
    request.map(drop)
}

#[test]
fn both_ends_of_a_full_pipe_are_no_eventfds() {
    let server = Server::new();
    let (client, session) = server.client(Duration::from_secs(60));
    let ram = Ram::new(2 << 20);
    client.map(&ram, true);
    let (pipe, full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while rustix::io::write(&full, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    for (vector, fd) in [(0, full.as_fd()), (1, pipe.as_fd())] {
        let refused = connect(&client, fd, vector).unwrap_err();
        assert!(matches!(refused, ConnectionError::Remote { errno: 22, .. }), "{refused}");
    }
    // It goes on, without interrupts.
    work(&client, &ram);
    client.connection.close();
    session.join().unwrap().unwrap();
    server.serves_the_next_one();
}

#[test]
fn client_that_leaves_with_a_full_eventfd_holds_up_nobody() {
    let server = Server::new();
    let (client, session) = server.client(Duration::from_secs(60));
    let ram = Ram::new(2 << 20);
    client.map(&ram, true);
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for vector in 0..17 {
        connect(&client, &eventfd, vector).unwrap();
    }
    rustix::io::write(&eventfd, &FULL.to_ne_bytes()).unwrap();
    // The first completion waits for room in the counter, in whichever thread.
    let stuck = client.clone();
    let worker = thread::spawn(move || drop(std::panic::catch_unwind(|| work(&stuck, &ram))));
    thread::sleep(Duration::from_millis(300));
    assert!(!session.is_finished());
    client.connection.close();
    let ended = session.join().unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    drop(worker.join());
    server.serves_the_next_one();
}

#[test]
fn client_that_fills_its_eventfd_for_ever_is_given_up_in_time() {
    let server = Server::new();
    let patience = Duration::from_secs(2);
    let (client, session) = server.client(patience);
    let ram = Ram::new(2 << 20);
    client.map(&ram, true);
    let eventfd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    for vector in 0..17 {
        connect(&client, &*eventfd, vector).unwrap();
    }
    // Ours is that flag no more than theirs.
    rustix::io::ioctl_fionbio(&*eventfd, false).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let (filled, ended) = (Arc::clone(&eventfd), Arc::clone(&over));
    let filler = thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            // Waits while it is full, and has it full again whenever somebody makes room.
            let _ = rustix::io::write(&*filled, &FULL.to_ne_bytes());
        }
    });
    let stuck = client.clone();
    let worker = thread::spawn(move || drop(std::panic::catch_unwind(|| work(&stuck, &ram))));
    thread::sleep(Duration::from_millis(300));
    let since = Instant::now();
    client.connection.close();
    // Either somebody's signal got through, or it is told that this process is of no use to the next client.
    let end = session.join().unwrap();
    assert!(matches!(end, Ok(()) | Err(ServiceError::Stuck)), "{end:?}");
    assert!(since.elapsed() < patience + Duration::from_secs(30));
    over.store(true, Ordering::SeqCst);
    while !filler.is_finished() {
        let _ = ipc::doorbell::take_eventfd(&*eventfd);
        thread::yield_now();
    }
    drop(worker.join());
}

#[test]
fn memory_that_is_none_or_could_fault_ends_nobody() {
    let server = Server::new();
    let (client, session) = server.client(Duration::from_secs(60));
    let (pipe, _other) = std::io::pipe().unwrap();
    let huge = memfd_create("huge", MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB).inspect(|huge| {
        rustix::fs::ftruncate(huge, 2 << 20).unwrap();
        rustix::fs::fcntl_add_seals(huge, SealFlags::SHRINK).unwrap();
    });
    let cut = memfd_create("cut", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&cut, 2 << 20).unwrap();
    let mut given: Vec<OwnedFd> =
        vec![pipe.into(), eventfd(0, EventfdFlags::empty()).unwrap(), cut.try_clone().unwrap()];
    match huge {
        Ok(huge) => given.push(huge),
        Err(errno) => println!("SKIPPED: memory in huge pages: {errno}"),
    }
    for (number, fd) in (1..).zip(&given) {
        let map = DmaMap::new(BASE + number * (2 << 20), 2 << 20, 0, DmaMap::READ | DmaMap::WRITE);
        client.connection.request(Command::DMA_MAP, &[map.as_bytes()], &[fd.as_fd()], soon()).unwrap();
    }
    rustix::fs::ftruncate(&cut, 0).unwrap();
    let ram = Ram::new(2 << 20);
    client.map(&ram, true);
    client.serve_memory(&ram);
    // Reads from the image into each of these: the client is asked, has nothing there, and says so.
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 64);
    for number in 1..=given.len() as u64 {
        let done = driver.run(&mut queue, read(0, 8, BASE + number * (2 << 20) + PAGE, 0));
        assert_ne!(status(&done), 0, "memory {number}");
    }
    // Lists of pages in them are looked at by this process itself.
    for number in 1..=given.len() as u64 {
        let done = driver.run(&mut queue, read(0, 24, BASE, BASE + number * (2 << 20)));
        assert_ne!(status(&done), 0, "list in memory {number}");
    }
    drop(driver);
    work(&client, &ram);
    client.connection.close();
    session.join().unwrap().unwrap();
    server.serves_the_next_one();
}
