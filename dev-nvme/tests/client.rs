// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server behind a socket in this process: clients that keep to the protocol, and clients that do not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use dev_nvme::Device;
use dev_nvme::identity::Identity;
use dev_nvme::media::Image;
use dev_nvme::service;
use host::client::{Client, soon};
use host::local::image;
use host::{BASE, Driver, PAGE, Ram, pattern, read, status, write};
use ipc::vfio_user::connection::ConnectionError;
use ipc::vfio_user::device::{DeviceInfo, IrqInfo, IrqSet, PCI_CONFIG_REGION, RegionDescription, RegionInfo};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{
    self, FeatureHeader, FeatureOp, LoggingRange, LoggingReport, LoggingStart, MigState, MigrationFlags,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::Version;
use zerocopy::IntoBytes;

const MIB: u64 = 1 << 20;

/// A device whose workers run; it ends with the value.
struct Server {
    device: Arc<Device>,
    file: std::fs::File,
}

impl Server {
    fn new() -> Server {
        let file = image(8 * MIB);
        let identity = Identity::new("TEST", 8 * MIB, 512).unwrap();
        let device = Arc::new(Device::new(identity, Box::new(Image::new(file.try_clone().unwrap()))));
        service::start_workers(&device).unwrap();
        Server { device, file }
    }

    fn accept(&self) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let device = Arc::clone(&self.device);
        let session = thread::spawn(move || service::serve_client(&device, theirs.into()).unwrap());
        (ours, session)
    }

    fn client(&self) -> (Client, JoinHandle<()>) {
        let (stream, session) = self.accept();
        (Client::connect(stream), session)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.device.engine().end();
    }
}

fn errno(result: Result<Vec<u8>, ConnectionError>) -> i32 {
    match result {
        Err(ConnectionError::Remote { errno, .. }) => errno as i32,
        other => panic!("not refused: {other:?}"),
    }
}

/// Writes and reads back 2 MiB in transfers of many sizes.
fn exercise(client: &Client, ram: &Ram) {
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 64);
    let (data, list) = (driver.pages(257), driver.pages(1));
    for number in 1..256u64 {
        ram.put(list + (number - 1) * 8, &(data + number * PAGE).to_le_bytes());
    }
    let prp2 = |count: u64| if count > 16 { list } else { data + PAGE };
    for count in [1, 8, 16, 24, 100, 2048] {
        let len = count as usize * 512;
        let bytes = pattern(count, len);
        ram.put(data, &bytes);
        assert_eq!(status(&driver.run(&mut queue, write(count, count as u32, data, prp2(count)))), 0);
        ram.put(data, &vec![0xee; len]);
        assert_eq!(status(&driver.run(&mut queue, read(count, count as u32, data, prp2(count)))), 0);
        assert!(ram.get(data, len) == bytes, "{count} blocks");
    }
    driver.disable();
}

#[test]
fn mapped_memory_is_reached_without_messages() {
    let server = Server::new();
    let (client, session) = server.client();
    let ram = Ram::new(4 << 20);
    client.map(&ram, true);
    client.serve_memory(&ram);
    exercise(&client, &ram);
    assert_eq!(client.messages.load(Ordering::SeqCst), 0);
    client.connection.close();
    session.join().unwrap();
}

#[test]
fn memory_without_an_fd_is_reached_by_messages() {
    let server = Server::new();
    let (client, session) = server.client();
    let ram = Ram::new(4 << 20);
    client.map(&ram, false);
    exercise(&client, &ram);
    assert!(client.messages.load(Ordering::SeqCst) > 0);
    client.connection.close();
    session.join().unwrap();
}

#[test]
fn memory_in_a_window_for_every_page_is_one_memory() {
    let server = Server::new();
    let (client, session) = server.client();
    let ram = Ram::new(4 << 20);
    // As a client with an IOMMU declares it, some of it without a descriptor.
    for page in 0..ram.object.len() / PAGE {
        let map = DmaMap::new(BASE + page * PAGE, PAGE, page * PAGE, DmaMap::READ | DmaMap::WRITE);
        let fds = [ram.object.as_fd()];
        let fds = if page % 7 == 0 { &[][..] } else { &fds[..] };
        client.connection.request(Command::DMA_MAP, &[map.as_bytes()], fds, soon()).unwrap();
    }
    client.serve_memory(&ram);
    exercise(&client, &ram);
    let (address, size) = (BASE.into(), ram.object.len().into());
    let whole = DmaUnmap { argsz: 24.into(), flags: 0.into(), address, size };
    client.ask(Command::DMA_UNMAP, &[whole.as_bytes()]).unwrap();
    assert_eq!(errno(client.ask(Command::DMA_UNMAP, &[whole.as_bytes()])), 2);
    client.connection.close();
    session.join().unwrap();
}

