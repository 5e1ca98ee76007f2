// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One end of a connection that dies, and its next life, in front of a peer that notices nothing.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::pair::soon;
use crate::deadline::Deadline;
use crate::shm::checkpoint::Checkpoint;
use crate::shm::region::Region;
use crate::shm::transcript::{Marks, Transcript};
use crate::vfio_user::connection::{Answer, Connection, ConnectionError};
use crate::vfio_user::header::{Command, Header, Kind};

/// What the lives of one end have in common, and the peer.
struct Kept {
    memory: Region,
    socket: UnixStream,
    peer: Arc<Connection>,
    /// The peer's end, for bytes of its stream.
    raw: UnixStream,
}

impl Kept {
    fn new() -> (Self, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let raw = theirs.try_clone().unwrap();
        let kept = Self {
            memory: Checkpoint::create("test").unwrap(),
            socket: ours,
            peer: Arc::new(Connection::new(theirs.into())),
            raw,
        };
        let first = Connection::new(kept.socket.try_clone().unwrap().into());
        first.keep_in(kept.transcript()).unwrap();
        (kept, first)
    }

    fn transcript(&self) -> Transcript {
        Transcript::attach(&self.memory).unwrap()
    }

    /// The life before is over.
    fn after(&self, life: Connection) -> Connection {
        drop(life);
        self.next().unwrap()
    }

    fn next(&self) -> Result<Connection, ConnectionError> {
        Connection::resume(self.socket.try_clone().unwrap().into(), self.transcript(), soon())
    }

    /// The peer answers the next request with this; what was asked.
    fn answer(&self, with: &[u8]) -> Vec<u8> {
        let incoming = self.peer.receive(soon()).unwrap();
        if incoming.wants_reply() {
            self.peer.reply(&incoming, &[with], &[], soon()).unwrap();
        }
        incoming.body
    }

    fn assert_asked_nothing(&self) {
        let asked = self.peer.receive(Deadline::after(Duration::from_millis(20)));
        assert!(matches!(asked, Err(ConnectionError::Timeout { .. })), "{asked:?}");
    }
}

/// What an access of the guest asks for.
fn read(life: &Connection, access: u64, deadline: Deadline) -> Result<Vec<u8>, ConnectionError> {
    life.begin_access(access);
    let body = access.to_le_bytes();
    let answer = life.request_once(Command::REGION_READ, &[&body], deadline);
    answer.map(|Answer { body, .. }| body)
}

fn is_late<T>(result: &Result<T, ConnectionError>) -> bool {
    matches!(result, Err(ConnectionError::Timeout { .. }))
}

#[test]
fn access_that_was_begun_is_asked_for_once_however_many_lives_it_takes() {
    let (kept, mut life) = Kept::new();
    for access in 1..40_u64 {
        assert!(is_late(&read(&life, access, Deadline::now())), "sent, and not answered");
        life = kept.after(life);
        assert!(is_late(&read(&life, access, Deadline::now())), "still not");
        life = kept.after(life);
        let reply = [b'a', u8::try_from(access).unwrap()];
        assert_eq!(kept.answer(&reply), access.to_le_bytes());
        for _ in 0..3 {
            assert_eq!(read(&life, access, soon()).unwrap(), reply);
            // It dies before that is out of the ring.
            life = kept.after(life);
        }
        if access % 2 == 0 {
            read(&life, access, soon()).unwrap();
            life.end_access();
        }
        kept.assert_asked_nothing();
    }
}

#[test]
fn reply_to_an_access_that_is_out_of_the_ring_is_no_other_accesses() {
    let (kept, life) = Kept::new();
    assert!(is_late(&read(&life, 5, Deadline::now())));
    let life = kept.after(life);
    // The same registers, and another access.
    let peer = Arc::clone(&kept.peer);
    let answering = thread::spawn(move || {
        for reply in [b"old", b"new"] {
            let incoming = peer.receive(soon()).unwrap();
            peer.reply(&incoming, &[reply], &[], soon()).unwrap();
        }
    });
    assert_eq!(read(&life, 6, soon()).unwrap(), b"new");
    answering.join().unwrap();
    life.end_access();
    // One of another kind is another request, though it is of the same access.
    assert!(is_late(&read(&life, 7, Deadline::now())));
    let life = kept.after(life);
    life.begin_access(7);
    assert!(is_late(&life.request_once(Command::DEVICE_RESET, &[], Deadline::now())));
    assert_eq!((kept.answer(b""), kept.answer(b"")), (7_u64.to_le_bytes().to_vec(), Vec::new()));
}

