// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stream that one life after the other goes on with.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;

use super::*;
use crate::shm::checkpoint::Checkpoint;

struct Stream {
    memory: Region,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Stream {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        Self { memory: Checkpoint::create("test").unwrap(), ours, theirs }
    }

    fn transcript(&self) -> Transcript {
        Transcript::attach(&self.memory).unwrap()
    }
}

fn marks(number: u64) -> Marks {
    let [low, ..] = number.to_le_bytes();
    let half = u16::from(low);
    Marks {
        answered: number,
        access: number + 1,
        request: half,
        command: 9,
        is_posted: true,
        last_id: half + 7,
    }
}

#[test]
fn message_that_was_staged_is_sent_by_the_next_life_as_far_as_it_was_not_yet() {
    // Longer than a socket takes at once: some of it is sent.
    let message: Vec<u8> = (0..1_000_003_u32).map(|at| at.to_le_bytes()[usize::from(at % 3 == 0)]).collect();
    let mut stream = Stream::new();
    let (mut said, _) = stream.transcript().begin(0);
    said.stage(&[&message[..5], &message[5..]], false, &marks(1));
    drop(said);
    let (mut received, mut lives) = (Vec::new(), 0);
    loop {
        let (mut said, _, left) = stream.transcript().resume().unwrap();
        assert_eq!(left.marks, marks(1));
        if said.is_done() {
            break;
        }
        lives += 1;
        match said.send(stream.ours.as_fd(), &[]) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let mut piece = vec![0; 70_001];
                let len = stream.theirs.read(&mut piece).unwrap();
                received.extend_from_slice(&piece[..len]);
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    drop(stream.ours);
    stream.theirs.read_to_end(&mut received).unwrap();
    assert!(received == message, "{lives} lives");
    assert!(lives > 5, "it was sent at once");
}

#[test]
fn marks_count_with_the_message_that_they_are_of_and_not_before() {
    let stream = Stream::new();
    let (mut said, _) = stream.transcript().begin(0);
    let left = || stream.transcript().resume().unwrap().2.marks;
    assert_eq!(left(), Marks::default());
    said.stage(&[b"one"], false, &marks(1));
    assert_eq!(left(), marks(1));
    said.send(stream.ours.as_fd(), &[]).unwrap();
    assert!(said.is_done() && said.is_begun());
    assert_eq!(left(), marks(1));
    said.note(&marks(2));
    assert!(said.is_done() && said.is_begun(), "nothing is sent for it");
    assert_eq!(left(), marks(2));
    said.stage(&[b"two"], true, &marks(3));
    assert!(!said.is_done() && !said.is_begun() && said.has_fds());
    said.withdraw(&marks(2));
    assert!(said.is_done() && !said.has_fds());
    assert_eq!(left(), marks(2));
}

#[test]
fn received_bytes_are_found_by_the_next_life_from_the_floor_on() {
    let mut stream = Stream::new();
    let (_, mut heard) = stream.transcript().begin(100);
    let mut piece = [0; 10];
    stream.theirs.write_all(b"abcdefghijklmnopqrstuvwxyz").unwrap();
    assert_eq!(heard.receive(stream.ours.as_fd(), 100, &mut piece).unwrap().len, 10);
    assert_eq!(&piece, b"abcdefghij");
    let (_, mut heard, left) = stream.transcript().resume().unwrap();
    assert_eq!((left.floor, &left.heard[..]), (100, &b"abcdefghij"[..]));
    assert_eq!(heard.receive(stream.ours.as_fd(), 103, &mut piece[..3]).unwrap().len, 3);
    let (_, mut heard, left) = stream.transcript().resume().unwrap();
    assert_eq!((left.floor, &left.heard[..]), (103, &b"defghijklm"[..]));
    // Nothing is needed any more: what comes next goes to the beginning.
    assert_eq!(heard.receive(stream.ours.as_fd(), 113, &mut piece).unwrap().len, 10);
    let (_, mut heard, left) = stream.transcript().resume().unwrap();
    assert_eq!((left.floor, &left.heard[..]), (113, &b"nopqrstuvw"[..]));
    assert_eq!(heard.receive(stream.ours.as_fd(), 120, &mut piece).unwrap().len, 3);
    assert_eq!(heard.receive(stream.ours.as_fd(), 120, &mut piece).unwrap_err(), Errno::AGAIN);
    drop(stream.theirs);
    assert_eq!(heard.receive(stream.ours.as_fd(), 120, &mut piece).unwrap().len, 0);
    assert_eq!(stream.memory.len(), crate::shm::checkpoint::CHECKPOINT_LEN);
}

#[test]
fn room_is_made_over_what_is_done_with_and_refused_where_there_is_none() {
    const PIECE_LEN: usize = 1 << 20;
    let capacity = IN_WORDS * 8 / PIECE_LEN;
    let stream = Stream::new();
    let (_, mut heard) = stream.transcript().begin(0);
    let mut piece = vec![0; PIECE_LEN];
    let mut position = 0;
    let mut receive = |heard: &mut Heard, floor: u64, byte: u8| {
        let mut writer = stream.theirs.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&vec![byte; PIECE_LEN]).unwrap());
            let end = position + PIECE_LEN as u64;
            while position < end {
                let wanted = usize::try_from(end - position).unwrap();
                match heard.receive(stream.ours.as_fd(), floor, &mut piece[..wanted]) {
                    Ok(received) => position += received.len as u64,
                    Err(Errno::AGAIN) => std::thread::yield_now(),
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        })
    };
    for byte in 0..capacity {
        receive(&mut heard, 5, u8::try_from(byte).unwrap()).unwrap();
    }
    let mut one = [0; 1];
    assert_eq!(heard.receive(stream.ours.as_fd(), 5, &mut one).unwrap_err(), Errno::NOBUFS, "all is needed");
    // A life that dies when it has moved what is needed, and not said so yet.
    let [position, floor] = [0, 10].map(|behind| (capacity * PIECE_LEN - behind) as u64);
    heard.make_room(position, floor, PIECE_LEN);
    let (.., left) = stream.transcript().resume().unwrap();
    assert_eq!((left.floor, &left.heard[..]), (floor, &[u8::try_from(capacity - 1).unwrap(); 10][..]));
    // But for the last bytes.
    let floor = (capacity * PIECE_LEN - 3) as u64;
    receive(&mut heard, floor, 77).unwrap();
    let (.., left) = stream.transcript().resume().unwrap();
    assert_eq!((left.floor, left.heard.len()), (floor, 3 + PIECE_LEN));
    assert_eq!(left.heard[..3], [u8::try_from(capacity - 1).unwrap(); 3]);
    assert!(left.heard[3..].iter().all(|byte| *byte == 77));
}

