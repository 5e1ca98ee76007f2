// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ring with real threads, futexes and two mappings of one memory object. Orders that only rarely happen are
//! the model's business: `tests/loom_ring.rs`.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::{any, proptest};

use super::layout::{self, Shared};
use super::{
    Access, Interrupt, Op, Requester, Responder, ResponderError, RingError, SLOTS, SPIN_DEFAULT, Stop, create,
};
use crate::deadline::Deadline;
use crate::error::{Breach, Error};
use crate::shm::region::{Region, View};

const SPINS: [Duration; 2] = [Duration::ZERO, SPIN_DEFAULT];

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

fn late() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn ends(spin: Duration) -> (Region, Requester, Responder) {
    let region = create("ring").unwrap();
    let requester = Requester::attach(&region, spin).unwrap();
    let responder = Responder::attach(&region, 1, spin).unwrap();
    (region, requester, responder)
}

/// What the test's device answers: something that no other request is answered with.
fn answer(access: Access) -> u64 {
    access.offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(access.region)
}

#[test]
fn read_from_a_serving_responder_is_answered_cut_to_its_size() {
    for spin in SPINS {
        let (_region, requester, mut responder) = ends(spin);
        let stop = Interrupt::new();
        thread::scope(|scope| {
            scope.spawn(|| responder.serve(&stop, late(), |_| 0x1122_3344_5566_7788).unwrap());
            let interrupt = Interrupt::new();
            for (size, expected) in [(1, 0x88), (2, 0x7788), (4, 0x5566_7788), (8, 0x1122_3344_5566_7788)] {
                assert_eq!(requester.read(0, 0, size, &interrupt, late()).unwrap(), expected);
            }
            stop.raise();
        });
        assert_eq!(requester.outstanding().unwrap(), 0);
    }
}

#[test]
fn read_behind_posts_sees_all_of_them() {
    for spin in SPINS {
        let (_region, requester, mut responder) = ends(spin);
        let stop = Interrupt::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut sum = 0_u64;
                responder.serve(&stop, late(), |access| match access.op {
                    Op::Post(value) => {
                        assert_eq!(value, sum + 1, "posts in the order they were made");
                        sum = value;
                        0
                    }
                    Op::Read | Op::Write(_) => sum,
                })
            });
            let interrupt = Interrupt::new();
            let mut posted = 0;
            // From none to more than the ring has room for.
            for count in [0, 1, 3, SLOTS as u64, 3 * SLOTS as u64] {
                for _ in 0..count {
                    posted += 1;
                    requester.post(0, 8, 8, posted, &interrupt, late()).unwrap();
                }
                assert_eq!(requester.read(0, 8, 8, &interrupt, late()).unwrap(), posted);
            }
            stop.raise();
        });
    }
}