#[test]
fn write_that_was_posted_is_not_posted_again() {
    let (kept, mut life) = Kept::new();
    for access in 1..20_u64 {
        let body = access.to_le_bytes();
        for _ in 0..3 {
            life.begin_access(access);
            life.post_once(Command::REGION_WRITE, &[&body], soon()).unwrap();
            life = kept.after(life);
        }
        assert_eq!(kept.answer(b""), body);
        kept.assert_asked_nothing();
    }
}

#[test]
fn command_of_the_peer_is_answered_by_the_next_life_once_and_before_anything_is_asked() {
    let (kept, mut life) = Kept::new();
    for number in 0..20_u8 {
        let peer = Arc::clone(&kept.peer);
        let asking = thread::spawn(move || {
            let bodies = [[number, 1], [number, 2]];
            let asked = bodies.map(|body| peer.begin(Command::DMA_READ, &[&body], &[], soon()).unwrap());
            asked.map(|pending| peer.finish(pending, soon()).map(|answer| answer.body))
        });
        let taken = life.receive(soon()).unwrap();
        assert_eq!(taken.body, [number, 1]);
        life = kept.after(life);
        let taken = life.receive(soon()).unwrap();
        assert_eq!(taken.body, [number, 1], "it comes again");
        let short = Deadline::after(Duration::from_millis(5));
        assert!(is_late(&life.request(Command::DEVICE_GET_INFO, &[], &[], short)));
        life.reply(&taken, &[b"first"], &[], soon()).unwrap();
        life = kept.after(life);
        let taken = life.receive(soon()).unwrap();
        assert_eq!(taken.body, [number, 2], "what was answered does not");
        life.fail(&taken, rustix::io::Errno::FAULT, soon()).unwrap();
        life = kept.after(life);
        assert!(is_late(&life.receive(Deadline::now())));
        let [first, second] = asking.join().unwrap();
        assert_eq!(first.unwrap(), b"first");
        assert!(matches!(second, Err(ConnectionError::Remote { .. })), "{second:?}");
        assert!(is_late(&life.request(Command::DEVICE_GET_INFO, &[], &[], Deadline::now())));
        kept.answer(b"info");
    }
}

#[test]
fn message_that_came_in_part_is_gone_on_with_at_every_byte() {
    let (mut kept, mut life) = Kept::new();
    let body = b"twelve bytes";
    let header = Header { id: 3, command: Command::DMA_WRITE, kind: Kind::Posted, body_len: body.len() };
    let message = [&header.encode().unwrap()[..], body].concat();
    for cut in 0..=message.len() {
        kept.raw.write_all(&message[..cut]).unwrap();
        let before = life.receive(Deadline::after(Duration::from_millis(2)));
        assert_eq!(is_late(&before), cut < message.len());
        life = kept.after(life);
        kept.raw.write_all(&message[cut..]).unwrap();
        let incoming = life.receive(soon()).unwrap();
        assert_eq!(incoming.body, body, "{cut}");
        life.reply(&incoming, &[], &[], soon()).unwrap();
        life = kept.after(life);
        assert!(is_late(&life.receive(Deadline::now())), "{cut}");
    }
}

#[test]
fn message_whose_descriptors_died_before_its_first_byte_is_not_sent() {
    let (kept, life) = Kept::new();
    drop(life);
    let (mut said, _, _) = kept.transcript().resume().unwrap();
    let header = Header { id: 1, command: Command::DEVICE_SET_IRQS, kind: Kind::Command, body_len: 0 };
    said.stage(&[&header.encode().unwrap()], true, &Marks::default());
    let life = kept.next().unwrap();
    kept.assert_asked_nothing();
    drop(life);
    let (mut said, _, _) = kept.transcript().resume().unwrap();
    said.stage(&[&header.encode().unwrap()], false, &Marks::default());
    let _life = kept.next().unwrap();
    assert_eq!(kept.answer(b""), b"", "one without any is");
}

#[test]
fn connection_in_the_middle_of_something_is_not_kept_and_one_that_was_handed_over_not_gone_on_with() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (life, peer) = (Connection::new(ours.into()), Connection::new(theirs.into()));
    let memory = Checkpoint::create("test").unwrap();
    let _asked = peer.begin(Command::DMA_READ, &[], &[], soon()).unwrap();
    let taken = life.receive(soon()).unwrap();
    let transcript = || Transcript::attach(&memory).unwrap();
    assert_eq!(life.keep_in(transcript()).unwrap_err().commands, 1);
    life.reply(&taken, &[], &[], soon()).unwrap();
    life.keep_in(transcript()).unwrap();

    let (kept, life) = Kept::new();
    life.park();
    let why = kept.next().unwrap_err().to_string();
    assert!(why.contains("another process's"), "{why}");
    life.unpark();
    kept.next().unwrap();
}
