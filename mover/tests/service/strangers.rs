// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whoever connects to a destination and is no source, or stops being one: closed or named, and nothing is begun by it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ipc::migration::frame::{BODY_LEN_MAX, EndOfRound, Header, Hello, Kind, MigrationId};
use ipc::migration::pages::{PagesHead, Stretch};
use ipc::migration::unit::PieceHead;
use ipc::protocol::mover::{MESSAGES_MAX, MoverNotice, MoverRequest, Security};

use crate::{MIGRATION, Mover, PATIENCE, connected, destination, memory, moves, pair, source, vfio};

/// Somebody at the other end of a connection, who writes what he likes.
struct Peer {
    socket: UnixStream,
    sequence: u64,
}

fn frame(kind: Kind, sequence: u64, body: &[u8]) -> Vec<u8> {
    [&Header::of(kind, sequence, &[body]).to_bytes()[..], body].concat()
}

fn hello(migration: MigrationId, lane: u8, lane_count: u8) -> Vec<u8> {
    Hello { migration, lane, lane_count }.to_bytes().to_vec()
}

impl Peer {
    fn connect(to: &mut Mover) -> Peer {
        let (here, there) = pair();
        to.give(MoverRequest::TakeLane { index: 0 }, there).unwrap();
        Peer::over(here)
    }

