// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every interleaving of the MMIO ring's two sides, within a bound on preemptions, by the model checker.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ipc --test loom_ring --target-dir target/loom`. A lost wake-up is a
//! deadlock here: sleepers are woken by wakes only, and deadlines do not pass. The ring has two slots, so it fills.

#![cfg(loom)]
#![cfg_attr(loom, expect(clippy::unwrap_used, reason = "helpers of tests may stop at the first surprise"))]

use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::shm::ring::{Interrupt, Model, Op, Responder, RingError, Stop};
use loom::sync::Arc;
use loom::thread;

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn never() -> Deadline {
    Deadline::after(Duration::from_secs(3600))
}

/// Serves `count` requests; reads are answered with the sum of what was written.
fn serve(responder: &mut Responder, count: usize) {
    let interrupt = Interrupt::new();
    let mut sum = 0;
    for _ in 0..count {
        let token = responder.next(&interrupt, never()).unwrap();
        match token.access().op {
            Op::Write(value) | Op::Post(value) => sum += value,
            Op::Read => {}
        }
        token.complete(sum);
    }
}

#[test]
fn sleeping_sides_always_wake_each_other_and_a_read_sees_the_post_before_it() {
    check(3, || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut responder = ring.responder(1);
        let device = thread::spawn(move || serve(&mut responder, 2));
        let interrupt = Interrupt::new();
        requester.post(0, 0, 4, 5, &interrupt, never()).unwrap();
        assert_eq!(requester.read(0, 0, 4, &interrupt, never()).unwrap(), 5);
        device.join().unwrap();
        assert_eq!(requester.outstanding(), Ok(0));
    });
}

#[test]
fn full_ring_wakes_who_waits_for_room() {
    check(2, || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut responder = ring.responder(1);
        let device = thread::spawn(move || serve(&mut responder, 4));
        let interrupt = Interrupt::new();
        for value in [1, 2, 4] {
            requester.post(0, 0, 4, value, &interrupt, never()).unwrap();
        }
        assert_eq!(requester.read(0, 0, 4, &interrupt, never()).unwrap(), 7);
        device.join().unwrap();
    });
}

#[test]
fn two_threads_waiting_for_room_both_get_it() {
    check(2, || {
        let ring = Model::new();
        let requester = Arc::new(ring.requester());
        let mut responder = ring.responder(1);
        let interrupt = Interrupt::new();
        for value in [1, 2] {
            requester.post(0, 0, 4, value, &interrupt, never()).unwrap();
        }
        let other = {
            let requester = Arc::clone(&requester);
            thread::spawn(move || requester.post(0, 0, 4, 3, &Interrupt::new(), never()).unwrap())
        };
        // Makes room for two and no more: nothing that comes later can make up for a lost wake-up.
        let device = thread::spawn(move || serve(&mut responder, 2));
        requester.post(0, 0, 4, 4, &interrupt, never()).unwrap();
        other.join().unwrap();
        device.join().unwrap();
        assert_eq!(requester.outstanding(), Ok(2));
    });
}

#[test]
fn two_threads_get_their_own_answers() {
    check(2, || {
        let ring = Model::new();
        let requester = Arc::new(ring.requester());
        let mut responder = ring.responder(1);
        let other = {
            let requester = Arc::clone(&requester);
            thread::spawn(move || requester.read(0, 7, 8, &Interrupt::new(), never()).unwrap())
        };
        let device = thread::spawn(move || {
            let interrupt = Interrupt::new();
            for _ in 0..2 {
                let token = responder.next(&interrupt, never()).unwrap();
                let offset = token.access().offset;
                token.complete(offset * 100);
            }
        });
        assert_eq!(requester.read(0, 3, 8, &Interrupt::new(), never()).unwrap(), 300);
        assert_eq!(other.join().unwrap(), 700);
        device.join().unwrap();
    });
}

#[test]
fn interrupt_ends_a_wait_for_an_answer_that_never_comes() {
    check(3, || {
        let ring = Model::new();
        let requester = ring.requester();
        let interrupt = Interrupt::new();
        let kick = {
            let interrupt = interrupt.clone();
            thread::spawn(move || interrupt.raise())
        };
        let read = requester.read(0, 0, 4, &interrupt, never());
        assert!(matches!(read, Err(RingError::Unfinished { why: Stop::Interrupted, .. })));
        kick.join().unwrap();
    });
}

