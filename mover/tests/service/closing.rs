// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ends of migrations: the last message arrives, whatever was under way; and requests that have no place.

use std::time::{Duration, Instant};

use ipc::protocol::budget::mover::CLOSING;
use ipc::protocol::mover::{MESSAGE_LEN_MAX, MoverNotice, MoverRequest, Security};

use crate::{PAGES, connected, destination, memory, pair, source, vfio};

#[test]
fn abort_in_the_middle_of_a_round_is_heard_by_the_other_side() {
    for lane_count in [1, 4] {
        let (mut here, mut there) = connected(lane_count);
        for page in 0..PAGES {
            here.write(page, 1);
        }
        here.ask(MoverRequest::SendRound { round: 0 });
        here.give(MoverRequest::SendState { instance: vfio(0), len: 5 }, memory(b"state")).unwrap();
        here.ask(MoverRequest::Say(b"abort".to_vec()));
        here.ask(MoverRequest::Close);
        assert_eq!(there.notice(), MoverNotice::Heard(b"abort".to_vec()));
        assert_eq!(there.lost(), "the other host has closed the connection");
        there.close();
        // The round was sent before it was given up, or not.
        let last = match here.notice() {
            MoverNotice::RoundSent(_) => here.notice(),
            other => other,
        };
        assert_eq!(last, MoverNotice::Closed);
    }
}

#[test]
fn refusal_is_heard_by_a_source_that_is_sending() {
    let (mut here, mut there) = connected(3);
    for page in 0..PAGES {
        here.write(page, 1);
    }
    here.ask(MoverRequest::SendRound { round: 0 });
    there.ask(MoverRequest::Say(b"failed".to_vec()));
    there.ask(MoverRequest::Close);
    let heard = match here.notice() {
        MoverNotice::RoundSent(_) => here.notice(),
        other => other,
    };
    assert_eq!(heard, MoverNotice::Heard(b"failed".to_vec()));
    here.close_whatever_comes();
    assert_eq!(there.notice(), MoverNotice::Closed);
}

#[test]
fn closing_takes_no_longer_than_its_span_whatever_the_other_host_does() {
    // It is connected, and neither reads nor closes.
    let (mut here, there) = connected(1);
    for page in 0..PAGES {
        here.write(page, 1);
    }
    let hold = there.life;
    here.ask(MoverRequest::SendRound { round: 0 });
    let begun = Instant::now();
    here.close_whatever_comes();
    assert!(begun.elapsed() < CLOSING + Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(hold);
    // Nobody has connected at all.
    let mut alone = destination();
    alone.close();
    let mut alone = source(2, Security::Plain);
    alone.close();
}

#[test]
fn requests_that_have_no_place_are_refused_and_cost_nothing() {
    let mut here = source(2, Security::Plain);
    let (socket, _other) = pair();
    let mut refused = |request: MoverRequest, why: &str| {
        let failure = here.life.carry(request, Some(socket.try_clone().unwrap().into())).unwrap_err();
        assert!(failure.why.contains(why), "{why}: {failure:?}");
    };
    refused(MoverRequest::TakeLane { index: 1 }, "where lane 0 is due");
    refused(MoverRequest::TakeState { instance: vfio(0) }, "is not to come");
    refused(MoverRequest::SendState { instance: vfio(0), len: 1 }, "");
    refused(MoverRequest::Say(vec![0; MESSAGE_LEN_MAX + 1]), "too long");
    let (blocking, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let failure = here.give(MoverRequest::TakeLane { index: 0 }, blocking).unwrap_err();
    assert!(failure.why.contains("non-blocking"), "{failure:?}");
    let mut there = destination();
    for request in
        [MoverRequest::SendRound { round: 0 }, MoverRequest::SendState { instance: vfio(0), len: 5 }]
    {
        let failure = there.life.carry(request, Some(memory(b"state"))).unwrap_err();
        assert!(failure.why.contains("other side"), "{failure:?}");
    }
    there.give(MoverRequest::TakeState { instance: vfio(0) }, memory(&[])).unwrap();
    let twice = there.give(MoverRequest::TakeState { instance: vfio(0) }, memory(&[])).unwrap_err();
    assert!(twice.why.contains("expected already"), "{twice:?}");
    let short =
        here.give(MoverRequest::SendState { instance: vfio(0), len: 6 }, memory(b"state")).unwrap_err();
    assert!(short.why.contains("vfio0"), "{short:?}");
    // What was refused is as if it had not been asked.
    for index in 0..2 {
        let (near, far) = pair();
        here.give(MoverRequest::TakeLane { index }, near).unwrap();
        there.give(MoverRequest::TakeLane { index }, far).unwrap();
    }
    crate::await_connected(&here, &there, 2);
    here.close();
    let late = here.life.carry(MoverRequest::Say(b"late".to_vec()), None).unwrap_err();
    assert!(late.why.contains("being closed"), "{late:?}");
}
