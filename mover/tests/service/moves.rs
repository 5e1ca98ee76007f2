// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole migrations: RAM that changes, states of any length, messages, and their order.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use ipc::protocol::mover::{MoverNotice, MoverRequest, RoundReport};

use crate::{Mover, PAGES, await_connected, connected, destination, memory, pair, source, vfio};
use ipc::protocol::mover::Security;

fn round(source: &mut Mover, round: u32) -> RoundReport {
    source.ask(MoverRequest::SendRound { round });
    match source.notice() {
        MoverNotice::RoundSent(report) if report.round == round => report,
        other => panic!("{other:?}"),
    }
}

fn state(index: u8) -> Vec<u8> {
    let len = [0, 7, 512 << 10, (512 << 10) + 1, 3 << 20][usize::from(index)];
    (0..len).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Moves a guest; both ends are connected.
pub fn carry(source: &mut Mover, destination: &mut Mover) {
    for page in 0..PAGES {
        source.write(page, if page % 3 == 0 { 0 } else { page as u8 | 1 });
    }
    let report = round(source, 0);
    assert_eq!(report.page_count + report.zero_count, PAGES);
    assert_eq!(report.zero_count, PAGES.div_ceil(3));
    assert!(report.sent_len > report.page_count * 4096 && report.sent_len < report.page_count * 4200 + 65536);
    // What was sent with bytes is zero now, and the other way round; the rest is not sent again.
    for page in (0..PAGES).step_by(7) {
        source.write(page, if page % 3 == 0 { 5 } else { 0 });
    }
    let report = round(source, 1);
    assert_eq!(report.page_count + report.zero_count, PAGES.div_ceil(7));
    let RoundReport { page_count, zero_count, .. } = round(source, 2);
    assert_eq!((page_count, zero_count), (0, 0));
    let states: Vec<OwnedFd> = (0..5).map(|_| memory(&[])).collect();
    for (index, memory) in (0..).zip(&states) {
        let instance = vfio(index);
        destination.give(MoverRequest::TakeState { instance }, memory.try_clone().unwrap()).unwrap();
    }
    for index in 0..5 {
        let (bytes, instance) = (state(index), vfio(index));
        let len = bytes.len() as u64;
        source.give(MoverRequest::SendState { instance, len }, memory(&bytes)).unwrap();
    }
    source.ask(MoverRequest::Say(b"last".to_vec()));
    assert_eq!(destination.notice(), MoverNotice::Heard(b"last".to_vec()));
    assert!(source.bytes() == destination.bytes(), "what the message follows is there");
    for (index, memory) in (0..).zip(states) {
        // Nobody can write it any more, from the mover or elsewhere.
        rustix::fs::fcntl_add_seals(memory.as_fd(), rustix::fs::SealFlags::WRITE).unwrap();
        let file = std::fs::File::from(memory);
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == state(index), "state {index}");
    }
    destination.ask(MoverRequest::Say(b"ready".to_vec()));
    assert_eq!(source.notice(), MoverNotice::Heard(b"ready".to_vec()));
}

fn end(mut source: Mover, mut destination: Mover) {
    destination.ask(MoverRequest::Say(b"running".to_vec()));
    destination.ask(MoverRequest::Close);
    assert_eq!(source.notice(), MoverNotice::Heard(b"running".to_vec()));
    assert_eq!(source.lost(), "the other host has closed the connection");
    source.close();
    assert_eq!(destination.notice(), MoverNotice::Closed);
}

#[test]
fn guest_moves_through_any_number_of_lanes() {
    for lane_count in [1, 2, 3, 16] {
        let (mut source, mut destination) = connected(lane_count);
        carry(&mut source, &mut destination);
        end(source, destination);
    }
}

/// Copies bytes from one socket to another, once `begin` says so.
fn relay(
    from: std::os::unix::net::UnixStream,
    to: std::os::unix::net::UnixStream,
    begin: impl FnOnce() + Send + 'static,
) {
    from.set_nonblocking(false).unwrap();
    to.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        begin();
        let (mut from, mut to) = (from, to);
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

#[test]
fn message_waits_for_the_pages_of_every_lane() {
    // More than the sockets hold, so that the source waits; and so little that only the destination can.
    message_waits(128, false);
    message_waits(65, true);
}

/// `page_count` pages through two lanes, the second of which stands still. `is_sent`: the source has sent all of it all
/// the same.
fn message_waits(page_count: u64, is_sent: bool) {
    let (mut source, mut destination) = (source(2, Security::Plain), destination());
    let (lane0, there0) = pair();
    source.give(MoverRequest::TakeLane { index: 0 }, lane0).unwrap();
    destination.give(MoverRequest::TakeLane { index: 0 }, there0).unwrap();
    // Lane 1 stands still between the two, behind its hello.
    let (lane1, near) = pair();
    let (far, there1) = pair();
    source.give(MoverRequest::TakeLane { index: 1 }, lane1).unwrap();
    destination.give(MoverRequest::TakeLane { index: 1 }, there1).unwrap();
    let mut hello = [0; 44];
    near.set_nonblocking(false).unwrap();
    (&near).read_exact(&mut hello).unwrap();
    (&far).write_all(&hello).unwrap();
    let (go, gone) = channel::<()>();
    relay(near.try_clone().unwrap(), far.try_clone().unwrap(), move || _ = gone.recv());
    relay(far, near, || {});
    await_connected(&source, &destination, 2);
    for page in 0..page_count {
        source.write(page, 3);
    }
    source.ask(MoverRequest::SendRound { round: 0 });
    source.ask(MoverRequest::Say(b"behind".to_vec()));
    if is_sent {
        assert!(matches!(source.notice(), MoverNotice::RoundSent(_)));
    }
    let early = destination.notices.recv_timeout(Duration::from_millis(500));
    assert!(early.is_err(), "{early:?}");
    go.send(()).unwrap();
    if !is_sent {
        assert!(matches!(source.notice(), MoverNotice::RoundSent(_)));
    }
    assert_eq!(destination.notice(), MoverNotice::Heard(b"behind".to_vec()));
    assert!(source.bytes() == destination.bytes());
}
