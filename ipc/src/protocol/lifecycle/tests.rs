// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a process, state by state.

use super::State;
use crate::protocol::control::{DirtyLogOp, Request};

const STATES: [State; 6] =
    [State::Unconfigured, State::Configured, State::Restored, State::Running, State::Paused, State::Ended];

#[test]
fn quit_is_taken_in_every_state_and_nothing_follows_it() {
    for state in STATES {
        assert_eq!(state.after(&Request::Quit), Some(State::Ended), "{state:?}");
    }
    for request in [Request::Start, Request::Inspect, Request::Resume, Request::Save] {
        assert_eq!(State::Ended.after(&request), None, "{request:?}");
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
fn restore_is_taken_once_and_only_before_start() {
    for state in STATES {
        let expected = (state == State::Configured).then_some(State::Restored);
        assert_eq!(state.after(&Request::Restore { len: 1 }), expected, "{state:?}");
    }
    assert_eq!(State::Restored.after(&Request::Start), Some(State::Running));
}

#[test]
fn idempotent_requests_are_taken_twice() {
    for state in STATES {
        for request in [
            Request::Start,
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
    assert_eq!(State::Unconfigured.after(&Request::DirtyLog(DirtyLogOp::Enable)), None);
    assert_eq!(State::Configured.after(&Request::DirtyLog(DirtyLogOp::Enable)), Some(State::Configured));
}
