// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device of counters behind a real ring.

use std::sync::mpsc;

use ipc::shm::region::Region;
use ipc::shm::ring::{self, Requester, RingError};

use super::*;

/// Work to do, what was done, and what the notes were.
#[derive(Default)]
struct Counters {
    accesses: AtomicU32,
    work: AtomicU32,
    done: AtomicU32,
    /// Held, an access does not end.
    stuck: Mutex<()>,
    answered: AtomicU32,
    /// Held, what follows an answer does not end.
    stuck_answered: Mutex<()>,
    /// Accesses that had come before each note was dealt with.
    noted: Mutex<Vec<(u32, u32)>>,
}

impl RingDevice for Counters {
    fn access(&self, access: Access) -> u64 {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.stuck));
        if access.offset == 8 {
            self.work.fetch_add(3, Ordering::SeqCst);
        }
        u64::from(self.done.load(Ordering::SeqCst))
    }

    fn taken(&self, _sequence: u64) {}

    fn answered(&self) {
        drop(lock(&self.stuck_answered));
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    fn step(&self) -> Step {
        let taken = self.work.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |work| work.checked_sub(1));
        if taken.is_err() {
            return Step::Idle;
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        Step::More
    }

    fn emptied(&self, notes: u32) {
        if notes != 0 {
            lock(&self.noted).push((notes, self.accesses.load(Ordering::SeqCst)));
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

struct Rig {
    device: Arc<Counters>,
    thread: RingThread,
    guest: Requester,
    violations: mpsc::Receiver<String>,
}

impl Rig {
    fn new() -> Rig {
        Rig::over(ring::create("ring").unwrap())
    }

    fn over(ring: Region) -> Rig {
        let guest = Requester::attach(&ring, Duration::ZERO).unwrap();
        let responder = Responder::attach(&ring, 1, Duration::ZERO).unwrap();
        let device = Arc::<Counters>::default();
        let (tell, violations) = mpsc::channel();
        let on_violation = move |violation: &Violation| tell.send(violation.to_string()).unwrap();
        let thread = RingThread::start(Arc::clone(&device), responder, Duration::from_secs(20), on_violation);
        let rig = Rig { device, thread: thread.unwrap(), guest, violations };
        rig.thread.go();
        rig
    }

    fn write(&self, offset: u64) {
        self.guest.write(0, offset, 4, 0, &Interrupt::new(), soon()).unwrap();
    }

    fn post(&self, offset: u64) {
        self.guest.post(0, offset, 4, 0, &Interrupt::new(), soon()).unwrap();
    }

    fn done(&self) -> u32 {
        self.device.done.load(Ordering::SeqCst)
    }
}

#[test]
fn parked_thread_answers_nothing_before_it_goes() {
    let ring = ring::create("ring").unwrap();
    let guest = Requester::attach(&ring, Duration::ZERO).unwrap();
    let responder = Responder::attach(&ring, 1, Duration::ZERO).unwrap();
    let device = Arc::<Counters>::default();
    let thread = RingThread::start(Arc::clone(&device), responder, Duration::from_secs(20), |_| {}).unwrap();
    guest.post(0, 8, 4, 0, &Interrupt::new(), soon()).unwrap();
    thread.notes().wake();
    let unanswered = guest.write(0, 8, 4, 0, &Interrupt::new(), Deadline::after(Duration::from_millis(50)));
    let Err(RingError::Unfinished { pending, .. }) = unanswered else { panic!("{unanswered:?}") };
    assert_eq!(device.accesses.load(Ordering::SeqCst), 0);
    thread.go();
    guest.wait(pending, &Interrupt::new(), soon()).unwrap();
    thread.set_mode(Mode::Paused).unwrap();
    assert_eq!((device.accesses.load(Ordering::SeqCst), device.done.load(Ordering::SeqCst)), (2, 6));
}

#[test]
fn parked_thread_ends_when_it_is_told_to() {
    let ring = ring::create("ring").unwrap();
    let responder = Responder::attach(&ring, 1, Duration::ZERO).unwrap();
    let device = Arc::<Counters>::default();
    let mut thread = RingThread::start(device, responder, Duration::from_secs(20), |_| {}).unwrap();
    thread.end();
    assert!(thread.thread.is_none(), "it is joined");
}

#[test]
fn pause_empties_the_ring_and_finishes_the_work_and_begins_none() {
    let rig = Rig::new();
    (0..5).for_each(|_| rig.post(8));
    rig.thread.set_mode(Mode::Paused).unwrap();
    assert_eq!((rig.device.accesses.load(Ordering::SeqCst), rig.done()), (5, 15));
    rig.write(8);
    assert_eq!(rig.done(), 15, "answered, but no work is begun");
    rig.thread.set_mode(Mode::Paused).unwrap();
    assert_eq!(rig.done(), 18, "a second pause finishes what came since");
    rig.write(8);
    rig.thread.set_mode(Mode::Running).unwrap();
    rig.thread.set_mode(Mode::Paused).unwrap();
    assert_eq!(rig.done(), 21);
}

#[test]
fn device_hears_of_each_answer_when_the_guest_has_it() {
    let rig = Rig::new();
    let answered = || rig.device.answered.load(Ordering::SeqCst);
    // The thread is waiting, or about to: then it takes accesses that are there already; and those before a pause.
    let held = lock(&rig.device.stuck_answered);
    rig.write(0);
    assert_eq!(answered(), 0, "the guest has its answer, and the device has not heard of it");
    (0..3).for_each(|_| rig.post(0));
    drop(held);
    rig.thread.set_mode(Mode::Paused).unwrap();
    assert_eq!(answered(), 4);
    // Before the answer it hears nothing.
    let stuck = lock(&rig.device.stuck);
    rig.post(0);
    let until = Instant::now() + Duration::from_secs(20);
    while rig.device.accesses.load(Ordering::SeqCst) < 5 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(answered(), 4);
    drop(stuck);
    rig.thread.set_mode(Mode::Paused).unwrap();
    assert_eq!(answered(), 5);
}

#[test]
fn work_is_done_while_running_without_an_access_more() {
    let rig = Rig::new();
    rig.write(8);
    let until = Instant::now() + Duration::from_secs(20);
    while rig.done() < 3 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

#[test]
fn notes_are_dealt_with_behind_what_the_guest_did_before() {
    let rig = Rig::new();
    let notes = rig.thread.notes();
    (0..4).for_each(|_| rig.post(0));
    notes.post(1);
    notes.post(4);
    rig.thread.set_mode(Mode::Paused).unwrap();
    let noted = lock(&rig.device.noted).clone();
    let all = noted.iter().fold(0, |all, (notes, _)| all | notes);
    assert_eq!(all, 5, "{noted:?}");
    assert!(noted.iter().all(|(_, accesses)| *accesses == 4), "{noted:?}");
}

#[test]
fn violation_ends_the_thread_and_is_told_to_the_next_order() {
    let ring = ring::create("ring").unwrap();
    let guest = Requester::attach(&ring, Duration::ZERO).unwrap();
    // A request whose place in the queue is right and whose content is not: found in the ring by its value.
    let mark = 0x5ca1_ab1e_0ddb_a115_u64;
    guest.post(0, 0, 8, mark, &Interrupt::new(), soon()).unwrap();
    let mut bytes = vec![0; usize::try_from(ring.len()).unwrap()];
    rustix::io::pread(ring.file(), &mut bytes[..], 0).unwrap();
    let value = bytes.windows(8).position(|word| word == mark.to_le_bytes()).unwrap();
    rustix::io::pwrite(ring.file(), &[0xff; 8], u64::try_from(value - 16).unwrap()).unwrap();

    let rig = Rig::over(ring);
    let told = rig.violations.recv_timeout(Duration::from_secs(20)).unwrap();
    let Err(ModeError::Violation(violation)) = rig.thread.set_mode(Mode::Paused) else { panic!("paused") };
    assert_eq!(violation.to_string(), told);
    assert_eq!(rig.device.accesses.load(Ordering::SeqCst), 0);
}

#[test]
fn end_joins_the_thread_and_order_after_it_is_followed_by_nothing() {
    let mut rig = Rig::new();
    rig.write(8);
    rig.thread.end();
    assert!(rig.thread.thread.is_none());
    rig.thread.set_mode(Mode::Running).unwrap();
}

/// Asks until it has taken more turns than this, or for as long.
fn takes_more_turns(thread: &RingThread, than: u64, span: Duration) -> bool {
    let until = Instant::now() + span;
    loop {
        if thread.turns().expect("it serves a ring") > than {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::yield_now();
    }
}

#[test]
fn thread_takes_a_turn_when_it_is_asked_for_one_unless_it_is_stuck_in_an_access() {
    let rig = Rig::new();
    for mode in [Mode::Running, Mode::Paused] {
        rig.thread.set_mode(mode).unwrap();
        for _ in 0..10 {
            let turns = rig.thread.turns().unwrap();
            assert!(takes_more_turns(&rig.thread, turns, Duration::from_secs(20)), "{mode:?}");
        }
    }
    rig.thread.set_mode(Mode::Running).unwrap();
    let stuck = lock(&rig.device.stuck);
    rig.post(0);
    let until = Instant::now() + Duration::from_secs(20);
    while rig.device.accesses.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    let turns = rig.thread.turns().unwrap();
    assert!(!takes_more_turns(&rig.thread, turns, Duration::from_millis(50)), "it is in the access");
    drop(stuck);
    assert!(takes_more_turns(&rig.thread, turns, Duration::from_secs(20)), "it goes on");
}

#[test]
fn thread_that_is_parked_or_has_ended_takes_no_turns() {
    let responder = Responder::attach(&ring::create("ring").unwrap(), 1, Duration::ZERO).unwrap();
    let device = Arc::<Counters>::default();
    let mut thread = RingThread::start(device, responder, Duration::from_secs(20), |_| {}).unwrap();
    assert_eq!(thread.turns(), None);
    thread.go();
    assert!(thread.turns().is_some());
    thread.end();
    assert_eq!(thread.turns(), None);
}
