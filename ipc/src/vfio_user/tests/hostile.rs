// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Peers that write raw bytes: truncated, oversized, unasked for, too many. This end stays well and says why.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::pair::soon;
use crate::deadline::Deadline;
use crate::vfio_user::connection::{Connection, ConnectionError, OPEN_MAX};
use crate::vfio_user::header::{Command, Header, Kind};

fn victim() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(ours.into()), theirs)
}

fn message(id: u16, command: Command, kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = Header { id, command, kind, body_len: body.len() };
    [&header.encode().unwrap()[..], body].concat()
}

fn rule(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::Violation(malformed) => malformed.rule,
        other => panic!("no violation but {other}"),
    }
}

/// What `receive` says after the peer wrote `bytes`.
fn verdict(bytes: &[u8]) -> &'static str {
    let (ours, mut theirs) = victim();
    theirs.write_all(bytes).unwrap();
    let error = ours.receive(soon()).unwrap_err();
    // The fate stays: every later call says the same.
    assert_eq!(rule(&ours.request(Command::REGION_READ, &[], &[], soon()).unwrap_err()), rule(&error));
    rule(&error)
}

#[test]
fn sizes_that_cannot_be_end_the_connection() {
    let with_size = |size: u32| {
        let mut bytes = message(1, Command::REGION_READ, Kind::Command, &[]);
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        verdict(&bytes)
    };
    for size in [0, 15, 0x7fff_ffff, u32::MAX] {
        assert_eq!(with_size(size), "the message size is out of range");
    }
}

#[test]
fn reply_to_a_request_never_made_ends_the_connection() {
    assert_eq!(verdict(&message(9, Command::REGION_READ, Kind::Reply, b"x")), "the request was never made");
    assert_eq!(verdict(&message(9, Command::DMA_MAP, Kind::Failure(1), b"")), "the request was never made");
}

#[test]
fn failure_of_what_was_posted_is_let_be() {
    let (ours, mut theirs) = victim();
    ours.post(Command::REGION_WRITE, &[b"x"], &[], soon()).unwrap();
    theirs.write_all(&message(0, Command::REGION_WRITE, Kind::Failure(22), &[])).unwrap();
    theirs.write_all(&message(7, Command::DMA_READ, Kind::Command, b"next")).unwrap();
    assert_eq!(ours.receive(soon()).unwrap().body, b"next");
    theirs.write_all(&message(0, Command::REGION_WRITE, Kind::Reply, &[])).unwrap();
    assert_eq!(rule(&ours.receive(soon()).unwrap_err()), "the request was never made");
}

#[test]
fn second_reply_or_one_to_another_command_ends_the_connection() {
    let (ours, mut theirs) = victim();
    let pending = ours.begin(Command::REGION_READ, &[], &[], soon()).unwrap();
    let reply = message(1, Command::REGION_READ, Kind::Reply, b"x");
    theirs.write_all(&[reply.clone(), reply].concat()).unwrap();
    assert_eq!(rule(&ours.receive(soon()).unwrap_err()), "the request was answered before");
    // What was answered before the breach is still the answer.
    assert_eq!(ours.finish(pending, soon()).unwrap().body, b"x");

    let (ours, mut theirs) = victim();
    theirs.write_all(&message(1, Command::REGION_WRITE, Kind::Reply, b"x")).unwrap();
    let error = ours.request(Command::REGION_READ, &[], &[], soon()).unwrap_err();
    assert_eq!(rule(&error), "the command is not the request's");
}

#[test]
fn disconnect_in_the_middle_of_a_message_is_the_end_of_the_peer() {
    let whole = message(1, Command::REGION_WRITE, Kind::Command, &[0; 100]);
    for len in [0, 1, 15, 16, 17, 115] {
        let (ours, mut theirs) = victim();
        theirs.write_all(&whole[..len]).unwrap();
        drop(theirs);
        assert!(matches!(ours.receive(soon()), Err(ConnectionError::Closed)), "{len}");
    }
}

#[test]
fn message_that_never_ends_costs_a_timeout_only() {
    let (ours, mut theirs) = victim();
    let whole = message(1, Command::REGION_WRITE, Kind::Command, &[5; 100]);
    theirs.write_all(&whole[..50]).unwrap();
    let short = Deadline::after(std::time::Duration::from_millis(20));
    assert!(matches!(ours.receive(short), Err(ConnectionError::Timeout { .. })));
    theirs.write_all(&whole[50..]).unwrap();
    assert_eq!(ours.receive(soon()).unwrap().body, [5; 100]);
}

#[test]
fn unknown_command_is_handed_over_to_be_refused() {
    let (ours, mut theirs) = victim();
    theirs.write_all(&message(3, Command(999), Kind::Command, b"?")).unwrap();
    assert_eq!(ours.receive(soon()).unwrap().command(), Command(999));
}

#[test]
fn flood_of_commands_ends_the_connection() {
    let (ours, mut theirs) = victim();
    let flood = std::thread::spawn(move || {
        let one = message(3, Command::REGION_WRITE, Kind::Posted, &[0; 20]);
        while theirs.write_all(&one).is_ok() {}
    });
    // Nobody takes the commands: this end waits for an answer that never comes.
    let error = ours.request(Command::DMA_READ, &[], &[], soon()).unwrap_err();
    assert_eq!(rule(&error), "commands come faster than they are taken");
    flood.join().unwrap();
}

#[test]
fn peer_that_never_answers_fills_the_table_and_no_more() {
    let (ours, theirs) = victim();
    for _ in 0..OPEN_MAX {
        let silent = ours.request(Command::DMA_READ, &[], &[], Deadline::now());
        assert!(matches!(silent, Err(ConnectionError::Timeout { .. })));
    }
    let refused = ours.request(Command::DMA_READ, &[], &[], soon());
    assert!(matches!(refused, Err(ConnectionError::Refused(_))));
    drop(theirs);
}

#[test]
fn peer_that_never_reads_costs_a_timeout_and_the_connection() {
    let (ours, theirs) = victim();
    let short = Deadline::after(std::time::Duration::from_millis(50));
    let large = vec![0; 1 << 20];
    let torn = ours.post(Command::DMA_WRITE, &[&large], &[], short);
    assert!(matches!(torn, Err(ConnectionError::Timeout { .. })));
    // Half a message is out: nothing can follow it.
    let after = ours.post(Command::DMA_WRITE, &[b"x"], &[], soon());
    assert!(matches!(after, Err(ConnectionError::Timeout { .. })));
    drop(theirs);
}
