// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver against small shell programs that stand in for a guest.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::Console;

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

fn program(script: &str) -> Console {
    Console::start(Command::new("sh").args(["-c", script])).unwrap()
}

/// Echoes each line and then runs it, as a shell on a terminal does.
fn shell() -> Console {
    program(
        "printf 'bulkhead-guest:/# '; while read -r line; do printf '%s\\r\\n' \"$line\"; eval \"$line\"; done",
    )
}

#[test]
fn wait_returns_what_came_before_and_goes_on_behind() {
    let mut console = program("printf 'alpha beta gamma'");
    assert_eq!(console.wait_for("beta", SOON).unwrap(), "alpha ");
    assert_eq!(console.wait_for("gamma", SOON).unwrap(), " ");
}

#[test]
fn wait_for_text_that_never_comes_ends_at_its_deadline() {
    let mut console = program("echo something; sleep 60");
    let start = Instant::now();
    let error = console.wait_for("else", SHORT).unwrap_err().to_string();
    assert!(error.contains("did not come within 0.1 s"), "{error}");
    assert!(start.elapsed() < SOON);
}

#[test]
fn wait_for_text_of_a_program_that_ended_fails_at_once() {
    let mut console = program("echo something");
    let error = console.wait_for("else", Duration::from_secs(600)).unwrap_err().to_string();
    assert!(error.contains("ended before"), "{error}");
}

#[test]
fn run_returns_output_and_exit_code() {
    let mut console = shell();
    let answer = console.run("echo one; echo two; (exit 3)", SOON).unwrap();
    assert_eq!((answer.output.as_str(), answer.code), ("one\ntwo", 3));
}

#[test]
fn run_twice_keeps_the_answers_apart() {
    let mut console = shell();
    assert_eq!(console.run("echo first", SOON).unwrap().output, "first");
    assert_eq!(console.run("true", SOON).unwrap().output, "");
    assert_eq!(console.run("printf unterminated", SOON).unwrap().output, "unterminated");
}

#[test]
fn run_of_a_command_that_hangs_names_it() {
    let mut console = shell();
    let error = format!("{:#}", console.run("sleep 60", SHORT).unwrap_err());
    assert!(error.contains("`sleep 60` in the guest did not end"), "{error}");
}

#[test]
fn transcript_and_errors_are_kept_apart() {
    let mut console = program("echo wrong >&2; echo right; exit 4");
    assert_eq!(console.wait_exit(SOON).unwrap().code(), Some(4));
    assert!(console.wait_for("never", SOON).is_err());
    assert_eq!(console.transcript(), "right\n");
    // Standard error has a reader of its own, which may come after the other's end.
    let deadline = std::time::Instant::now() + SOON;
    while console.errors().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(console.errors(), "wrong\n");
}

#[test]
fn console_dropped_ends_its_program() {
    let console = program("sleep 60");
    let stat = format!("/proc/{}", console.pid());
    drop(console);
    assert!(!std::path::Path::new(&stat).exists());
}
