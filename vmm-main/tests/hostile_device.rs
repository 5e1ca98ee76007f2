// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device processes that break the contract: each costs its VM a clear report and exit code 3, and leaves nothing.
//!
//! The hostile device has to be a real, static program in the place of `bulkhead-smmu`, so this program plays both
//! parts: run by a test runner it is the test, exec'ed by a coordinator it is the device. What the device does is
//! a byte in the copy that the test makes of itself: a spawned process has no environment and no files to be told by.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

// The cross-process suites' own: this crate does not depend on theirs.
#[path = "../../tests/src/runner.rs"]
mod runner;
mod support;

use std::hint::black_box;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{Event, Reply};
use rustix::net::{SendFlags, send};
use support::{Lab, guest};

/// Patched in each copy.
static SCRIPT: [u8; 22] = *b"HOSTILE-DEVICE-SCRIPT-";
const MARK: &[u8; 22] = b"HOSTILE-DEVICE-SCRIPT-";

/// What the device does, by the last byte of the mark, and what the report must say.
const SCRIPTS: [(u8, &str); 10] = [
    (b'0', "magic"),
    (b'1', "not smmu protocol"),
    (b'2', "ended with exit code 0"),
    (b'3', "not Sealed"),
    (b'4', "peer broke the contract"),
    (b'5', "not open"),
    (b'6', "unexpected reply"),
    (b'7', "floods"),
    (b'8', "a second time"),
    (b'9', "speaks for the guest"),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.first().is_some_and(|word| word == "bulkhead-smmu") {
        return device(black_box(&SCRIPT)[21], words[2].parse().unwrap());
    }
    runner::run(&words, &[("device_that_breaks_the_contract_is_reported", reports)]);
}

fn reports() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut own = Vec::new();
    std::fs::File::open("/proc/self/exe").unwrap().read_to_end(&mut own).unwrap();
    let mut at: Vec<usize> = own
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, part)| part == MARK)
        .map(|(at, _)| at + MARK.len() - 1)
        .collect();
    assert!(!at.is_empty());
    for (script, text) in SCRIPTS {
        at.iter_mut().for_each(|at| own[*at] = script);
        let program = lab.path("bulkhead-smmu");
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, &own).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

        let name = lab.vm_name();
        let (status, _, log) = lab.start(&kernel, &["--name", &name]).end();
        let report = log.lines().last().unwrap_or_default();
        assert_eq!(status.code(), Some(3), "script {}: {log}", char::from(script));
        assert!(report.contains("smmu0") && report.contains(text), "script {}: {report}", char::from(script));
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "script {}", char::from(script));
    }
    println!("{} scripts were reported", SCRIPTS.len());
}

/// The device's part. It is sandboxed by its parents, and does not seal itself.
fn device(script: u8, generation: u32) {
    let control: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let raw = |bytes: &[u8]| {
        // A coordinator that has closed already has noticed already.
        let _ = send(&control, bytes, SendFlags::NOSIGNAL);
    };
    let role = if script == b'1' { Role::Vcpu } else { Role::Smmu };
    let channel = Channel::<ipc::protocol::control::Control>::from_fd(
        control.try_clone().unwrap(),
        Hello::new(role, generation),
    );
    match script {
        b'0' => return linger(&raw, b"not one of the contract's frames at all"),
        b'2' => return,
        _ => {}
    }
    channel.hello(Role::Coordinator, Deadline::after(Duration::from_secs(5))).unwrap();
    let tell = |event: Event| channel.event::<OwnedFd>(&event, &[], Deadline::after(Duration::from_secs(1)));
    if script == b'3' {
        tell(Event::GuestReset).unwrap();
        return linger(&raw, b"");
    }
    tell(Event::Sealed(vec!["nothing at all".to_owned()])).unwrap();
    loop {
        let request_id = match channel.recv(Deadline::after(Duration::from_secs(5))) {
            Ok(Incoming::Request { request_id, .. }) => request_id,
            Ok(_) => continue,
            Err(_) => return,
        };
        let answer = |id: u64, reply: Reply| {
            channel.reply::<OwnedFd>(id, &reply, &[], Deadline::after(Duration::from_secs(1)))
        };
        match script {
            b'4' => return linger(&raw, &[0xff; 40]),
            b'5' => {
                answer(request_id + 77, Reply::Done).unwrap();
                return linger(&raw, b"");
            }
            b'6' => answer(request_id, Reply::Saved { len: u64::MAX }).unwrap(),
            b'7' => {
                // Until the coordinator has had enough, and closes.
                let nobody = || Event::PeerFailed { name: "nobody".to_owned(), why: String::new() };
                while tell(nobody()).is_ok() {}
                return;
            }
            b'8' => {
                answer(request_id, Reply::Done).unwrap();
                tell(Event::Sealed(vec![])).unwrap();
            }
            b'9' => {
                answer(request_id, Reply::Done).unwrap();
                tell(Event::GuestReset).unwrap();
            }
            _ => return,
        }
    }
}

/// Says something and stays, so that it is the word and not the end that is noticed.
fn linger(raw: &dyn Fn(&[u8]), bytes: &[u8]) {
    if !bytes.is_empty() {
        raw(bytes);
    }
    std::thread::sleep(Duration::from_secs(5));
}