#[test]
fn many_threads_each_get_their_own_answers() {
    for spin in SPINS {
        let (_region, requester, mut responder) = ends(spin);
        let stop = Interrupt::new();
        thread::scope(|scope| {
            scope.spawn(|| responder.serve(&stop, late(), answer).unwrap());
            let threads: Vec<_> = (0..4_u16)
                .map(|region| {
                    let requester = &requester;
                    scope.spawn(move || {
                        let interrupt = Interrupt::new();
                        for offset in 0..2000 {
                            let access = Access { region, offset, size: 8, op: Op::Read };
                            if offset % 3 == 0 {
                                requester.post(region, offset, 8, offset, &interrupt, late()).unwrap();
                            }
                            let value = requester.read(region, offset, 8, &interrupt, late()).unwrap();
                            assert_eq!(value, answer(access));
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            stop.raise();
        });
    }
}

#[test]
fn post_to_a_full_ring_is_not_queued_and_nothing_is_lost_or_doubled() {
    let (_region, requester, mut responder) = ends(Duration::ZERO);
    let interrupt = Interrupt::new();
    for value in 0..SLOTS as u64 {
        requester.post(0, 0, 4, value, &interrupt, soon()).unwrap();
    }
    let full = requester.post(0, 0, 4, 99, &interrupt, soon());
    assert!(matches!(full, Err(RingError::NotQueued { why: Stop::DeadlinePassed })), "{full:?}");
    let read = requester.read(0, 0, 4, &interrupt, soon());
    assert!(matches!(read, Err(RingError::NotQueued { .. })), "{read:?}");
    for value in 0..SLOTS as u64 {
        let token = responder.try_next().unwrap().unwrap();
        assert_eq!(token.access().op, Op::Post(value));
        token.complete(0);
    }
    assert!(responder.try_next().unwrap().is_none());
}

#[test]
fn thread_waiting_for_room_goes_on_when_there_is_some() {
    let (_region, requester, mut responder) = ends(Duration::ZERO);
    let interrupt = Interrupt::new();
    for _ in 0..SLOTS {
        requester.post(0, 0, 4, 0, &interrupt, soon()).unwrap();
    }
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| requester.post(0, 0, 4, 7, &Interrupt::new(), late()).unwrap()))
            .collect();
        thread::sleep(Duration::from_millis(20));
        for _ in 0..SLOTS {
            responder.try_next().unwrap().unwrap().complete(0);
        }
        for thread in waiting {
            thread.join().unwrap();
        }
    });
    let mut rest = 0;
    while let Some(token) = responder.try_next().unwrap() {
        assert_eq!(token.access().op, Op::Post(7));
        token.complete(0);
        rest += 1;
    }
    assert_eq!(rest, 3);
}

#[test]
fn interrupt_ends_a_wait_and_the_request_is_answered_later() {
    for spin in SPINS {
        let (_region, requester, mut responder) = ends(spin);
        let interrupt = Interrupt::new();
        let pending = thread::scope(|scope| {
            let waiting = scope.spawn(|| requester.read(3, 5, 8, &interrupt, late()));
            thread::sleep(Duration::from_millis(20));
            interrupt.raise();
            match waiting.join().unwrap() {
                Err(RingError::Unfinished { why: Stop::Interrupted, pending }) => pending,
                other => panic!("{other:?}"),
            }
        });
        assert!(interrupt.take() && !interrupt.is_raised());
        let token = responder.try_next().unwrap().unwrap();
        assert_eq!(token.access(), Access { region: 3, offset: 5, size: 8, op: Op::Read });
        token.complete(42);
        assert_eq!(requester.wait(pending, &interrupt, soon()).unwrap(), 42);
    }
}

#[test]
fn interrupt_raised_before_the_wait_ends_it_at_once() {
    let (_region, requester, mut responder) = ends(Duration::ZERO);
    let interrupt = Interrupt::new();
    interrupt.raise();
    let start = Instant::now();
    let read = requester.read(0, 0, 4, &interrupt, late());
    assert!(matches!(read, Err(RingError::Unfinished { why: Stop::Interrupted, .. })), "{read:?}");
    let next = responder.serve(&interrupt, late(), |_| 0);
    assert_eq!(next, Ok(Stop::Interrupted));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn dropped_pending_gives_its_lane_to_another_who_gets_its_own_answer() {
    let (_region, requester, mut responder) = ends(Duration::ZERO);
    let interrupt = Interrupt::new();
    let first = requester.read(0, 1, 8, &interrupt, soon());
    drop(first);
    let second = requester.read(0, 2, 8, &interrupt, soon());
    let Err(RingError::Unfinished { pending, .. }) = second else { panic!("{second:?}") };
    responder.try_next().unwrap().unwrap().complete(111);
    let still = requester.wait(pending, &interrupt, soon());
    let Err(RingError::Unfinished { pending, .. }) = still else { panic!("the other's answer: {still:?}") };
    responder.try_next().unwrap().unwrap().complete(222);
    assert_eq!(requester.wait(pending, &interrupt, soon()).unwrap(), 222);
}

#[test]
fn new_responder_executes_what_the_dead_one_left_in_order() {
    let (region, requester, mut responder) = ends(Duration::ZERO);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let interrupt = Interrupt::new();
            requester.post(0, 0x98, 4, 1, &interrupt, late()).unwrap();
            requester.post(0, 0x98, 4, 2, &interrupt, late()).unwrap();
            requester.read(0, 0x9c, 4, &interrupt, late()).unwrap()
        });
        let interrupt = Interrupt::new();
        responder.next(&interrupt, late()).unwrap().complete(0);
        // Dies in the middle of the second.
        drop(responder.next(&interrupt, late()).unwrap());
        drop(responder);
        let mut again = Responder::attach(&region, 2, Duration::ZERO).unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let token = again.next(&interrupt, late()).unwrap();
            seen.push(token.access().op);
            token.complete(7);
        }
        assert_eq!(seen, [Op::Post(2), Op::Read]);
        assert_eq!(waiting.join().unwrap(), 7);
    });
    assert_eq!(requester.responder_generation(), 2);
}

#[test]
fn new_responder_wakes_who_was_answered_but_not_woken_and_does_not_answer_twice() {
    let (region, requester, responder) = ends(Duration::ZERO);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| requester.read(0, 0, 8, &Interrupt::new(), late()).unwrap());
        thread::sleep(Duration::from_millis(20));
        // The dead one got as far as the answer, and no further.
        let shared: View<Shared> = layout::attach(&region).unwrap();
        let lane = shared.lane(0).unwrap();
        lane.value.store(5, Relaxed);
        lane.answered.store(1, Release);
        drop(responder);
        let start = Instant::now();
        let mut again = Responder::attach(&region, 2, Duration::ZERO).unwrap();
        assert_eq!(waiting.join().unwrap(), 5);
        assert!(start.elapsed() < Duration::from_secs(5), "it was woken, it did not time out");
        assert!(again.try_next().unwrap().is_none(), "the answered request is counted, not repeated");
    });
    assert_eq!(requester.outstanding().unwrap(), 0);
}

