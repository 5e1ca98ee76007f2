// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM without a terminal: started by a command that returns, reached by `bulkhead console`, and by a service manager.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{Lab, guest, signal};

/// Starts a VM that lives on; what the command printed.
fn detach(lab: &Lab, kernel: &[u8], words: &[&str]) -> Output {
    let kernel = lab.file("Image", kernel);
    let run = ["run", "--detach", "--memory", "16M", "--kernel", kernel.to_str().unwrap()];
    lab.bulkhead(&[&run, words].concat())
}

/// `bulkhead console`, with pipes, once the guest has sent back these keys.
fn attach(lab: &Lab, keys: &str) -> Child {
    let mut command = lab.command(&["console"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    await_text(client.stdout.as_mut().unwrap(), keys);
    client
}

fn await_text(from: &mut impl Read, text: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_eq!(from.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&byte);
    }
}

/// A VM that lives on is ended by the test that stops half-way, too.
struct Stopped<'a>(&'a Lab);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.bulkhead(&["stop"]);
    }
}

/// Waits until nothing of the VM is left but its log.
fn await_end(lab: &Lab) {
    let begun = Instant::now();
    loop {
        let mut left = lab.left_behind();
        left.retain(|what| !what.contains("/vm.log"));
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < support::PATIENCE, "{left:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn detached_vm_is_reached_by_its_console_and_outlives_whoever_attaches() {
    let Some(lab) = Lab::new() else { return };
    let _stopped = Stopped(&lab);
    let output = detach(&lab, &guest::echoes(), &["--cpu", "soft"]);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.starts_with("vm runs, its launcher is process "),
        "{said}{errors}"
    );
    for turn in 0..2 {
        let client = attach(&lab, &format!("<turn {turn}\u{1}x>"));
        signal(client.id().try_into().unwrap(), "TERM");
        assert!(support::finish(client).status.success());
    }
    let client = attach(&lab, "<last>");
    assert!(lab.bulkhead(&["stop"]).status.success());
    // Its name is free at once.
    let output = detach(&lab, &guest::echoes(), &["--cpu", "soft"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert!(!lab.path("run/bulkhead/vm.console").exists());
    assert!(support::finish(client).status.success(), "the console ends with the VM");
    await_end(&lab);
    let log = fs::read_to_string(lab.path("run/bulkhead/vm.log")).unwrap();
    assert!(log.starts_with("bulkhead log\n"), "{log}");
}

#[test]
fn detached_vm_that_cannot_start_is_told_of_by_the_command_that_was_to_return() {
    let Some(lab) = Lab::new() else { return };
    let output = detach(&lab, b"no kernel", &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.starts_with("bulkhead: "), "{errors}");
    for (words, what) in [
        (["--console", "stdio"], "its console cannot be the terminal"),
        (["--log-file", "-"], "its log cannot be standard error"),
    ] {
        let output = detach(&lab, &guest::echoes(), &words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(what), "{errors}");
    }
    await_end(&lab);
}

#[test]
fn detached_vm_that_fails_leaves_its_report_in_the_log() {
    let Some(lab) = Lab::new() else { return };
    let _stopped = Stopped(&lab);
    assert!(detach(&lab, &guest::spins(), &["--cpu", "soft"]).status.success());
    signal(lab.pid("vcpu"), "KILL");
    await_end(&lab);
    let log = fs::read_to_string(lab.path("run/bulkhead/vm.log")).unwrap();
    assert!(
        log.contains("ERROR") && log.contains("process vcpu (generation 1) was killed by signal 9"),
        "{log}"
    );
}

#[test]
fn console_of_a_vm_that_has_none_or_does_not_run_is_refused() {
    let Some(lab) = Lab::new() else { return };
    fs::create_dir_all(lab.path("run/bulkhead")).unwrap();
    rustix::fs::chmod(lab.path("run/bulkhead"), rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
    let output = lab.bulkhead(&["console", "vm"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(4) && errors.contains("no VM called vm runs"), "{errors}");
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &["--console", "none"]);
    vm.await_running();
    let output = lab.bulkhead(&["console", "vm"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(5) && errors.contains("has no console to attach to"), "{errors}");
}

#[test]
fn service_manager_is_told_when_the_guest_runs() {
    let Some(lab) = Lab::new() else { return };
    let manager = UnixDatagram::bind(lab.path("notify")).unwrap();
    manager.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let kernel = lab.file("Image", &guest::spins());
    let words = ["run", "--memory", "16M", "--console", "socket", "--kernel", kernel.to_str().unwrap()];
    let mut command = lab.command(&words);
    command.env("NOTIFY_SOCKET", lab.path("notify")).stdout(Stdio::null()).stderr(Stdio::null());
    let launcher = command.spawn().unwrap();
    let mut told = [0; 16];
    let len = manager.recv(&mut told).unwrap();
    assert_eq!(&told[..len], b"READY=1");
    assert!(String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running"));
    signal(launcher.id().try_into().unwrap(), "TERM");
    assert!(support::finish(launcher).status.success());
}
