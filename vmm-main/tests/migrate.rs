// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead migrate` with a host that does not do its part: one that never greets, and one that takes the guest and
//! does not say that it runs.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "the end of what another suite plays")]
#[path = "support/lane.rs"]
mod lane;
mod support;

use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipc::migration::frame::{Hello, Kind};
use lane::Lane;
use support::{Lab, PATIENCE, Vm, finish, guest};
use vmm_main::migration::message::{Message, Session};

const NAME: &str = "source";

fn source(lab: &Lab) -> Vm<'_> {
    let kernel = lab.file("Image", &guest::spins());
    let mut source = lab.start(&kernel, &["--name", NAME, "--cpu", "soft", "--console", "none"]);
    source.await_running();
    source
}

/// Moves the guest to this socket of the place.
fn migrate(lab: &Lab, to: &str) -> Child {
    let to = format!("unix:{}", lab.path(to).display());
    let mut command = lab.command(&["migrate", NAME, "--to", &to, "--lanes", "1"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its answer, which is a refusal with this in it.
fn assert_refused(migration: Child, why: &str) {
    let output = finish(migration);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{why}: {output:?}");
}

fn await_state(lab: &Lab, state: &str) {
    let begun = Instant::now();
    while lab.json(&["status", "--json", NAME])["migration"]["state"] != state {
        assert!(begun.elapsed() < PATIENCE, "it never is {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn migration_to_a_host_that_never_greets_is_cancelled_and_another_one_does_not_wait_for_it() {
    let Some(lab) = Lab::new() else { return };
    let source = source(&lab);
    let silent = UnixListener::bind(lab.path("silent.sock")).unwrap();
    let migration = migrate(&lab, "silent.sock");
    let _connection = silent.accept().unwrap();
    await_state(&lab, "connecting");
    assert!(lab.bulkhead(&["migrate", NAME, "--cancel"]).status.success());
    assert_refused(migration, "it was cancelled");
    assert_refused(migrate(&lab, "nobody.sock"), "cannot be reached");
    assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "running");
    assert!(lab.bulkhead(&["stop", NAME]).status.success());
    assert_eq!(source.end().0.code(), Some(0));
}

/// A host that takes the guest, up to its last word.
fn take_and_be_silent(listener: &UnixListener) {
    let mut lane = Lane::greet(listener.accept().unwrap().0, PATIENCE);
    let (Kind::Hello, hello) = lane.next() else { panic!("no hello") };
    lane.send(Kind::Hello, &hello);
    let mut session = Session::destination(b"", Hello::decode(&hello).unwrap().migration, [7; 16]).unwrap();
    loop {
        let (Kind::Message, sealed) = lane.next() else { continue };
        let answer = match session.open(&sealed).unwrap() {
            Message::Offer(_) => Message::Accept,
            Message::Last { .. } => Message::Ready,
            Message::Commit => return,
            other => panic!("{other:?}"),
        };
        lane.send(Kind::Message, &session.seal(&answer).unwrap());
    }
}

#[test]
fn guest_that_may_run_elsewhere_goes_on_or_ends_as_a_person_says() {
    let Some(lab) = Lab::new() else { return };
    let source = source(&lab);
    let listener = UnixListener::bind(lab.path("there.sock")).unwrap();
    let migration = migrate(&lab, "there.sock");
    take_and_be_silent(&listener);
    assert_refused(migration, "--resolve");
    assert!(!lab.bulkhead(&["resume", NAME]).status.success());
    let resumed = lab.json(&["migrate", NAME, "--json", "--resolve", "resume"]);
    assert_eq!(resumed["phase"], "running");

    let migration = migrate(&lab, "there.sock");
    take_and_be_silent(&listener);
    assert_refused(migration, "--resolve");
    let discarded = lab.json(&["migrate", NAME, "--json", "--resolve", "discard"]);
    assert!(discarded["phase"].to_string().contains("stopped"), "{discarded}");
    assert_eq!(source.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}