#[test]
fn responder_that_is_asked_nothing_stops_at_its_deadline() {
    let (_region, _requester, mut responder) = ends(SPIN_DEFAULT);
    let stopped = responder.next(&Interrupt::new(), soon());
    assert!(matches!(stopped, Err(ResponderError::Stopped(Stop::DeadlinePassed))), "{stopped:?}");
}

#[test]
fn requester_whose_peer_counts_more_than_was_asked_stops_using_the_ring() {
    let (region, requester, _responder) = ends(Duration::ZERO);
    let shared: View<Shared> = layout::attach(&region).unwrap();
    shared.progress.0.completed.store(u64::MAX, Relaxed);
    let interrupt = Interrupt::new();
    for _ in 0..SLOTS {
        requester.post(0, 0, 4, 0, &interrupt, soon()).unwrap();
    }
    for _ in 0..2 {
        match requester.post(0, 0, 4, 0, &interrupt, soon()) {
            Err(RingError::Violation(violation)) => {
                assert!(matches!(violation.breach, Breach::RingIndex { index: u64::MAX, .. }));
            }
            other => panic!("{other:?}"),
        }
        // Also once the count looks right again.
        shared.progress.0.completed.store(1, Relaxed);
    }
}

#[test]
fn responder_refuses_requests_that_cannot_be_and_stays_refusing() {
    let good = 4_u64 << 32 | 1 << 40;
    for (what, field) in [
        (good ^ 2 << 40 ^ 4 << 40, "operation"),
        (0, "operation"),
        (3 << 32 | 1 << 40, "size"),
        (good | 128 << 16, "lane"),
        (good | 1 << 48, "reserved bits"),
    ] {
        let (region, _requester, mut responder) = ends(Duration::ZERO);
        let shared: View<Shared> = layout::attach(&region).unwrap();
        shared.slot(1).unwrap().forge(1, what);
        for _ in 0..2 {
            match responder.try_next() {
                Err(ResponderError::Violation(violation)) => {
                    let named =
                        matches!(&violation.breach, Breach::RingRequest { field: f, .. } if *f == field);
                    assert!(named, "{what:#x}: {violation}");
                }
                other => panic!("{what:#x}: {:?}", other.map(|token| token.is_some())),
            }
        }
    }
}

#[test]
fn access_of_odd_size_is_refused_before_it_is_queued() {
    let (_region, requester, mut responder) = ends(Duration::ZERO);
    for size in [0, 3, 9, 255] {
        let read = requester.read(0, 0, size, &Interrupt::new(), soon());
        assert!(matches!(read, Err(RingError::Size { .. })), "{read:?}");
    }
    assert!(responder.try_next().unwrap().is_none());
}

#[test]
fn region_that_is_no_ring_is_refused() {
    let blank = Region::create("blank", super::RING_LEN).unwrap();
    assert!(matches!(Requester::attach(&blank, SPIN_DEFAULT), Err(Error::Violation(_))));
    let short = Region::create("short", 4096).unwrap();
    assert!(matches!(Responder::attach(&short, 1, SPIN_DEFAULT), Err(Error::Violation(_))));
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever the other side scribbles, both sides answer, in time, and without a panic.
    #[test]
    fn garbage_everywhere_costs_no_more_than_the_deadline(seed in any::<u64>(), dense in any::<bool>()) {
        let (region, requester, mut responder) = ends(Duration::ZERO);
        let words: View<[core::sync::atomic::AtomicU64]> =
            region.view_slice(128, size_of::<Shared>() / 8 - 16).unwrap();
        let mut state = seed | 1;
        for word in words.iter() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // Sparse garbage leaves small numbers, which are the ones that could be taken for real.
            word.store(if dense { state } else { state >> 61 }, Relaxed);
        }
        let brief = || Deadline::after(Duration::from_millis(2));
        let interrupt = Interrupt::new();
        let mut served = 0;
        let _ = responder.serve(&interrupt, brief(), |_| { served += 1; 0 });
        let _ = requester.read(0, 0, 4, &interrupt, brief());
        let _ = requester.post(0, 0, 4, 1, &interrupt, brief());
        let _ = requester.outstanding();
        let mut again = Responder::attach(&region, 2, Duration::ZERO).unwrap();
        let _ = again.serve(&interrupt, brief(), |_| 0);
        assert!(served <= SLOTS, "a slot is a request once, not for ever");
    }
}
