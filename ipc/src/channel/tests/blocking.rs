// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The blocking channel with a peer that keeps the contract, answers late, or dies.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::{coordinator, ends, late, pair, pipe, soon, vcpu};
use crate::channel::{Channel, EVENTS_MAX, Incoming, LATE_MAX};
use crate::error::{Breach, Error};
use crate::frame::BODY_LEN_MAX;
use crate::hello::{Hello, PROTOCOL, Role};
use crate::protocol::control::{Event, Failure, Reply, Request};

const NO_FDS: [OwnedFd; 0] = [];

fn take_request(channel: &Channel) -> (u64, Request, Vec<OwnedFd>) {
    match channel.recv(late()).unwrap() {
        Incoming::Request { request_id, body, fds } => (request_id, body, fds),
        other => panic!("{other:?}"),
    }
}

#[test]
fn request_with_an_fd_is_answered_and_the_fd_is_the_same_object() {
    let (asking, serving) = ends();
    let (mut reader, writer) = pipe();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (request_id, body, mut fds) = take_request(&serving);
            assert_eq!((body, fds.len()), (Request::Save, 1));
            let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "it must not leak into a child");
            std::fs::File::from(fds.remove(0)).write_all(b"state").unwrap();
            serving.reply(request_id, &Reply::Saved { len: 5 }, &NO_FDS, late()).unwrap();
        });
        let answer = asking.request(&Request::Save, &[writer], late()).unwrap();
        assert_eq!(answer.0, Reply::Saved { len: 5 });
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "state");
}

#[test]
fn events_that_come_before_an_answer_are_kept_in_order() {
    let (asking, serving) = ends();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (request_id, ..) = take_request(&serving);
            serving.event(&Event::GuestReset, &NO_FDS, late()).unwrap();
            serving.event(&Event::GuestPoweredOff, &NO_FDS, late()).unwrap();
            serving.reply(request_id, &Reply::Done, &NO_FDS, late()).unwrap();
        });
        assert_eq!(asking.request(&Request::Go, &NO_FDS, late()).unwrap().0, Reply::Done);
    });
    for expected in [Event::GuestReset, Event::GuestPoweredOff] {
        let Incoming::Event { body, .. } = asking.recv(late()).unwrap() else { panic!("no event") };
        assert_eq!(body, expected);
    }
}

#[test]
fn answer_that_comes_late_is_dropped_and_the_next_request_gets_its_own() {
    let (asking, serving) = ends();
    let timed_out = asking.request(&Request::Go, &NO_FDS, soon());
    assert!(matches!(timed_out, Err(Error::Timeout { .. })), "{timed_out:?}");
    thread::scope(|scope| {
        scope.spawn(|| {
            let (first, ..) = take_request(&serving);
            serving.reply(first, &Reply::Saved { len: 1 }, &NO_FDS, late()).unwrap();
            let (second, ..) = take_request(&serving);
            serving.reply(second, &Reply::Saved { len: 2 }, &NO_FDS, late()).unwrap();
        });
        let (reply, _) = asking.request(&Request::Pause, &NO_FDS, late()).unwrap();
        assert_eq!(reply, Reply::Saved { len: 2 });
    });
}

#[test]
fn peer_that_never_answers_is_not_asked_for_ever() {
    let (asking, _serving) = ends();
    let now = || crate::deadline::Deadline::now();
    for _ in 0..LATE_MAX {
        let timed_out = asking.request(&Request::Inspect, &NO_FDS, now());
        assert!(matches!(timed_out, Err(Error::Timeout { .. })), "{timed_out:?}");
    }
    assert!(matches!(asking.request(&Request::Inspect, &NO_FDS, now()), Err(Error::Refused(_))));
}

#[test]
fn waits_end_at_their_deadline() {
    let (asking, _serving) = ends();
    let start = Instant::now();
    assert!(matches!(asking.recv(soon()), Err(Error::Timeout { .. })));
    assert!(start.elapsed() >= Duration::from_millis(30), "not before");
    assert!(start.elapsed() < Duration::from_secs(10), "and not much later");
}

#[test]
fn sending_to_a_peer_that_does_not_read_ends_at_the_deadline() {
    let (talking, _deaf) = ends();
    let long = Event::Fatal("x".repeat(BODY_LEN_MAX as usize - 16));
    let end = (0..1000).find_map(|_| talking.event(&long, &NO_FDS, soon()).err());
    assert!(matches!(end, Some(Error::Timeout { .. })), "{end:?}");
}

#[test]
fn dead_peer_is_gone_with_its_generation_for_every_call() {
    let (asking, serving) = ends();
    drop(serving);
    for error in [
        asking.recv(late()).unwrap_err(),
        asking.request(&Request::Go, &NO_FDS, late()).unwrap_err(),
        asking.event(&Event::GuestReset, &NO_FDS, late()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::PeerGone { generation: super::GENERATION }), "{error}");
    }
}

