// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a process, state by state.

use super::State;
use crate::hello::Role;
use crate::instance::InstanceId;
use crate::protocol::control::{DirtyLogOp, LoadFrom, Request};

const STATES: [State; 8] = [
    State::Unconfigured,
    State::Configured,
    State::Loaded,
    State::Armed,
    State::Replayed,
    State::Running,
    State::Paused,
    State::Ended,
];

#[test]
fn quit_is_taken_in_every_state_and_nothing_follows_it() {
    for state in STATES {
        assert_eq!(state.after(&Request::Quit), Some(State::Ended), "{state:?}");
    }
    for request in [Request::Go, Request::Inspect, Request::Resume, Request::CheckSave, Request::Save] {
        assert_eq!(State::Ended.after(&request), None, "{request:?}");
    }
}

#[test]
fn heartbeat_is_taken_in_every_state_but_the_last_and_changes_none() {
    for state in STATES {
        let expected = (state != State::Ended).then_some(state);
        assert_eq!(state.after(&Request::Heartbeat), expected, "{state:?}");
    }
}

#[test]
fn save_is_taken_when_paused_only() {
    for state in STATES {
        let expected = (state == State::Paused).then_some(State::Paused);
        assert_eq!(state.after(&Request::Save), expected, "{state:?}");
    }
}

#[test]
fn way_in_has_one_order_and_is_gone_once() {
    let steps = [
        (State::Configured, Request::Load(LoadFrom::Units { len: 1 }), State::Loaded),
        (State::Configured, Request::Load(LoadFrom::Reset), State::Loaded),
        (State::Configured, Request::Load(LoadFrom::Checkpoint), State::Loaded),
        (State::Configured, Request::Load(LoadFrom::Failed), State::Loaded),
        (State::Loaded, Request::Arm, State::Armed),
        (State::Armed, Request::Replay, State::Replayed),
        (State::Replayed, Request::Go, State::Running),
    ];
    for (from, request, to) in steps {
        for state in STATES {
            let again = request.is_idempotent() && state == to;
            let expected = (state == from || again).then_some(to);
            // Of a process that has begun it is about peers that it was rewired to.
            let has_begun = matches!(state, State::Running | State::Paused);
            let expected = if has_begun && request == Request::Replay { Some(state) } else { expected };
            assert_eq!(state.after(&request), expected, "{request:?} after {state:?}");
        }
    }
}

#[test]
fn process_that_has_not_begun_cannot_be_paused_or_saved() {
    for state in STATES {
        let begun = matches!(state, State::Running | State::Paused);
        let rewire = Request::Rewire { peer: InstanceId::new(Role::Smmu, 0), epoch: 2 };
        let begins_paused = state == State::Replayed;
        assert_eq!(state.after(&Request::Pause).is_some(), begun || begins_paused, "Pause after {state:?}");
        for request in [Request::Resume, Request::CheckSave, rewire] {
            let quits = state == State::Ended;
            assert_eq!(state.after(&request).is_some(), begun && !quits, "{request:?} after {state:?}");
        }
    }
}

#[test]
fn idempotent_requests_are_taken_twice() {
    for state in STATES {
        for request in [
            Request::Replay,
            Request::Go,
            Request::CheckSave,
            Request::Pause,
            Request::Resume,
            Request::Quit,
            Request::Save,
            Request::DirtyLog(DirtyLogOp::Rearm),
            Request::Inspect,
        ] {
            assert!(request.is_idempotent());
            if let Some(next) = state.after(&request) {
                assert_eq!(next.after(&request), Some(next), "{request:?} again after {state:?}");
            }
        }
    }
}

#[test]
fn unconfigured_process_keeps_no_dirty_log() {
    let enable = Request::DirtyLog(DirtyLogOp::Enable { epoch: 1 });
    assert_eq!(State::Unconfigured.after(&enable), None);
    assert_eq!(State::Configured.after(&enable), Some(State::Configured));
}
