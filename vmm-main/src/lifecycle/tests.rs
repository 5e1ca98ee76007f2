// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The full table of phases and steps, so that a new arm cannot quietly change an old answer.

use super::*;

fn phases() -> [Phase; 6] {
    let stopped = Phase::Stopped { why: Why::Asked };
    [Phase::Created, Phase::Running, Phase::Paused, Phase::Held, Phase::Stopping, stopped]
}

#[test]
fn lifecycle_table_allows_exactly_the_drawn_arrows() {
    // Rows: created, running, paused, held, stopping, stopped. An empty word is a refusal.
    let table: [(Step, [&str; 6]); 6] = [
        (Step::Start, ["running", "", "", "", "", ""]),
        (Step::Pause, ["", "paused", "paused", "", "", ""]),
        (Step::Resume, ["", "running", "running", "", "", ""]),
        (Step::Reset, ["", "created", "", "", "", ""]),
        (Step::Stop, ["stopping", "stopping", "stopping", "stopping", "stopping", ""]),
        (Step::End(Why::GuestPoweredOff), ["stopped"; 6]),
    ];
    for (step, row) in table {
        for (phase, expected) in phases().iter().zip(row) {
            match phase.after(step.clone()) {
                Ok(next) => assert_eq!(next.as_str(), expected, "{phase:?} {step:?}"),
                Err(problem) => {
                    assert_eq!(expected, "", "{phase:?} {step:?}");
                    assert_eq!(problem.class, Class::State);
                    assert!(problem.what.contains(phase.as_str()), "{problem}");
                }
            }
        }
    }
}

#[test]
fn lifecycle_first_end_keeps_its_reason() {
    let ended = Phase::Running.after(Step::End(Why::GuestPoweredOff)).unwrap();
    let again = ended.after(Step::End(Why::LauncherGone)).unwrap();
    assert_eq!(again, Phase::Stopped { why: Why::GuestPoweredOff });
}

#[test]
fn lifecycle_phase_survives_json() {
    let why = Why::Failed { problem: Problem::host("a", "b", "c"), last_lines: vec!["x".into()] };
    for phase in phases().into_iter().chain([Phase::Stopped { why }]) {
        let text = serde_json::to_string(&phase).unwrap();
        assert_eq!(serde_json::from_str::<Phase>(&text).unwrap(), phase, "{text}");
    }
}
