// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Our vfio-user client, as a library, against a third-party server: every register of its device, its interrupt, its
//! refusals.
//!
//! The card counts reads of its one register: every third reads 1 and raises INTx, the others read 0.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use dev_vfio::vfio_user::client::Client;
use ipc::{
    deadline::Deadline,
    protocol::budget,
    vfio_user::{
        connection::{Connection, ConnectionError},
        device::{IrqInfo, IrqSet, PCI_CONFIG_REGION, RegionDescription, RegionInfo},
        header::Command,
        region::RegionAccess,
        version::Version,
    },
};
use rustix::event::{EventfdFlags, eventfd};
use tests::{SEEN, SKIPPED, foreign};
use zerocopy::IntoBytes;

/// The BAR with the register, of 256 bytes.
const BAR: u32 = 2;
const INTX: u32 = 0;

/// The server and a socket to it, or nothing, after saying why.
fn connect(folder: &tempfile::TempDir) -> Option<(foreign::Server, UnixStream)> {
    let Some(program) = foreign::program() else {
        println!("{SKIPPED}{}", foreign::missing());
        return None;
    };
    let server = foreign::Server::start(&program, folder.path()).unwrap();
    let stream = UnixStream::connect(server.socket()).unwrap();
    Some((server, stream))
}

#[test]
fn client_opens_a_foreign_device_and_reaches_its_register() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut server, stream)) = connect(&folder) else { return };
    let (client, opened) = Client::open(stream.into(), Deadline::after(budget::vfio::OPENING)).unwrap();
    assert_eq!(opened.config[..4], [0x4f, 0x49, 0xc8, 0x0d]);
    assert_eq!((opened.bar_lens, opened.vectors), ([0, 0, 0x100, 0, 0, 0], 0));

    let read = || client.read(BAR, 0, 1).unwrap();
    let values: Vec<_> = (0..6).map(|_| read().unwrap()).collect();
    assert_eq!(values, [0, 0, 1, 0, 0, 1]);
    client.write(BAR, 0xfc, 4, 0x1234_5678).unwrap();
    client.post(&[client.posted(BAR, 0xfc, 4, 0x1234_5678).unwrap()]).unwrap();
    client.reset().unwrap();
    assert_eq!(client.read(BAR, 0xfd, 4).unwrap(), None, "behind the region's end");
    assert_eq!(client.read(PCI_CONFIG_REGION, 0, 4).unwrap(), Some(0x0dc8_494f));
    // It has no states, and is not asked for them.
    client.set_running(false).unwrap();
    client.set_running(true).unwrap();

    client.close();
    assert!(server.wait_exit().unwrap().success());
    let log = server.log();
    assert_eq!(log.matches("write region = 2 offset = 252").count(), 2, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    println!("{SEEN}opened, 6 reads of its register count, writes answered and posted, reset");
}

#[test]
fn connection_takes_a_foreign_servers_interrupt_and_outlives_its_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut server, stream)) = connect(&folder) else { return };
    let connection = Connection::new(stream.into());
    let soon = || Deadline::after(Duration::from_secs(10));
    let ask = |command, parts: &[&[u8]]| connection.request(command, parts, &[], soon());
    let answer = ask(Command::VERSION, &[&Version::proposal().encode()]).unwrap();
    let version = Version::decode(&answer.body).unwrap();
    assert_eq!((version.major, version.minor, version.capabilities.msg_fds()), (0, 0, 1));

    let answer = ask(Command::DEVICE_GET_IRQ_INFO, &[IrqInfo::new(INTX, 0, 0).as_bytes()]).unwrap();
    let irq = IrqInfo::decode(&answer.body, INTX).unwrap();
    assert_eq!((irq.count.get(), irq.flags.get()), (1, IrqInfo::EVENTFD));
    let signal = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let set = IrqSet::new(INTX, IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER, 0, 1);
    connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[signal.as_fd()], soon()).unwrap();
    let access = RegionAccess::new(BAR, 0, 1);
    for value in [0, 0, 1] {
        let answer = ask(Command::REGION_READ, &[access.as_bytes()]).unwrap();
        assert_eq!(access.decode_read_reply(&answer.body), Ok(&[value][..]));
    }
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&signal, &mut count), Ok(8));
    assert_eq!(u64::from_ne_bytes(count), 1);

    // A region that does not exist is refused with a number; what it does not know at all, with none.
    let refused = ask(Command::DEVICE_GET_REGION_INFO, &[RegionInfo::request(9).as_bytes()]);
    assert!(matches!(refused, Err(ConnectionError::Remote { errno: 22, .. })), "{refused:?}");
    let refused = ask(Command::DIRTY_PAGES, &[]);
    assert!(matches!(refused, Err(ConnectionError::Remote { errno: 0, .. })), "{refused:?}");
    let answer = ask(Command::DEVICE_GET_REGION_INFO, &[RegionInfo::request(BAR).as_bytes()]).unwrap();
    let bar = RegionDescription::decode(&answer.body, BAR).unwrap();
    assert_eq!((bar.info.size.get(), bar.info.flags.get()), (0x100, RegionInfo::READ | RegionInfo::WRITE));
    connection.close();
    assert!(server.wait_exit().unwrap().success());
    println!("{SEEN}INTx by eventfd at the third read; 2 refusals, and the session goes on");
}