#[test]
fn client_of_protocol_0_0_is_asked_for_memory_in_pieces_that_a_socket_takes_whole() {
    let server = Server::new();
    for (minor, longest) in [(0, 32 << 10), (2, 1 << 20)] {
        let (stream, session) = server.accept();
        let client = Client::propose(stream, &Version { minor, ..Version::proposal() });
        let ram = Ram::new(4 << 20);
        client.map(&ram, false);
        exercise(&client, &ram);
        assert_eq!(client.longest.load(Ordering::SeqCst), longest, "minor version {minor}");
        client.connection.close();
        session.join().unwrap();
    }
}

#[test]
fn completions_are_announced_by_eventfds() {
    let server = Server::new();
    let (client, _session) = server.client();
    let ram = Ram::new(4 << 20);
    client.map(&ram, true);
    let eventfds = client.eventfds(17);
    let driver = Driver::start(client.clone(), ram);
    let mut queue = driver.create(2, 8);
    let page = driver.pages(1);
    let count = |vector: usize| {
        let mut bytes = [0; 8];
        rustix::io::read(&eventfds[vector], &mut bytes).map(|_| u64::from_ne_bytes(bytes)).unwrap_or(0)
    };
    assert!(count(0) > 0);
    assert_eq!(count(2), 0);
    driver.submit(&mut queue, read(0, 8, page, 0));
    let mut polled = [rustix::event::PollFd::new(&eventfds[2], rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&deadline)), Ok(1));
    // Announced only when it can be seen.
    assert!(driver.poll(&mut queue, true).is_some());
    assert_eq!((count(2), count(3)), (1, 0));
    // Masked: kept, and told when unmasked.
    let set =
        |flags: u32| client.ask(Command::DEVICE_SET_IRQS, &[IrqSet::new(2, flags, 2, 1).as_bytes()]).unwrap();
    set(IrqSet::DATA_NONE | IrqSet::ACTION_MASK);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    assert!(count(2) <= 1 && driver.csts() == 1);
    set(IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER);
    assert_eq!(count(2), 0);
    set(IrqSet::DATA_NONE | IrqSet::ACTION_UNMASK);
    assert_eq!(count(2), 1);
}

#[test]
fn device_describes_itself_as_pci_nvme() {
    let server = Server::new();
    let (client, _session) = server.client();
    let info = client.ask(Command::DEVICE_GET_INFO, &[DeviceInfo::request().as_bytes()]).unwrap();
    let info = DeviceInfo::decode_pci(&info).unwrap();
    assert_eq!((info.num_regions.get(), info.num_irqs.get()), (9, 5));
    let region = |index| {
        let body =
            client.ask(Command::DEVICE_GET_REGION_INFO, &[RegionInfo::request(index).as_bytes()]).unwrap();
        RegionDescription::decode(&body, index).unwrap().info
    };
    assert_eq!((region(0).size.get(), region(0).flags.get()), (0x4000, 3));
    assert_eq!((region(7).size.get(), region(7).flags.get()), (4096, 3));
    for absent in [1, 2, 3, 4, 5, 6, 8] {
        assert_eq!((region(absent).size.get(), region(absent).flags.get()), (0, 0));
    }
    let irq = |index| {
        let body = client.ask(Command::DEVICE_GET_IRQ_INFO, &[IrqInfo::new(index, 0, 0).as_bytes()]).unwrap();
        IrqInfo::decode(&body, index).unwrap().count.get()
    };
    assert_eq!([irq(0), irq(1), irq(2), irq(3), irq(4)], [0, 0, 17, 0, 0]);
}