#[test]
fn what_a_peer_sent_before_it_died_is_still_received() {
    let (asking, serving) = ends();
    serving.event(&Event::Fatal("out of memory".into()), &NO_FDS, late()).unwrap();
    drop(serving);
    assert!(matches!(asking.recv(late()), Ok(Incoming::Event { body: Event::Fatal(_), .. })));
    assert!(matches!(asking.recv(late()), Err(Error::PeerGone { .. })));
}

#[test]
fn last_words_are_received_though_their_speaker_has_not_read_all_and_is_spoken_to() {
    let (asking, serving) = ends();
    let unanswered = asking.request(&Request::Pause, &NO_FDS, soon());
    assert!(matches!(unanswered, Err(Error::Timeout { .. })), "{unanswered:?}");
    serving.event(&Event::Fatal("out of memory".into()), &NO_FDS, late()).unwrap();
    drop(serving);
    for _ in 0..2 {
        let unheard = asking.request(&Request::Quit, &NO_FDS, late());
        assert!(matches!(unheard, Err(Error::PeerGone { .. })), "{unheard:?}");
    }
    assert!(matches!(asking.recv(late()), Ok(Incoming::Event { body: Event::Fatal(_), .. })));
    assert!(matches!(asking.recv(late()), Err(Error::PeerGone { .. })));

    let (asking, serving) = ends();
    drop(asking.request(&Request::Pause, &NO_FDS, soon()));
    serving.event(&Event::GuestPoweredOff, &NO_FDS, late()).unwrap();
    drop(serving);
    assert!(matches!(asking.recv(late()), Ok(Incoming::Event { body: Event::GuestPoweredOff, .. })));
    assert!(matches!(asking.recv(late()), Err(Error::PeerGone { .. })));
}

#[test]
fn hello_from_someone_else_is_a_violation_at_both_ends() {
    let stale = Hello::new(Role::Vcpu, super::GENERATION - 1);
    let other_role = Hello::new(Role::Smmu, super::GENERATION);
    let other_protocol = Hello { protocol: PROTOCOL + 1, build: "\u{1b}[31mother".into(), ..vcpu() };
    for peer in [stale, other_role, other_protocol] {
        let (a, b) = pair().unwrap();
        let (a, b) = (Channel::<crate::protocol::control::Control>::from_fd(a, coordinator()), {
            Channel::<crate::protocol::control::Control>::from_fd(b, peer.clone())
        });
        thread::scope(|scope| {
            // The other end may be told, or find itself cut off: it gets no further in any case.
            let other =
                scope.spawn(|| b.hello(Role::Coordinator, late()).and_then(|()| b.recv(late()).map(drop)));
            match a.hello(Role::Vcpu, late()) {
                Err(Error::Violation(violation)) => {
                    assert!(matches!(violation.breach, Breach::Hello { .. }), "{violation}");
                    assert!(!violation.to_string().contains('\u{1b}'), "a peer's text is escaped");
                }
                other => panic!("{peer}: {other:?}"),
            }
            assert!(other.join().unwrap().is_err());
        });
    }
}

#[test]
fn silent_peer_is_not_awaited_beyond_the_deadline() {
    let (a, _b) = pair().unwrap();
    let a = Channel::<crate::protocol::control::Control>::from_fd(a, coordinator());
    assert!(matches!(a.hello(Role::Vcpu, soon()), Err(Error::Timeout { .. })));
}

#[test]
fn message_that_breaks_its_own_contract_is_not_sent() {
    let (asking, serving) = ends();
    let (_reader, writer) = pipe();
    assert!(matches!(asking.request(&Request::Save, &NO_FDS, late()), Err(Error::Refused(_))));
    assert!(matches!(asking.request(&Request::Go, &[writer], late()), Err(Error::Refused(_))));
    let failure = Failure::new("save", "x".repeat(BODY_LEN_MAX as usize));
    assert!(matches!(asking.reply(1, &Reply::Failed(failure), &NO_FDS, late()), Err(Error::Refused(_))));
    assert!(matches!(serving.recv(soon()), Err(Error::Timeout { .. })), "nothing arrived");
}

#[test]
fn second_reader_is_refused_and_does_not_wait() {
    let (asking, serving) = ends();
    let (ended, endings) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        // Whichever comes second is refused while the other waits on, until its peer goes.
        for _ in 0..2 {
            let (asking, ended) = (&asking, ended.clone());
            scope.spawn(move || drop(ended.send(asking.recv(late()))));
        }
        assert!(matches!(endings.recv().unwrap(), Err(Error::Refused(_))));
        drop(serving);
        assert!(matches!(endings.recv().unwrap(), Err(Error::PeerGone { .. })));
    });
}

#[test]
fn flood_of_events_before_an_answer_is_a_violation() {
    let (asking, serving) = ends();
    for _ in 0..=EVENTS_MAX {
        super::send_raw(serving.as_fd(), &super::event_frame(), &[]);
    }
    match asking.request(&Request::Go, &NO_FDS, late()) {
        Err(Error::Violation(violation)) => assert_eq!(violation.breach, Breach::Flood { max: EVENTS_MAX }),
        other => panic!("{other:?}"),
    }
}
