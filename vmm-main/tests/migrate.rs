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

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc::migration::frame::{Hello, Kind, MigrationId};
use lane::Lane;
use support::{Lab, PATIENCE, Vm, finish, guest};
use vmm_main::launcher::other_host::GREETING;
use vmm_main::migration::message::{Message, Session};
use vmm_main::migration::question::{ANSWER_LEN, Key, QUESTION_LEN};

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

/// A host that takes the guest, up to its last word; which migration it was.
fn take_and_be_silent(listener: &UnixListener) -> MigrationId {
    let mut lane = Lane::greet(listener.accept().unwrap().0, PATIENCE);
    let (Kind::Hello, hello) = lane.next() else { panic!("no hello") };
    lane.send(Kind::Hello, &hello);
    let migration = Hello::decode(&hello).unwrap().migration;
    let mut session = Session::destination(b"", migration, [7; 16]).unwrap();
    loop {
        let (Kind::Message, sealed) = lane.next() else { continue };
        let answer = match session.open(&sealed).unwrap() {
            Message::Offer(_) => Message::Accept,
            Message::Last { .. } => Message::Ready,
            Message::Commit => return migration,
            other => panic!("{other:?}"),
        };
        lane.send(Kind::Message, &session.seal(&answer).unwrap());
    }
}

/// The source has lost its guest to a host at this socket, which does not say that it runs.
fn lose(lab: &Lab) -> (UnixListener, MigrationId) {
    let path = lab.path("there.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let migration = migrate(lab, "there.sock");
    let id = take_and_be_silent(&listener);
    assert_refused(migration, "--resolve");
    (listener, id)
}

/// A host that is asked where the guest is, and holds the guest of `key`. What it says instead, if anything.
fn answer(listener: UnixListener, key: Key, instead: Option<Vec<u8>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(&GREETING).unwrap();
        let mut question = [0; QUESTION_LEN];
        socket.read_exact(&mut question).unwrap();
        let answer = instead.unwrap_or_else(|| key.answer(&question).unwrap());
        socket.write_all(&answer).unwrap();
        // Whoever asks closes first.
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    })
}

fn resolve(lab: &Lab, words: &[&str]) -> Output {
    lab.bulkhead(&[&["migrate", NAME, "--json", "--resolve"], words].concat())
}

/// The other host's answer, as the status has it.
fn other_host(output: &Output) -> String {
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["other_host"].as_str().unwrap().to_owned()
}

#[test]
fn guest_that_may_run_elsewhere_goes_on_or_ends_as_a_person_says_if_nobody_can_be_asked() {
    let Some(lab) = Lab::new() else { return };
    let source = source(&lab);
    let (listener, _) = lose(&lab);
    drop(listener);
    assert!(!lab.bulkhead(&["resume", NAME]).status.success());
    for word in ["resume", "discard"] {
        let refused = resolve(&lab, &[word]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        for words in
            ["could not be asked: the other host cannot be reached", "look at the other host", "--force"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "paused");
    }
    let resumed = resolve(&lab, &["resume", "--force"]);
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "running");

    let (listener, _) = lose(&lab);
    drop(listener);
    let discarded = resolve(&lab, &["discard", "--force"]);
    assert!(String::from_utf8_lossy(&discarded.stdout).contains("stopped"), "{discarded:?}");
    assert_eq!(source.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn person_who_is_wrong_is_told_so_by_the_other_host_and_may_insist() {
    let Some(lab) = Lab::new() else { return };
    let source = source(&lab);
    let key = |id| Key::new(id, Vec::new());
    // It has the guest: that does not go on here too.
    let (listener, id) = lose(&lab);
    let host = answer(listener, key(id), None);
    let refused = resolve(&lab, &["resume"]);
    host.join().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    for words in ["the other host says that it has the guest", "--resolve discard", "--force"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "paused");
    let insisted = resolve(&lab, &["resume", "--force"]);
    assert!(insisted.status.success() && other_host(&insisted).contains("--force"), "{insisted:?}");
    // It does not know it: that does not end here. An answer of another migration's host.
    let (listener, _) = lose(&lab);
    let host = answer(listener, key(MigrationId([0; 16])), None);
    let refused = resolve(&lab, &["discard"]);
    host.join().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("knows of no such guest"), "{refused:?}");
    assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "paused");
    // What was not made with the secret is no answer.
    let path = lab.path("there.sock");
    std::fs::remove_file(&path).unwrap();
    let host = answer(UnixListener::bind(path).unwrap(), key(id), Some(vec![1; ANSWER_LEN]));
    let refused = resolve(&lab, &["discard"]);
    host.join().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("not authentic"), "{refused:?}");
    assert_eq!(lab.json(&["status", "--json", NAME])["phase"], "paused");
    assert!(resolve(&lab, &["resume", "--force"]).status.success());
    assert!(lab.bulkhead(&["stop", NAME]).status.success());
    assert_eq!(source.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}