#[test]
fn requests_that_cannot_be_are_refused_and_the_session_goes_on() {
    let server = Server::new();
    let (client, _session) = server.client();
    let ask = |command, body: &[u8]| errno(client.ask(command, &[body]));
    const INVAL: i32 = 22;
    let access = |region, offset, count| RegionAccess::new(region, offset, count);
    for bad in [
        access(0, 0x4000, 4),
        access(0, 0x3ffd, 4),
        access(0, u64::MAX - 2, 8),
        access(PCI_CONFIG_REGION, 4096, 1),
        access(1, 0, 4),
        access(8, 0, 4),
        access(u32::MAX, 0, 4),
        access(0, 0, 0),
        access(0, 0, u32::MAX),
    ] {
        assert_eq!(ask(Command::REGION_READ, bad.as_bytes()), INVAL, "{bad:?}");
    }
    assert_eq!(ask(Command::REGION_WRITE, access(0, 0x14, 4).as_bytes()), INVAL);
    assert_eq!(ask(Command::DEVICE_GET_REGION_INFO, RegionInfo::request(9).as_bytes()), INVAL);
    assert_eq!(ask(Command::DEVICE_GET_IRQ_INFO, IrqInfo::new(5, 0, 0).as_bytes()), INVAL);
    assert_eq!(ask(Command::DEVICE_GET_INFO, &[0; 3]), INVAL);
    let trigger = IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER;
    assert_eq!(ask(Command::DEVICE_SET_IRQS, IrqSet::new(2, trigger, 16, 2).as_bytes()), INVAL);
    assert_eq!(ask(Command::DEVICE_SET_IRQS, IrqSet::new(0, trigger, 0, 1).as_bytes()), INVAL);
    assert!(client.ask(Command::DEVICE_SET_IRQS, &[IrqSet::new(1, trigger, 0, 0).as_bytes()]).is_ok());
    // Unknown and unoffered commands; a second VERSION; answers to nothing are the connection's business.
    assert_eq!(ask(Command(99), &[]), 95);
    assert_eq!(ask(Command::DEVICE_GET_REGION_IO_FDS, &[0; 16]), 95);
    assert_eq!(ask(Command::DIRTY_PAGES, &[0; 8]), 95);
    assert_eq!(ask(Command::VERSION, &Version::proposal().encode()), 71);
    assert_eq!(ask(Command::DMA_MAP, DmaMap::new(BASE, 0, 0, 3).as_bytes()), INVAL);
    assert!(client.ask(Command::DMA_MAP, &[DmaMap::new(BASE, PAGE, 0, 3).as_bytes()]).is_ok());
    assert_eq!(ask(Command::DMA_MAP, DmaMap::new(BASE, PAGE, 0, 3).as_bytes()), 17);
    let unmap = |flags: u32, address: u64, size: u64| DmaUnmap {
        argsz: 24.into(),
        flags: flags.into(),
        address: address.into(),
        size: size.into(),
    };
    assert_eq!(ask(Command::DMA_UNMAP, unmap(0, BASE + PAGE, PAGE).as_bytes()), 2);
    assert!(client.ask(Command::DMA_UNMAP, &[unmap(0, BASE, PAGE).as_bytes()]).is_ok());
    assert!(client.ask(Command::DMA_UNMAP, &[unmap(DmaUnmap::ALL, 0, 0).as_bytes()]).is_ok());
    // Features.
    let probe = |feature, get, set| {
        let header = FeatureHeader::request(feature, FeatureOp::Probe { get, set }, 64);
        client.ask(Command::DEVICE_FEATURE, &[header.as_bytes()]).is_ok()
    };
    assert!(probe(feature::MIGRATION, true, false) && !probe(feature::MIGRATION, true, true));
    assert!(probe(feature::MIG_DEVICE_STATE, true, true) && !probe(11, true, false));
    let header = FeatureHeader::request(feature::MIGRATION, FeatureOp::Get, 64);
    let reply = client.ask(Command::DEVICE_FEATURE, &[header.as_bytes()]).unwrap();
    assert_eq!(MigrationFlags::decode(header.decode_reply(&reply).unwrap()).unwrap().flags.get(), 7);
    assert!(client.set_state(MigState::Error).is_err());
    // It still works.
    let ram = Ram::new(4 << 20);
    client.map(&ram, true);
    exercise(&client, &ram);
}

#[test]
fn first_command_must_be_version_and_of_our_major() {
    let server = Server::new();
    let (stream, session) = server.accept();
    let connection = ipc::vfio_user::connection::Connection::new(stream.into());
    let early = connection.request(Command::DEVICE_RESET, &[], &[], soon());
    assert!(matches!(early, Err(ConnectionError::Remote { errno: 71, .. })));
    let body = Version { major: 1, ..Version::proposal() }.encode();
    let other = connection.request(Command::VERSION, &[&body], &[], soon());
    assert!(matches!(other, Err(ConnectionError::Remote { errno: 22, .. })));
    drop(connection);
    session.join().unwrap();
}

