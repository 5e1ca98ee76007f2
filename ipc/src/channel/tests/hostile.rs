// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages that break a rule: each is named, closes the channel for good, and leaves no fd behind.

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proptest::prelude::{any, proptest};

use super::{event_frame, frame, header, late, pair, pipe, reply_frame, request_frame, send_raw, soon, vcpu};
use crate::channel::Channel;
use crate::error::{Breach, Error};
use crate::frame::{BODY_LEN_MAX, HEADER_LEN, Kind};
use crate::protocol::control::{Control, Event, Request};

/// What a vCPU process' channel makes of a message; and that it then stays closed.
fn breach_of(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Breach {
    let (socket, peer) = pair().unwrap();
    let channel = Channel::<Control>::from_fd(socket, vcpu());
    send_raw(&peer, bytes, fds);
    let Err(Error::Violation(violation)) = channel.recv(late()) else { panic!("taken: {bytes:02x?}") };
    // A good message does not make up for it.
    let _ = rustix::net::send(&peer, &request_frame(), rustix::net::SendFlags::NOSIGNAL);
    for again in [channel.recv(soon()).map(drop), channel.event::<OwnedFd>(&Event::GuestReset, &[], soon())] {
        assert!(matches!(again, Err(Error::Violation(same)) if same == violation));
    }
    let mut byte = [0];
    let left = rustix::net::recv(&peer, &mut byte, rustix::net::RecvFlags::DONTWAIT);
    assert!(matches!(left, Ok((_, 0))), "the peer sees the end: {left:?}");
    violation.breach
}

fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

#[test]
fn malformed_headers_are_named() {
    let good = request_frame();
    assert_eq!(breach_of(&good[..HEADER_LEN - 1], &[]), Breach::HeaderShort { len: 31 });
    assert_eq!(breach_of(&changed(good.clone(), 0, b'X'), &[]), Breach::Magic { magic: 0x4448_4b58 });
    assert_eq!(breach_of(&changed(good.clone(), 4, 9), &[]), Breach::Protocol { found: 9, expected: 1 });
    assert_eq!(breach_of(&changed(good.clone(), 6, 9), &[]), Breach::Version { found: 9, expected: 2 });
    assert_eq!(breach_of(&changed(good.clone(), 16, 6), &[]), Breach::Generation { found: 6, expected: 7 });
    assert_eq!(breach_of(&changed(good.clone(), 20, 5), &[]), Breach::UnknownKind { kind: 5 });
    assert_eq!(breach_of(&changed(good.clone(), 22, 1), &[]), Breach::Reserved { value: 1 });
    assert_eq!(breach_of(&changed(good.clone(), 28, 1), &[]), Breach::Reserved { value: 1 });
    assert_eq!(breach_of(&changed(good, 24, 2), &[]), Breach::BodyLength { claimed: 2, found: 1 });
}

#[test]
fn oversize_messages_are_refused_before_they_are_looked_at() {
    let long = header(Kind::Request, 1, &vec![0; BODY_LEN_MAX as usize + 1]);
    let expected = Breach::BodyLong { len: BODY_LEN_MAX + 1, max: BODY_LEN_MAX };
    assert_eq!(breach_of(&long.to_bytes(), &[]), expected, "the claim alone");
    let mut bytes = header(Kind::Request, 1, &[]).to_bytes().to_vec();
    bytes.resize(HEADER_LEN + BODY_LEN_MAX as usize + 1, 0);
    assert_eq!(breach_of(&bytes, &[]), Breach::Truncated);
}

#[test]
fn bodies_that_are_not_exactly_a_message_are_refused() {
    let with_body = |body: &[u8]| [&header(Kind::Request, 1, body).to_bytes()[..], body].concat();
    assert_eq!(breach_of(&with_body(&[]), &[]), Breach::Body);
    assert_eq!(breach_of(&with_body(&[0xff; 40]), &[]), Breach::Body);
    let mut start = postcard::to_stdvec(&Request::Go).unwrap();
    start.extend([0, 0, 0]);
    assert_eq!(breach_of(&with_body(&start), &[]), Breach::TrailingBytes { len: 3 });
}

#[test]
fn fds_that_do_not_fit_are_refused_and_closed() {
    let save = frame(Kind::Request, 1, &Request::Save);
    let counts = |bytes: Vec<u8>, claimed: u8| changed(bytes, 21, claimed);
    for (bytes, sent, expected) in [
        (counts(save.clone(), 1), 0, Breach::FdCount { claimed: 1, found: 0 }),
        (counts(save.clone(), 0), 1, Breach::FdCount { claimed: 0, found: 1 }),
        (counts(save.clone(), 1), 2, Breach::FdCount { claimed: 1, found: 2 }),
        (counts(save.clone(), 0), 0, Breach::FdContract { found: 0, expected: 1 }),
        (counts(save.clone(), 2), 2, Breach::FdContract { found: 2, expected: 1 }),
        (counts(request_frame(), 1), 1, Breach::FdContract { found: 1, expected: 0 }),
        (counts(save.clone(), 9), 9, Breach::FdContract { found: 9, expected: 8 }),
        (counts(save, 1), 14, Breach::AncillaryTruncated),
    ] {
        let (mut reader, writer) = pipe();
        assert_eq!(breach_of(&bytes, &vec![writer.as_fd(); sent]), expected);
        drop(writer);
        // Ends only if no copy is left open; otherwise this test does not end either.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn frames_out_of_place_are_refused() {
    assert_eq!(breach_of(&reply_frame(5), &[]), Breach::UnknownRequest { request_id: 5 });
    let mut hello = postcard::to_stdvec(&super::coordinator()).unwrap();
    hello.splice(0..0, header(Kind::Hello, 0, &hello).to_bytes());
    assert_eq!(breach_of(&hello, &[]), Breach::UnexpectedKind { kind: Kind::Hello });
}

#[test]
fn answer_to_another_request_than_the_open_one_is_refused() {
    let (socket, peer) = pair().unwrap();
    let channel = Channel::<Control>::from_fd(socket, vcpu());
    send_raw(&peer, &reply_frame(99), &[]);
    match channel.request::<OwnedFd>(&Request::Go, &[], late()) {
        Err(Error::Violation(v)) => assert_eq!(v.breach, Breach::UnknownRequest { request_id: 99 }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answer_given_twice_is_refused() {
    let (socket, peer) = pair().unwrap();
    let channel = Channel::<Control>::from_fd(socket, vcpu());
    send_raw(&peer, &reply_frame(1), &[]);
    send_raw(&peer, &reply_frame(1), &[]);
    channel.request::<OwnedFd>(&Request::Go, &[], late()).unwrap();
    match channel.recv(late()) {
        Err(Error::Violation(v)) => assert_eq!(v.breach, Breach::UnknownRequest { request_id: 1 }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn request_instead_of_a_hello_is_refused() {
    let (socket, peer) = pair().unwrap();
    let channel = Channel::<Control>::from_fd(socket, vcpu());
    send_raw(&peer, &event_frame(), &[]);
    match channel.hello(crate::hello::Role::Coordinator, late()) {
        Err(Error::Violation(v)) => assert_eq!(v.breach, Breach::UnexpectedKind { kind: Kind::Event }),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Any bytes at all, and any one byte of a good message changed: an answer or a violation, never a panic.
    #[test]
    fn any_message_is_received_or_refused(
        noise in proptest::collection::vec(any::<u8>(), 1..200),
        at in 0_usize..33,
        value in any::<u8>(),
    ) {
        for bytes in [noise, changed(request_frame(), at, value)] {
            let (socket, peer) = pair().unwrap();
            let channel = Channel::<Control>::from_fd(socket, vcpu());
            send_raw(&peer, &bytes, &[]);
            match channel.recv(late()) {
                Ok(_) | Err(Error::Violation(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}
