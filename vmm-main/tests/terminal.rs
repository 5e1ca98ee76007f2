// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead run` on a terminal of its own: raw while the guest has it, with an escape, and as it was afterwards,
//! however the VM ended.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, tcgetattr};
use support::{Lab, guest, signal};

/// A terminal: the user's side and the program's.
struct Terminal {
    user: File,
    program: OwnedFd,
}

impl Terminal {
    fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let path = ptsname(&user, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let program = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
        Self { user: user.into(), program }
    }

    /// What a user would notice: modes of input, output and line discipline.
    fn modes(&self) -> String {
        let modes = tcgetattr(&self.program).unwrap();
        format!("{:?} {:?} {:?}", modes.input_modes, modes.output_modes, modes.local_modes)
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.program).unwrap();
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && modes.output_modes.contains(OutputModes::OPOST)
    }

    /// Starts a VM as the foreground job of this terminal.
    fn start(&self, lab: &Lab, kernel: &[u8]) -> Child {
        let kernel = lab.file("Image", kernel);
        let child = self.job(lab, &["run", "--memory", "16M", "--kernel", kernel.to_str().unwrap()]);
        let begun = Instant::now();
        let runs = || String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running");
        while !self.is_raw() || !runs() {
            assert!(begun.elapsed() < support::PATIENCE, "the terminal did not become raw");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    /// Runs `bulkhead` with these words as the foreground job of this terminal.
    fn job(&self, lab: &Lab, words: &[&str]) -> Child {
        let side = || Stdio::from(self.program.try_clone().unwrap());
        Command::new("setsid")
            .arg("--ctty")
            .arg(lab.path("bulkhead"))
            .args(words)
            .env("XDG_RUNTIME_DIR", lab.path("run"))
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    /// Reads until `text` has been shown; what was.
    fn await_text(&mut self, text: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !seen.windows(text.len()).any(|part| part == text) {
            let len = self.user.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..len]);
        }
        seen
    }
}

fn lab_with_setsid() -> Option<Lab> {
    if Command::new("setsid").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no setsid(1) to make a terminal's foreground job with");
        return None;
    }
    Lab::new()
}