#[test]
fn written_pages_are_logged() {
    let server = Server::new();
    let (client, _session) = server.client();
    let ram = Ram::new(4 << 20);
    client.map(&ram, true);
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 8);
    let pages = driver.pages(8);
    let header = FeatureHeader::request(feature::DMA_LOGGING_START, FeatureOp::Set, 64);
    let start = LoggingStart { page_size: 65536.into(), num_ranges: 1.into(), reserved: 0.into() };
    let range = LoggingRange { iova: BASE.into(), length: (4 << 20).into() };
    let parts = [header.as_bytes(), start.as_bytes(), range.as_bytes()];
    let reply = client.ask(Command::DEVICE_FEATURE, &parts).unwrap();
    // The granule it really has.
    assert_eq!(LoggingStart::decode(header.decode_reply(&reply).unwrap()).unwrap().0.page_size.get(), 4096);
    assert!(client.ask(Command::DEVICE_FEATURE, &parts).is_err());
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, pages + 5 * PAGE, 0))), 0);
    let report = || {
        let header = FeatureHeader::request(feature::DMA_LOGGING_REPORT, FeatureOp::Get, 4096);
        let report = LoggingReport { iova: BASE.into(), length: (4 << 20).into(), page_size: 4096.into() };
        let reply = client.ask(Command::DEVICE_FEATURE, &[header.as_bytes(), report.as_bytes()]).unwrap();
        let bitmap = report.decode_reply(header.decode_reply(&reply).unwrap()).unwrap();
        (0..1024u64).filter(|page| bitmap[(page / 8) as usize] >> (page % 8) & 1 == 1).collect::<Vec<_>>()
    };
    // The data's page, and the completion's.
    let page = |at: u64| (at - BASE) / PAGE;
    let mut expected = vec![page(pages + 5 * PAGE), page(queue.completions())];
    expected.sort_unstable();
    assert_eq!(report(), expected);
    assert_eq!(report(), Vec::<u64>::new());
}

#[test]
fn client_that_disappears_leaves_a_reset_device_for_the_next() {
    let server = Server::new();
    let ram = Ram::new(4 << 20);
    for by_fd in [true, false, true] {
        let (client, session) = server.client();
        client.map(&ram, by_fd);
        let driver = Driver::start(client.clone(), ram.clone());
        let mut queue = driver.create(1, 64);
        let page = driver.pages(1);
        for number in 0..60 {
            driver.enqueue(&mut queue, read(number, 8, page, 0));
        }
        driver.ring(&queue);
        // In the middle of it.
        client.connection.close();
        session.join().unwrap();
        assert_eq!(server.device.migration_state(), MigState::Running);
    }
    let (client, _session) = server.client();
    client.map(&ram, true);
    exercise(&client, &ram);
}

#[test]
fn client_that_never_serves_its_memory_is_outlasted() {
    let server = Server::new();
    let (client, session) = server.client();
    // A window, and nobody who serves it.
    let map = DmaMap::new(BASE, 1 << 20, 0, 3);
    client.ask(Command::DMA_MAP, &[map.as_bytes()]).unwrap();
    use host::Wire;
    client.write(0x24, 4, 0x001f_001f);
    client.write(0x28, 8, BASE);
    client.write(0x30, 8, BASE + PAGE);
    client.write(0x14, 4, 0x0046_0001);
    client.write(0x1000, 4, 5);
    // Registers answer meanwhile.
    assert_eq!(client.read(0x1c, 4), 1);
    client.connection.close();
    session.join().unwrap();
}

#[test]
fn raw_garbage_ends_the_session_only() {
    let server = Server::new();
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 64], &[0; 16], &[1, 0, 1, 0, 18, 0, 0, 0]]
    {
        let (mut stream, session) = server.accept();
        stream.write_all(garbage).unwrap();
        drop(stream);
        session.join().unwrap();
    }
    let (client, _session) = server.client();
    let ram = Ram::new(4 << 20);
    client.map(&ram, true);
    exercise(&client, &ram);
    assert!(server.file.metadata().unwrap().len() == 8 * MIB);
}

#[test]
fn migration_over_the_protocol_carries_a_running_controller() {
    let source = Server::new();
    let ram = Ram::new(4 << 20);
    let (client, session) = source.client();
    client.map(&ram, true);
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    ram.put(page, &pattern(9, 4096));
    assert_eq!(status(&driver.run(&mut queue, write(8, 8, page, 0))), 0);
    client.set_state(MigState::PreCopy).unwrap();
    assert_eq!(client.read_state(4096), Vec::<u8>::new());
    client.set_state(MigState::StopCopy).unwrap();
    assert_eq!(client.state(), MigState::StopCopy);
    let state = client.read_state(64);
    let image = source.file.try_clone().unwrap();

    let identity = Identity::new("TEST", 8 * MIB, 512).unwrap();
    let device = Arc::new(Device::new(identity, Box::new(Image::new(image.try_clone().unwrap()))));
    service::start_workers(&device).unwrap();
    let target = Server { device, file: image };
    let (next, _next_session) = target.client();
    next.map(&ram, true);
    next.set_state(MigState::Resuming).unwrap();
    next.write_state(&state, 100);
    next.set_state(MigState::Running).unwrap();
    let driver = Driver::resume(next, ram.clone(), &driver);
    ram.put(page, &[0; 4096]);
    assert_eq!(status(&driver.run(&mut queue, read(8, 8, page, 0))), 0);
    assert!(ram.get(page, 4096) == pattern(9, 4096));
    client.connection.close();
    session.join().unwrap();
}