    fn over(socket: UnixStream) -> Peer {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer { socket, sequence: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        // It may have been closed already.
        let _ = self.socket.write_all(bytes);
    }

    fn send(&mut self, kind: Kind, body: &[u8]) {
        let bytes = frame(kind, self.sequence, body);
        self.sequence += 1;
        self.write(&bytes);
    }

    fn is_closed(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let read = (&self.socket).read(&mut [0]);
        self.socket.set_nonblocking(false).unwrap();
        !read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn assert_closed(mut self, why: &str) {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let end = self.socket.read_to_end(&mut rest);
        let closed = end.is_ok() || begun.elapsed() < PATIENCE / 2;
        assert!(closed && rest.is_empty(), "{why}: {end:?}, {rest:x?}");
    }

    /// A source that was answered.
    fn greeted(to: &mut Mover) -> Peer {
        let mut peer = Peer::connect(to);
        peer.send(Kind::Hello, &hello(MIGRATION, 0, 1));
        let mut answer = [0; 44];
        peer.socket.read_exact(&mut answer).unwrap();
        assert_eq!(to.notice(), MoverNotice::Connected { migration: MIGRATION, lane_count: 1 });
        peer
    }
}

#[test]
fn stranger_is_closed_and_the_source_that_comes_then_is_taken() {
    let mut there = destination();
    let mut wrong_version = frame(Kind::Hello, 0, &hello(MIGRATION, 0, 1));
    wrong_version[4] = 9;
    let mut too_long = wrong_version.clone();
    too_long[4] = 1;
    too_long[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_lanes = hello(MIGRATION, 0, 1);
    no_lanes[17] = 0;
    let strangers = [
        ("garbage", b"GET / HTTP/1.1\r\nHost: bulkhead\r\n\r\n".to_vec()),
        ("another version", wrong_version),
        ("a body of 4 GiB", too_long),
        ("a message first", frame(Kind::Message, 0, b"commit")),
        ("pages first", frame(Kind::Pages, 0, &[0; 4120])),
        ("no lane at all", frame(Kind::Hello, 0, &no_lanes)),
        ("a hello that is cut", frame(Kind::Hello, 0, &hello(MIGRATION, 0, 1)[..19])),
        ("another frame's number", frame(Kind::Hello, 1, &hello(MIGRATION, 0, 1))),
    ];
    for (what, bytes) in strangers {
        let mut peer = Peer::connect(&mut there);
        peer.write(&bytes);
        peer.assert_closed(what);
    }
    // One that leaves in the middle of its hello, and one that says nothing.
    Peer::connect(&mut there).write(&frame(Kind::Hello, 0, &hello(MIGRATION, 0, 1))[..30]);
    let silent = Peer::connect(&mut there);
    let mut here = source(1, Security::Plain);
    let (near, far) = pair();
    here.give(MoverRequest::TakeLane { index: 0 }, near).unwrap();
    there.give(MoverRequest::TakeLane { index: 0 }, far).unwrap();
    crate::await_connected(&here, &there, 1);
    silent.assert_closed("a migration has begun without him");
    moves::carry(&mut here, &mut there);
}

#[test]
fn first_whole_migration_is_taken_and_every_other_one_closed() {
    let mut there = destination();
    let other = MigrationId([9; 16]);
    let mut half = Peer::connect(&mut there);
    half.send(Kind::Hello, &hello(other, 1, 2));
    let mut first = Peer::connect(&mut there);
    first.send(Kind::Hello, &hello(MIGRATION, 0, 2));
    // The same lane again, and one of as many lanes as are not said elsewhere.
    let mut again = Peer::connect(&mut there);
    again.send(Kind::Hello, &hello(other, 1, 2));
    // Whichever of the two is heard second.
    let begun = Instant::now();
    let half = loop {
        match [&half, &again].map(Peer::is_closed) {
            [true, false] => break again,
            [false, true] => break half,
            closed => assert!(closed == [false; 2] && begun.elapsed() < PATIENCE, "{closed:?}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut three = Peer::connect(&mut there);
    three.send(Kind::Hello, &hello(MIGRATION, 1, 3));
    let mut second = Peer::connect(&mut there);
    second.send(Kind::Hello, &hello(MIGRATION, 1, 2));
    assert_eq!(there.notice(), MoverNotice::Connected { migration: MIGRATION, lane_count: 2 });
    for (lane, peer) in [&mut first, &mut second].into_iter().enumerate() {
        let mut answer = [0; 44];
        peer.socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer[24..], hello(MIGRATION, lane as u8, 2), "each lane is answered");
    }
    half.assert_closed("its migration is not whole");
    three.assert_closed("nor is his");
    for _ in 0..CONNECTIONS {
        Peer::connect(&mut there).assert_closed("a migration is under way");
    }
    first.send(Kind::Message, b"all the same");
    assert_eq!(there.notice(), MoverNotice::Heard(b"all the same".to_vec()));
    there.ask(MoverRequest::Close);
    Peer::connect(&mut there).assert_closed("the migration is over");
    drop((first, second));
    assert_eq!(there.notice(), MoverNotice::Closed);
}

/// More than a destination lets wait, looked at and not.
const CONNECTIONS: usize = 100;

#[test]
fn strangers_that_fill_every_place_are_bounded_and_leave_it_free() {
    let mut there = destination();
    let peers: Vec<Peer> = (0..CONNECTIONS).map(|_| Peer::connect(&mut there)).collect();
    let waiting = peers.iter().filter(|peer| !peer.is_closed()).count();
    assert!(waiting <= 64, "{waiting} are waited for");
    drop(peers);
    let begun = Instant::now();
    let source = loop {
        let mut peer = Peer::connect(&mut there);
        peer.send(Kind::Hello, &hello(MIGRATION, 0, 1));
        if peer.socket.read_exact(&mut [0; 44]).is_ok() {
            break peer;
        }
        assert!(begun.elapsed() < PATIENCE, "their places stay taken");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(there.notice(), MoverNotice::Connected { migration: MIGRATION, lane_count: 1 });
    drop(source);
}

#[test]
fn source_that_breaks_the_format_is_lost_with_what_it_did() {
    let piece = |instance, offset, is_last, bytes: &[u8]| {
        [&PieceHead { instance, offset, is_last }.to_bytes()[..], bytes].concat()
    };
    let pages = |word, pages| {
        let head = PagesHead { stretch: Stretch { word, pages } };
        [&head.to_bytes()[..], &vec![7; head.stretch.byte_len()]].concat()
    };
    let end = |round, page_count| EndOfRound { round, page_count }.to_bytes().to_vec();
    type Frames = Vec<(Kind, Vec<u8>)>;
    let cases: [(&str, Frames); 14] = [
        ("not all RAM", vec![(Kind::Pages, pages(33, 1 << 5))]),
        ("not all RAM", vec![(Kind::Pages, pages(1 << 60, 1))]),
        ("not all RAM", vec![(Kind::ZeroPages, [u64::MAX.to_le_bytes(), [0xff; 8]].concat())]),
        ("Pages, bytes", vec![(Kind::Pages, pages(0, 3)[..5000].to_vec())]),
        ("round 1 where 0 is due", vec![(Kind::EndOfRound, end(1, 0))]),
        ("round 0 where 1 is due", vec![(Kind::EndOfRound, end(0, 0)), (Kind::EndOfRound, end(0, 0))]),
        ("sent 2 pages, 1 have come", vec![(Kind::Pages, pages(0, 1)), (Kind::EndOfRound, end(0, 2))]),
        ("vfio1, which is not expected", vec![(Kind::Unit, piece(vfio(1), 0, false, b"x"))]),
        (
            "from 0x2 on, where 0x1",
            vec![(Kind::Unit, piece(vfio(0), 0, false, b"x")), (Kind::Unit, piece(vfio(0), 2, false, b"y"))],
        ),
        (
            "has come already",
            vec![(Kind::Unit, piece(vfio(0), 0, true, b"x")), (Kind::Unit, piece(vfio(0), 1, true, b"y"))],
        ),
        ("Hello where it has no place", vec![(Kind::Hello, hello(MIGRATION, 0, 1))]),
        ("Alive where it has no place", vec![(Kind::Alive, vec![0])]),
        ("at most", vec![(Kind::Message, vec![0; 64 << 10])]),
        ("more than 64 messages", vec![(Kind::Message, b"hello".to_vec()); MESSAGES_MAX + 1]),
    ];
    for (why, frames) in cases {
        let mut there = destination();
        there.give(MoverRequest::TakeState { instance: vfio(0) }, memory(&[])).unwrap();
        let mut peer = Peer::greeted(&mut there);
        for (kind, body) in frames {
            peer.send(kind, &body);
        }
        let reason = loop {
            match there.notice() {
                MoverNotice::LinkLost(reason) => break reason,
                MoverNotice::Heard(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(reason.contains(why), "{why}: {reason}");
        there.close();
    }
}

#[test]
fn source_whose_bytes_are_cut_or_changed_is_lost() {
    let whole = frame(Kind::Message, 1, b"a message that is changed");
    let cut = |len: usize| whole[..len].to_vec();
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for (bytes, why) in [
        (cut(0), "has closed the connection"),
        (cut(1), "is lost"),
        (cut(24), "is lost"),
        (cut(30), "is lost"),
        (changed(0), "no migration stream"),
        (changed(6), ""),
        (changed(9), "is due"),
        (changed(30), "checksum"),
        (vec![0; BODY_LEN_MAX], "no migration stream"),
    ] {
        let mut there = destination();
        let mut peer = Peer::greeted(&mut there);
        peer.write(&bytes);
        let _ = peer.socket.shutdown(std::net::Shutdown::Write);
        let reason = there.lost();
        assert!(reason.contains(why), "{why}: {reason}");
    }
}

#[test]
fn lane_that_is_lost_alone_is_noticed() {
    for lost in [0_u8, 1] {
        let mut there = destination();
        let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(&mut there)).collect();
        for (lane, peer) in (0..).zip(&mut peers) {
            peer.send(Kind::Hello, &hello(MIGRATION, lane, 2));
        }
        assert_eq!(there.notice(), MoverNotice::Connected { migration: MIGRATION, lane_count: 2 });
        drop(peers.remove(lost.into()));
        assert!(there.lost().contains("connection"), "lane {lost}");
        drop(peers);
    }
    let (here, there) = connected(2);
    drop(there);
    assert!(here.lost().contains("connection"));
}
