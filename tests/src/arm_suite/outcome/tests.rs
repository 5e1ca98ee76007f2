// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::Outcome;

#[test]
fn outcome_of_passed_checks_counts_them() {
    let text = "PASS: a\nINFO: b\nPASS: c\nSUMMARY: 2 tests\n\nEXIT: STATUS=1\n";
    assert_eq!(Outcome::of(text), Outcome::Pass(2));
}

#[test]
fn outcome_with_a_failed_check_names_the_first() {
    let text = "PASS: a\nFAIL: b: c\nFAIL: d\nSUMMARY: 3 tests, 2 unexpected failures\n\nEXIT: STATUS=3\n";
    assert_eq!(Outcome::of(text), Outcome::Fail("b: c".into()));
}

#[test]
fn outcome_with_a_failed_check_is_failed_whatever_the_status() {
    assert_eq!(Outcome::of("FAIL: b\nEXIT: STATUS=1\n"), Outcome::Fail("b".into()));
}

#[test]
fn outcome_of_a_case_left_out_has_its_reason() {
    let text = "No PMU found, test skipped...\nSUMMARY: 0 tests\n\nEXIT: STATUS=77\n";
    assert_eq!(Outcome::of(text), Outcome::Skip("No PMU found, test skipped...".into()));
    let text = "SKIP: x: not here\nSUMMARY: 1 tests, 1 skipped\n\nEXIT: STATUS=1\n";
    assert_eq!(Outcome::of(text), Outcome::Skip("x: not here".into()));
}

#[test]
fn outcome_of_a_guest_that_did_not_end_shows_its_last_line() {
    let Outcome::Fail(reason) = Outcome::of("PASS: a\nwaiting\n") else { panic!("it failed") };
    assert!(reason.contains("waiting"), "{reason}");
}

#[test]
fn outcome_of_a_failed_assertion_is_failed() {
    let text = "lib/x.c:37: assert failed: y\n\tSTACK: 1 2\n\nEXIT: STATUS=127\n";
    assert_eq!(Outcome::of(text), Outcome::Fail("exit code 63; lib/x.c:37: assert failed: y".into()));
}

#[test]
fn outcome_of_measurements_counts_them() {
    let text = "name  total ns  avg ns\nhyp_call  28210224.0    430.0\nipi_hw test skipped\nlpi  25.5  9.0\nEXIT: STATUS=1\n";
    assert_eq!(Outcome::of(text), Outcome::Pass(2));
}

#[test]
fn outcome_without_any_check_is_failed() {
    let Outcome::Fail(reason) = Outcome::of("hello\n\nEXIT: STATUS=1\n") else { panic!("it passed") };
    assert!(reason.contains("checked nothing"), "{reason}");
}
