// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Another host, which is this test: it takes every page that a migration sends it, and never takes the guest.
//!
//! What the rounds have brought is what the owed map had, and that is what the dirty logs had. When the source says
//! that nothing more follows, its guest stands still: each page of its RAM is then held against the copy that is here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use ipc::migration::frame::{Hello, Kind};
use ipc::migration::pages::{PagesHead, Stretch, zero_pages};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_main::migration::message::{Message, Session};

use crate::lane::Lane;
use crate::support::COMMAND;

/// Why it does not take the guest.
pub const REASON: &str = "the guest was only looked at";

const PAGE: usize = 4096;
const ZERO: [u8; PAGE] = [0; PAGE];

/// The host.
pub struct AnotherHost {
    waits: Arc<Waits>,
    go_on: Sender<()>,
    thread: JoinHandle<Received>,
}

/// What it waits for the test to say.
#[derive(Default)]
struct Waits {
    /// Whether it accepts.
    to_accept: AtomicBool,
    /// That it reads on, behind the first round.
    to_read_on: AtomicBool,
}

/// What has come.
pub struct Received {
    /// How many pages each round had; the first has all.
    pub rounds: Vec<usize>,
    /// Of those behind the first round, the pages that were as they are in the copy already.
    pub unchanged: usize,
    /// Pages of RAM, by number, that are not what has come.
    pub missing: Vec<usize>,
}

struct Copy {
    bytes: Vec<u8>,
    rounds: Vec<usize>,
    count: usize,
    unchanged: usize,
}

impl AnotherHost {
    /// Waits at this socket for the guest whose RAM is in this file.
    pub fn listen(socket: &Path, ram: File) -> Self {
        Self::start(socket, ram, false)
    }

    /// The same; behind the first round it reads no more until [`Self::go_on`]: the source cannot send another whole
    /// one.
    pub fn listen_and_hold(socket: &Path, ram: File) -> Self {
        Self::start(socket, ram, true)
    }

    fn start(socket: &Path, ram: File, holds: bool) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let waits = Arc::new(Waits::default());
        let (go_on, told) = mpsc::channel();
        let theirs = Arc::clone(&waits);
        Self { waits, go_on, thread: thread::spawn(move || receive(&listener, &ram, holds, &theirs, &told)) }
    }

    /// Whether the source waits to hear that this host can take its guest: its writes are logged by then.
    pub fn is_asked(&self) -> bool {
        self.waits.to_accept.load(Ordering::SeqCst)
    }

    /// Whether it has the first round, and reads no more.
    pub fn holds(&self) -> bool {
        self.waits.to_read_on.load(Ordering::SeqCst)
    }

    /// Says that it can take the guest; or reads on.
    pub fn go_on(&self) {
        self.go_on.send(()).unwrap();
    }

    /// All that has come, once the migration has ended.
    pub fn received(self) -> Received {
        self.thread.join().unwrap()
    }
}

fn receive(listener: &UnixListener, ram: &File, holds: bool, waits: &Waits, told: &Receiver<()>) -> Received {
    let span = Timespec { tv_sec: COMMAND.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let came = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&span)).unwrap();
    assert_eq!(came, 1, "nobody connects");
    let mut lane = Lane::greet(listener.accept().unwrap().0, COMMAND);
    let (_, hello) = lane.next();
    lane.send(Kind::Hello, &hello);
    let mut session = Session::destination(b"", Hello::decode(&hello).unwrap().migration, [3; 16]).unwrap();
    let len = ram.metadata().unwrap().len();
    let mut copy =
        Copy { bytes: vec![0; usize::try_from(len).unwrap()], rounds: Vec::new(), count: 0, unchanged: 0 };
    loop {
        let (kind, body) = lane.next();
        match kind {
            Kind::Pages => {
                let (head, bytes) = PagesHead::decode(&body).unwrap();
                let pages = bytes.chunks_exact(PAGE);
                numbers(head.stretch).zip(pages).for_each(|(number, page)| copy.take(number, page));
            }
            Kind::ZeroPages => {
                zero_pages(&body).unwrap().flat_map(numbers).for_each(|number| copy.take(number, &ZERO));
            }
            Kind::EndOfRound => {
                copy.rounds.push(std::mem::take(&mut copy.count));
                // The source waits for a sign of life for half a minute.
                lane.send(Kind::Alive, &[]);
                if holds && copy.rounds.len() == 1 {
                    waits.to_read_on.store(true, Ordering::SeqCst);
                    told.recv_timeout(COMMAND).unwrap();
                }
            }
            Kind::Message => {
                let answer = match session.open(&body).unwrap() {
                    Message::Offer(_) => {
                        waits.to_accept.store(true, Ordering::SeqCst);
                        told.recv_timeout(COMMAND).unwrap();
                        Message::Accept
                    }
                    Message::Last { .. } => {
                        let missing = copy.differences(ram);
                        lane.send(Kind::Message, &session.seal(&Message::Failed(REASON.into())).unwrap());
                        lane.await_end();
                        let Copy { rounds, unchanged, .. } = copy;
                        return Received { rounds, unchanged, missing };
                    }
                    other => panic!("{other:?} after rounds of {:?} pages", copy.rounds),
                };
                lane.send(Kind::Message, &session.seal(&answer).unwrap());
            }
            Kind::Unit | Kind::Alive => {}
            Kind::Hello | Kind::PackedPages => panic!("{kind:?} has no place here"),
        }
    }
}

/// The pages, by number: the machine has one piece of RAM.
fn numbers(stretch: Stretch) -> impl Iterator<Item = usize> {
    let first = usize::try_from(stretch.word).unwrap() * 64;
    (0..64).filter(move |bit| stretch.pages >> bit & 1 != 0).map(move |bit| first + bit)
}

impl Copy {
    fn take(&mut self, number: usize, page: &[u8]) {
        let place = &mut self.bytes[number * PAGE..][..PAGE];
        self.count += 1;
        self.unchanged += usize::from(!self.rounds.is_empty() && place == page);
        place.copy_from_slice(page);
    }

    fn differences(&self, ram: &File) -> Vec<usize> {
        let mut now = vec![0; self.bytes.len()];
        ram.read_exact_at(&mut now, 0).unwrap();
        let pages = now.chunks(PAGE).zip(self.bytes.chunks(PAGE)).enumerate();
        pages.filter(|(_, (now, copied))| now != copied).map(|(number, _)| number).collect()
    }
}