#[test]
fn interrupt_ends_a_wait_for_room_and_one_for_a_request() {
    check(2, || {
        let ring = Model::new();
        let requester = ring.requester();
        let interrupt = Interrupt::new();
        for _ in 0..2 {
            requester.post(0, 0, 4, 0, &Interrupt::new(), never()).unwrap();
        }
        let kick = {
            let interrupt = interrupt.clone();
            thread::spawn(move || interrupt.raise())
        };
        let post = requester.post(0, 0, 4, 0, &interrupt, never());
        assert!(matches!(post, Err(RingError::NotQueued { why: Stop::Interrupted })));
        kick.join().unwrap();

        let empty = Model::new();
        let mut responder = empty.responder(1);
        let interrupt = Interrupt::new();
        let kick = {
            let interrupt = interrupt.clone();
            thread::spawn(move || interrupt.raise())
        };
        assert_eq!(responder.serve(&interrupt, never(), |_| 0), Ok(Stop::Interrupted));
        kick.join().unwrap();
    });
}

#[test]
fn interrupt_and_answer_at_once_lose_neither() {
    check(2, || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut responder = ring.responder(1);
        let interrupt = Interrupt::new();
        let kick = {
            let interrupt = interrupt.clone();
            thread::spawn(move || interrupt.raise())
        };
        let device = thread::spawn(move || {
            responder.next(&Interrupt::new(), never()).unwrap().complete(9);
        });
        let value = match requester.read(0, 0, 4, &interrupt, never()) {
            Ok(value) => value,
            Err(RingError::Unfinished { why: Stop::Interrupted, pending }) => {
                requester.wait(pending, &Interrupt::new(), never()).unwrap()
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(value, 9);
        kick.join().unwrap();
        device.join().unwrap();
    });
}

/// A life of the device that ends at any step of completing a request; then the next life.
fn restart(steps: usize) {
    check(2, move || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut first = ring.responder(1);
        let device = {
            let ring = ring.clone();
            thread::spawn(move || {
                let interrupt = Interrupt::new();
                first.next(&interrupt, never()).unwrap().die_after(steps, 5);
                drop(first);
                let mut second = ring.responder(2);
                // What is left: the post and the read, or the read alone, depending on how far it got.
                let mut post = None;
                loop {
                    let token = second.next(&interrupt, never()).unwrap();
                    match token.access().op {
                        Op::Read => return token.complete(post.map_or(6, |value| value)),
                        Op::Write(value) | Op::Post(value) => {
                            post = Some(value);
                            token.complete(value);
                        }
                    }
                }
            })
        };
        let interrupt = Interrupt::new();
        requester.write(0, 0, 4, 5, &interrupt, never()).unwrap();
        let read = requester.read(0, 0, 4, &interrupt, never()).unwrap();
        // Written again by the second life unless the first one got so far as to answer.
        assert_eq!(read, if steps == 0 { 5 } else { 6 });
        device.join().unwrap();
        assert_eq!(requester.outstanding(), Ok(0));
    });
}

#[test]
fn life_that_ends_before_it_answers_is_followed_by_one_that_does() {
    restart(0);
}

#[test]
fn life_that_ends_before_it_counts_is_followed_by_one_that_does_not_answer_again() {
    restart(1);
}

#[test]
fn life_that_ends_before_it_wakes_is_followed_by_one_that_does() {
    restart(2);
}

#[test]
fn life_that_ends_while_it_wakes_is_followed_by_one_that_wakes_whoever_sleeps() {
    restart(3);
}

#[test]
fn life_that_ends_with_the_ring_full_is_followed_by_one_that_frees_it() {
    check(2, || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut first = ring.responder(1);
        let device = {
            let ring = ring.clone();
            thread::spawn(move || {
                let interrupt = Interrupt::new();
                first.next(&interrupt, never()).unwrap().die_after(3, 0);
                drop(first);
                serve(&mut ring.responder(2), 2);
            })
        };
        let interrupt = Interrupt::new();
        for _ in 0..3 {
            requester.post(0, 0, 4, 1, &interrupt, never()).unwrap();
        }
        device.join().unwrap();
        assert_eq!(requester.outstanding(), Ok(0));
    });
}

/// The model can fail: an answer without a wake, and nobody who makes up for it, is a sleeper that is never woken.
#[test]
#[should_panic(expected = "deadlock")]
fn answer_without_a_wake_is_found() {
    check(2, || {
        let ring = Model::new();
        let requester = ring.requester();
        let mut responder = ring.responder(1);
        let device = thread::spawn(move || {
            responder.next(&Interrupt::new(), never()).unwrap().die_after(2, 5);
        });
        let _ = requester.read(0, 0, 4, &Interrupt::new(), never());
        device.join().unwrap();
    });
}