#[test]
fn descriptors_go_with_the_first_byte_and_come_with_the_piece_that_they_were_sent_with() {
    let stream = Stream::new();
    let back = Stream::new();
    let (mut said, _) = stream.transcript().begin(0);
    let (_, mut heard) = back.transcript().begin(0);
    let sent: Vec<UnixStream> = (0..2).flat_map(|_| <[_; 2]>::from(UnixStream::pair().unwrap())).collect();
    for count in [1, 2, 3] {
        let fds: Vec<_> = sent.iter().take(count).map(std::os::fd::AsFd::as_fd).collect();
        said.stage(&[b"with"], true, &Marks::default());
        said.send(stream.ours.as_fd(), &fds).unwrap();
        let mut piece = [0; 64];
        let received = heard.receive(stream.theirs.as_fd(), u64::MAX, &mut piece).unwrap();
        assert_eq!((received.len, received.fds.len(), received.is_truncated), (4, count, false));
        for (fd, sent) in received.fds.iter().zip(&sent) {
            assert_ne!(fd.as_raw_fd(), sent.as_raw_fd());
            let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
            assert_eq!(inode(fd), inode(sent));
        }
    }
    said.stage(&[b"none"], false, &Marks::default());
    said.send(stream.ours.as_fd(), &[]).unwrap();
    let received = heard.receive(stream.theirs.as_fd(), u64::MAX, &mut [0; 64]).unwrap();
    assert_eq!((received.len, received.fds.len()), (4, 0));
}

#[test]
fn transcript_that_no_life_has_left_so_is_refused() {
    let stream = Stream::new();
    let why = || stream.transcript().resume().err();
    assert!(why().unwrap().contains("before the guest began"));
    let (said, heard) = stream.transcript().begin(7);
    assert_eq!(why(), None);
    heard.set_handed_over(true);
    assert!(why().unwrap().contains("another process's"));
    heard.set_handed_over(false);
    assert_eq!(why(), None);
    let (said_slot, heard_slot) = (SAID + 1 + said.turn * SLOT_WORDS, HEARD + 1 + heard.turn * SLOT_WORDS);
    for (word, value) in [
        (said_slot + START, 1),
        (said_slot + COUNT, 1),
        (said_slot + END, MESSAGE_LEN_MAX as u64 + 1),
        (said_slot + END, u64::MAX),
        (heard_slot + FLOOR, 8),
        (heard_slot + ORIGIN, 8),
        (heard_slot + START, 6),
        (heard_slot + START, u64::MAX),
        (heard_slot + COUNT, u64::from(u32::MAX)),
    ] {
        let transcript = stream.transcript();
        let before = transcript.load(word);
        transcript.store(word, value);
        assert!(why().is_some(), "word {word}: {value:#x}");
        transcript.store(word, before);
        assert_eq!(why(), None);
    }
    let short = Region::create("short", 4096).unwrap();
    assert!(Transcript::attach(&short).is_err());
}