#[test]
fn terminal_escape_stops_the_vm_and_keys_reach_the_guest() {
    let Some(lab) = lab_with_setsid() else { return };
    let mut terminal = Terminal::new();
    let before = terminal.modes();
    let child = terminal.start(&lab, &guest::echoes());
    // Ctrl-C is the guest's, and so is a doubled Ctrl-A.
    terminal.user.write_all(b"<\x03\x01\x01>").unwrap();
    terminal.await_text(b"<\x03\x01>");
    terminal.user.write_all(b"\x01h").unwrap();
    terminal.await_text(b"Ctrl-A x: stop the VM");
    terminal.user.write_all(b"\x01x").unwrap();
    assert_eq!(support::finish(child).status.code(), Some(0));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn terminal_leaves_an_attached_console_by_its_key_and_the_vm_runs_on() {
    let Some(lab) = lab_with_setsid() else { return };
    let kernel = lab.file("Image", &guest::echoes());
    let mut vm = lab.start(&kernel, &["--console", "socket"]);
    vm.await_running();
    let mut terminal = Terminal::new();
    let before = terminal.modes();
    let client = terminal.job(&lab, &["console"]);
    terminal.await_text(b"Ctrl-A d: leave the console");
    terminal.user.write_all(b"<\x03>").unwrap();
    terminal.await_text(b"<\x03>");
    assert!(terminal.is_raw());
    terminal.user.write_all(b"\x01x").unwrap();
    terminal.await_text(b"Ctrl-A d: leave the console");
    terminal.user.write_all(b"\x01d").unwrap();
    assert_eq!(support::finish(client).status.code(), Some(0));
    assert_eq!(terminal.modes(), before);
    assert!(String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running"));
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert!(vm.end().0.success());
}

#[test]
fn terminal_is_restored_however_the_vm_ends() {
    let Some(lab) = lab_with_setsid() else { return };
    for (ending, code) in [("TERM", 0), ("coordinator", 3), ("vcpu", 3), ("stop", 0)] {
        let terminal = Terminal::new();
        let before = terminal.modes();
        let child = terminal.start(&lab, &guest::spins());
        match ending {
            "TERM" => signal(child.id().try_into().unwrap(), "TERM"),
            "stop" => assert!(lab.bulkhead(&["stop"]).status.success()),
            process => {
                let rows = lab.bulkhead(&["ps", "--json"]).stdout;
                let rows: serde_json::Value = serde_json::from_slice(&rows).unwrap();
                let rows = rows["vm"].as_array().unwrap().clone();
                let row = rows.into_iter().find(|row| row["name"] == process).unwrap();
                signal(row["host_pid"].as_i64().unwrap().try_into().unwrap(), "KILL");
            }
        }
        assert_eq!(support::finish(child).status.code(), Some(code), "{ending}");
        assert_eq!(terminal.modes(), before, "{ending}");
    }
}

#[test]
fn terminal_is_restored_when_a_signal_ends_the_launcher() {
    let Some(lab) = lab_with_setsid() else { return };
    // Those that it handles are an orderly end; the others leave it no time.
    for (name, code) in [
        ("USR1", Some(0)),
        ("ALRM", Some(0)),
        ("PROF", Some(0)),
        ("ABRT", None),
        ("TRAP", None),
        ("KILL", None),
    ] {
        let terminal = Terminal::new();
        let before = terminal.modes();
        let child = terminal.start(&lab, &guest::spins());
        signal(child.id().try_into().unwrap(), name);
        assert_eq!(support::finish(child).status.code(), code, "{name}");
        let begun = Instant::now();
        while terminal.modes() != before {
            assert!(begun.elapsed() < support::PATIENCE, "the terminal stayed raw after SIG{name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn terminal_of_a_guest_shows_no_line_of_the_log() {
    let Some(lab) = lab_with_setsid() else { return };
    let mut terminal = Terminal::new();
    let child = terminal.start(&lab, &guest::echoes());
    terminal.user.write_all(b"<in the middle of a line").unwrap();
    assert!(lab.bulkhead(&["save-restore"]).status.success());
    terminal.user.write_all(b">").unwrap();
    let shown = terminal.await_text(b">");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(support::finish(child).status.code(), Some(0));
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let log = lab.path("run/bulkhead/vm.log");
    let said = format!("bulkhead: the log is in {} while the guest has this terminal\r\n", log.display());
    assert_eq!(shown, format!("{said}<in the middle of a line>"));
    let kept = std::fs::read_to_string(&log).unwrap();
    for line in ["guest runs", "generation=2", "vm ended: stopped on request"] {
        assert!(kept.contains(line), "{line}: {kept}");
    }
    assert!(kept.starts_with("bulkhead log\n"), "{kept}");
    assert!(kept.lines().skip(1).all(|line| line.contains(" INFO ") && !line.contains('<')), "{kept}");

    // The next VM of this name keeps the last one's log.
    let terminal = Terminal::new();
    let child = terminal.start(&lab, &guest::spins());
    signal(child.id().try_into().unwrap(), "TERM");
    support::finish(child);
    assert_eq!(std::fs::read_to_string(lab.path("run/bulkhead/vm.log.1")).unwrap(), kept);
    assert_eq!(lab.left_behind().len(), 2, "the two logs: {:?}", lab.left_behind());
}

/// Waits until `holds`, which is about `what`.
fn await_that(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < support::PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A shell with jobs on this terminal, with these words; `None`, with the reason printed, where there is none.
fn shell(terminal: &Terminal, lab: &Lab, words: &[&str]) -> Option<Child> {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no bash(1) to have jobs in");
        return None;
    }
    let side = || Stdio::from(terminal.program.try_clone().unwrap());
    let mut shell = Command::new("setsid");
    shell.args(["--ctty", "bash", "--norc", "--noprofile"]).args(words).env("PS1", "ready> ");
    shell.env("XDG_RUNTIME_DIR", lab.path("run")).stdin(side()).stdout(side()).stderr(side());
    Some(shell.spawn().unwrap())
}

#[test]
fn terminal_of_a_stopped_launcher_is_as_it_was_though_its_shell_sees_to_nothing() {
    let Some(lab) = lab_with_setsid() else { return };
    let mut terminal = Terminal::new();
    let before = terminal.modes();
    let kernel = lab.file("Image", &guest::echoes());
    // One that is not interactive leaves a terminal's modes to its jobs.
    let script = "\"$0\" run --memory 16M --kernel \"$1\"; echo stopped-$?; read; fg; echo ended-$?";
    let (program, kernel) = (lab.path("bulkhead"), kernel.to_str().unwrap().to_owned());
    let Some(mut shell) = shell(&terminal, &lab, &["-m", "-c", script, program.to_str().unwrap(), &kernel])
    else {
        return;
    };
    let runs = || String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running");
    await_that("a VM in the foreground", || terminal.is_raw() && runs());
    signal(lab.launcher_pid().unwrap(), "TSTP");
    // 128 and the number of the signal.
    terminal.await_text(b"stopped-148");
    assert_eq!(terminal.modes(), before);
    terminal.user.write_all(b"\n").unwrap();
    await_that("raw after fg", || terminal.is_raw());
    terminal.user.write_all(b"<1>\x01x").unwrap();
    terminal.await_text(b"ended-0");
    assert_eq!(terminal.modes(), before);
    shell.wait().unwrap();
}

#[test]
fn launcher_is_a_job_like_any_other() {
    let Some(lab) = lab_with_setsid() else { return };
    let mut terminal = Terminal::new();
    let Some(mut shell) = shell(&terminal, &lab, &["--noediting", "-i"]) else { return };
    terminal.await_text(b"ready> ");
    let kernel = lab.file("Image", &guest::echoes());
    let line =
        format!("{} run --memory 16M --kernel {} &\n", lab.path("bulkhead").display(), kernel.display());
    terminal.user.write_all(line.as_bytes()).unwrap();
    let runs = || String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running");
    await_that("a VM that was started with &", runs);
    assert!(!terminal.is_raw(), "the terminal is the shell's");
    let launcher = || lab.launcher_pid().unwrap();

    terminal.user.write_all(b"fg\n").unwrap();
    await_that("raw after fg", || terminal.is_raw());
    terminal.user.write_all(b"<1>").unwrap();
    terminal.await_text(b"<1>");

    signal(launcher(), "TSTP");
    await_that("the shell's modes after a stop", || !terminal.is_raw());
    terminal.await_text(b"ready> ");
    terminal.user.write_all(b"fg\n").unwrap();
    await_that("raw after a stop and fg", || terminal.is_raw());
    terminal.user.write_all(b"<2>").unwrap();
    terminal.await_text(b"<2>");

    // A stop that it cannot handle, and on in the background.
    signal(launcher(), "STOP");
    terminal.await_text(b"ready> ");
    assert_eq!(lab.bulkhead(&["status"]).status.code(), Some(4));
    terminal.user.write_all(b"bg\n").unwrap();
    await_that("an answer after bg", runs);
    terminal.user.write_all(b"echo shell-$((40 + 2))\n").unwrap();
    terminal.await_text(b"shell-42");
    assert!(!terminal.is_raw());
    assert!(lab.bulkhead(&["stop"]).status.success());
    // What it ended with is the shell's business too.
    terminal.user.write_all(b"wait %1; echo ended-$?; exit\n").unwrap();
    terminal.await_text(b"ended-0");
    shell.wait().unwrap();
}
