// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two ends that keep to the protocol: many threads, both directions, fds, large messages.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::deadline::Deadline;
use crate::vfio_user::connection::{Connection, ConnectionError, InFlight, Incoming};
use crate::vfio_user::header::Command;
use crate::vfio_user::{DATA_LEN_MAX, FDS_MAX};

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn ends() -> (Arc<Connection>, Arc<Connection>) {
    let (a, b) = UnixStream::pair().unwrap();
    (Arc::new(Connection::new(a.into())), Arc::new(Connection::new(b.into())))
}

/// Answers every command with its own body, until the connection ends.
fn echo(end: &Connection) {
    loop {
        match end.receive(soon()) {
            Ok(incoming) => end.reply(&incoming, &[&incoming.body], &[], soon()).unwrap(),
            Err(ConnectionError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn requests_of_many_threads_each_get_their_own_answer() {
    let (client, server) = ends();
    let serving = thread::spawn(move || echo(&server));
    let askers: Vec<_> = (0..4u8)
        .map(|number| {
            let client = Arc::clone(&client);
            thread::spawn(move || {
                for round in 0..200u16 {
                    let body = [&[number][..], &round.to_le_bytes()];
                    let answer = client.request(Command::REGION_READ, &body, &[], soon()).unwrap();
                    assert_eq!(answer.body, body.concat());
                }
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    client.close();
    serving.join().unwrap();
}

#[test]
fn server_asks_for_memory_while_a_request_is_open() {
    let (client, server) = ends();
    let serving = thread::spawn(move || {
        let write = server.receive(soon()).unwrap();
        // The client is in the middle of its request: it serves this one before it gets its answer.
        let data = server.request(Command::DMA_READ, &[b"where"], &[], soon()).unwrap();
        server.reply(&write, &[&data.body], &[], soon()).unwrap();
    });
    let memory = Arc::clone(&client);
    let memory = thread::spawn(move || {
        let read: Incoming = memory.receive(soon()).unwrap();
        assert_eq!((read.command(), read.body.as_slice()), (Command::DMA_READ, &b"where"[..]));
        memory.reply(&read, &[b"what"], &[], soon()).unwrap();
    });
    let answer = client.request(Command::REGION_WRITE, &[b"doorbell"], &[], soon()).unwrap();
    assert_eq!(answer.body, b"what");
    serving.join().unwrap();
    memory.join().unwrap();
}

#[test]
fn fds_stay_with_their_message_however_many_are_queued() {
    let (client, server) = ends();
    for count in [0, 1, 0, 0, 3, FDS_MAX, 0, 2] {
        let files: Vec<_> = (0..count).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let body = [u8::try_from(count).unwrap(); 40];
        client.post(Command::DEVICE_SET_IRQS, &[&body[..20], &body[20..]], &fds, soon()).unwrap();
    }
    for count in [0, 1, 0, 0, 3, FDS_MAX, 0, 2] {
        let incoming = server.receive(soon()).unwrap();
        assert_eq!((incoming.fds.len(), incoming.body), (count, vec![count as u8; 40]));
        assert!(incoming.fds.iter().all(|fd| rustix::fs::fstat(fd).is_ok()));
    }
}

#[test]
fn largest_message_passes_in_both_directions() {
    let (client, server) = ends();
    let serving = thread::spawn(move || echo(&server));
    let data: Vec<u8> = (0..DATA_LEN_MAX).map(|at| at as u8).collect();
    let answer = client.request(Command::DMA_WRITE, &[b"head", &data], &[], soon()).unwrap();
    assert_eq!(answer.body, [b"head", data.as_slice()].concat());
    let long = vec![0; DATA_LEN_MAX + 4096];
    let refused = client.request(Command::DMA_WRITE, &[&long], &[], soon());
    assert!(matches!(refused, Err(ConnectionError::Refused(_))));
    client.close();
    serving.join().unwrap();
}

#[test]
fn failed_request_says_its_error_and_the_connection_lives() {
    let (client, server) = ends();
    let serving = thread::spawn(move || {
        let incoming = server.receive(soon()).unwrap();
        server.fail(&incoming, Errno::EXIST, soon()).unwrap();
        echo(&server);
    });
    let failed = client.request(Command::DMA_MAP, &[], &[], soon());
    assert!(matches!(failed, Err(ConnectionError::Remote { command: Command::DMA_MAP, errno: 17 })));
    assert!(client.request(Command::DMA_MAP, &[b"again"], &[], soon()).is_ok());
    client.close();
    serving.join().unwrap();
}

#[test]
fn late_answer_is_dropped_and_harms_nobody() {
    let (client, server) = ends();
    let late = client.request(Command::REGION_READ, &[b"1"], &[], Deadline::now());
    assert!(matches!(late, Err(ConnectionError::Timeout { .. })));
    let first = server.receive(soon()).unwrap();
    server.reply(&first, &[b"late"], &[], soon()).unwrap();
    let serving = thread::spawn(move || echo(&server));
    let answer = client.request(Command::REGION_READ, &[b"2"], &[], soon()).unwrap();
    assert_eq!(answer.body, b"2");
    client.close();
    serving.join().unwrap();
}

#[test]
fn end_of_one_side_wakes_everybody_on_the_other() {
    let (client, server) = ends();
    let waiting: Vec<_> = (0..3)
        .map(|number| {
            let client = Arc::clone(&client);
            thread::spawn(move || match number {
                0 => client.receive(soon()).map(drop),
                _ => client.request(Command::REGION_READ, &[], &[], soon()).map(drop),
            })
        })
        .collect();
    server.receive(soon()).unwrap();
    drop(server);
    for thread in waiting {
        assert!(matches!(thread.join().unwrap(), Err(ConnectionError::Closed)));
    }
}

#[test]
fn a_parked_end_leaves_the_stream_to_another_and_takes_it_back() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let first = Arc::new(Connection::new(ours.try_clone().unwrap().into()));
    let next = Connection::new(ours.into());
    let server = Arc::new(Connection::new(theirs.into()));
    // A thread waits for commands all the time, as a device's does.
    let waiting = Arc::clone(&first);
    let waiter = thread::spawn(move || waiting.receive(soon()).unwrap().body);
    let (ask, answers) = (Arc::clone(&server), Arc::clone(&server));
    let serving = thread::spawn(move || {
        for _ in 0..300 {
            let incoming = answers.receive(soon()).unwrap();
            answers.reply(&incoming, &[&incoming.body], &[], soon()).unwrap();
        }
    });
    for round in 0..100u8 {
        let asked = |end: &Connection| end.request(Command::REGION_READ, &[&[round]], &[], soon()).unwrap();
        assert_eq!(asked(&first).body, [round]);
        assert!(first.park().is_none());
        assert_eq!(asked(&next).body, [round]);
        assert_eq!(next.park(), InFlight::default());
        first.unpark();
        assert_eq!(asked(&first).body, [round]);
        next.unpark();
    }
    serving.join().unwrap();
    let command = ask.begin(Command::DMA_READ, &[b"for the first"], &[], soon()).unwrap();
    assert_eq!(waiter.join().unwrap(), b"for the first");
    // What is not answered, and what is not read whole, does not come along.
    assert_eq!(first.park(), InFlight { commands: 1, requests: 0, torn: false });
    first.unpark();
    drop(command);
}

#[test]
fn a_parked_end_says_what_it_holds_of_a_message() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let end = Connection::new(ours.into());
    std::io::Write::write_all(&mut &theirs, &[1, 0, 11]).unwrap();
    let moment = || Deadline::after(Duration::from_millis(20));
    assert!(matches!(end.receive(moment()), Err(ConnectionError::Timeout { .. })));
    assert_eq!(end.park(), InFlight { commands: 0, requests: 0, torn: true });
    assert!(matches!(end.receive(moment()), Err(ConnectionError::Timeout { .. })), "parked");
}
