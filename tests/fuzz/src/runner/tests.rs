// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runner finds a planted bug, shortens the input to what matters, and passes where there is none.

use std::{path::Path, time::Duration};

use super::{Outcome, run};
use crate::targets::{ALL, Target};

fn target(run: fn(&[u8])) -> Target {
    Target {
        name: "planted",
        takes: "anything",
        run,
        seeds: || vec![b"a harmless seed of some length".to_vec()],
    }
}

fn run_for(target: &Target, milliseconds: u64) -> Outcome {
    let nowhere = Path::new("/nonexistent");
    run(target, nowhere, Duration::from_millis(milliseconds), 1, nowhere)
}

#[test]
fn runner_finds_a_planted_bug_and_shortens_it() {
    let planted = target(|input| assert!(!input.contains(&0xff), "planted"));
    match run_for(&planted, 10_000) {
        Outcome::Failed { input, message } => {
            assert_eq!(input, [0xff]);
            assert!(message.contains("planted"), "{message}");
        }
        Outcome::Passed { count } => panic!("the bug was not found in {count} inputs"),
    }
}

#[test]
fn runner_without_time_still_runs_every_seed() {
    let planted = target(|input| assert_ne!(input, b"a harmless seed of some length"));
    assert!(matches!(run_for(&planted, 0), Outcome::Failed { .. }));
}

#[test]
fn seeds_of_every_target_pass() {
    for target in &ALL {
        assert!(!(target.seeds)().is_empty(), "{} has no seeds", target.name);
        assert!(matches!(run_for(target, 0), Outcome::Passed { .. }), "{}", target.name);
    }
}
