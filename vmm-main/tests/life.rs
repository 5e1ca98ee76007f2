// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM's life with the real, sealed processes and tiny guests: power-off, reset, pause, stop, signals, save and
//! restore, console, and every way in which a party may die.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{Lab, guest, signal};

#[test]
fn guest_that_powers_off_ends_the_vm_with_all_of_its_output() {
    let Some(lab) = Lab::new() else { return };
    let text = "Hello from behind four bulkheads. ".repeat(8);
    let kernel = lab.file("Image", &guest::prints_and_powers_off(&text));
    let name = lab.vm_name();
    let (status, output, log) = lab.start(&kernel, &["--name", &name]).end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(String::from_utf8_lossy(&output), text);
    assert!(log.contains("the guest switched itself off"), "{log}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn guest_that_resets_starts_again_in_new_processes() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::prints_and_resets());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    assert_eq!(vm.output_of(3), b"RRR");
    let status = lab.bulkhead(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(
        status["reset_count"].as_u64() >= Some(2) && status["generation"].as_u64() >= Some(3),
        "{status}"
    );
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn paused_guest_stands_still_and_goes_on_where_it_was() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    let mut seen = vm.output_of(200);
    let paused = lab.bulkhead(&["pause"]);
    assert!(paused.status.success(), "{paused:?}");
    assert!(lab.bulkhead(&["pause"]).status.success(), "pausing twice is no error");
    thread::sleep(Duration::from_millis(300));
    seen.extend(vm.drain());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(vm.drain(), b"", "a paused guest prints nothing");
    let refused = lab.bulkhead(&["save-restore"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(lab.bulkhead(&["resume"]).status.success());
    seen.extend(vm.output_of(200));
    assert_counts(&seen);
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn saved_and_restored_guest_loses_and_repeats_nothing() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    let mut seen = vm.output_of(100);
    for generation in 2..5 {
        let before = vm.pid("vcpu");
        let done = lab.bulkhead(&["save-restore", "--json"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(done["generation"], generation);
        assert_ne!(vm.pid("vcpu"), before, "the guest lives in another process now");
        seen.extend(vm.output_of(100));
    }
    assert_counts(&seen);
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

/// Every byte is the one after its predecessor: nothing lost, nothing twice, memory and registers agree.
fn assert_counts(seen: &[u8]) {
    for (index, pair) in seen.windows(2).enumerate() {
        let expected = b'0' + (pair[0] - b'0' + 1) % 64;
        assert_eq!(pair[1] as char, expected as char, "byte {index} of {:?}", String::from_utf8_lossy(seen));
    }
}

#[test]
fn console_input_reaches_the_guest_byte_for_byte() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::echoes());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    // All values, the escape's prefix among them: a pipe is not a keyboard.
    let sent: Vec<u8> = (0..=255).collect();
    vm.stdin.as_mut().unwrap().write_all(&sent).unwrap();
    assert_eq!(vm.output_of(256), sent);
    signal(vm.child.id().try_into().unwrap(), "TERM");
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn console_nobody_reads_holds_up_the_guest_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::floods());
    let mut child = lab
        .command(&["run", "--memory", "16M", "--kernel", kernel.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Its standard output is a pipe that is not read: after a moment everything up to the UART is full.
    let stdout = child.stdout.take();
    while !lab.bulkhead(&["status"]).status.success() {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    for command in ["pause", "resume", "pause", "status", "stop"] {
        let output = lab.bulkhead(&[command]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    drop(stdout);
    assert_eq!(support::finish(child).status.code(), Some(0));
}

#[test]
fn each_ending_signal_is_an_orderly_stop() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let name = lab.vm_name();
    for name_of_signal in ["TERM", "INT", "HUP", "QUIT"] {
        let mut vm = lab.start(&kernel, &["--name", &name]);
        vm.await_running();
        signal(vm.child.id().try_into().unwrap(), name_of_signal);
        let (status, _, log) = vm.end();
        assert_eq!(status.code(), Some(0), "{name_of_signal}: {log}");
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "{name_of_signal}");
    }
}

#[test]
fn signals_that_the_parent_ignores_do_not_end_the_vm() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let bulkhead = lab.path("bulkhead");
    let [bulkhead, kernel] = [&bulkhead, &kernel].map(|path| path.to_str().unwrap());
    // As nohup does, as a script's `&` does, and as a daemon that does not wait for its children.
    let script = "trap '' HUP INT CHLD; exec \"$@\"";
    let child = Command::new("sh")
        .args([
            "-c",
            script,
            "sh",
            bulkhead,
            "run",
            "--kernel",
            kernel,
            "--memory",
            "16M",
            "--console",
            "none",
        ])
        .env("XDG_RUNTIME_DIR", lab.path("run"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().try_into().unwrap();
    let runs = || String::from_utf8_lossy(&lab.bulkhead(&["status"]).stdout).contains("running");
    let begun = std::time::Instant::now();
    while !runs() {
        assert!(begun.elapsed() < support::PATIENCE, "it does not run");
    }
    for name in ["HUP", "INT", "HUP"] {
        signal(pid, name);
    }
    assert!(runs());
    // How its processes end is known all the same.
    let rows = lab.bulkhead(&["ps", "--json"]).stdout;
    let rows: serde_json::Value = serde_json::from_slice(&rows).unwrap();
    let rows = rows["vm"].as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["name"] == "coordinator").unwrap();
    signal(row["host_pid"].as_i64().unwrap().try_into().unwrap(), "KILL");
    let ended = support::finish(child);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("the coordinator was killed by signal 9"), "{said}");
}

#[test]
fn second_vm_of_the_same_name_is_refused_and_the_first_lives() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &["--name", "one"]);
    vm.await_running();
    let second = lab.bulkhead(&["run", "--name", "one", "--kernel", kernel.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));
    assert!(lab.bulkhead(&["status", "one"]).status.success());
    assert_eq!(lab.bulkhead(&["status", "two"]).status.code(), Some(4));
    assert!(lab.bulkhead(&["stop", "one"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn killed_process_ends_the_vm_with_a_report_that_names_it() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let name = lab.vm_name();
    for victim in ["vcpu", "smmu0", "coordinator"] {
        let mut vm = lab.start(&kernel, &["--name", &name, "--smmu-restart", "never"]);
        vm.await_running();
        signal(vm.pid(victim), "KILL");
        let (status, _, log) = vm.end();
        assert_eq!(status.code(), Some(3), "{victim}: {log}");
        let last = log.lines().last().unwrap();
        assert!(last.contains(victim) && last.contains("killed by signal 9"), "{victim}: {last}");
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "{victim}");
    }
}

#[test]
fn killed_launcher_takes_the_vm_with_it() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let name = lab.vm_name();
    let mut vm = lab.start(&kernel, &["--name", &name]);
    vm.await_running();
    signal(vm.child.id().try_into().unwrap(), "KILL");
    assert_eq!(vm.end().0.code(), None);
    // A killed launcher cannot remove its socket; all else goes, and the next VM of the name replaces the socket.
    let begun = std::time::Instant::now();
    while lab.left_behind().len() > 1 {
        assert!(begun.elapsed() < support::PATIENCE, "{:?}", lab.left_behind());
        thread::sleep(Duration::from_millis(20));
    }
    let mut vm = lab.start(&kernel, &["--name", &name]);
    vm.await_running();
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn hostile_control_clients_disturb_nobody() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let name = lab.vm_name();
    let mut vm = lab.start(&kernel, &["--name", &name]);
    vm.await_running();
    let socket = lab.path(&format!("run/bulkhead/{name}.sock"));
    let mut open = Vec::new();
    for bytes in [
        &b"\x00\x01\x02"[..],
        b"GET /v1/sta",
        // A body that never comes. (A whole request to stop would be obeyed, and rightly.)
        b"POST /v1/probe HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
        &[0xff; 70_000],
    ] {
        let mut client = UnixStream::connect(&socket).unwrap();
        // A server that has seen enough may have closed already.
        let _ = client.write_all(bytes);
        open.push(client);
    }
    // Some stay, some leave at once; more than there are places.
    for _ in 0..100 {
        drop(UnixStream::connect(&socket).unwrap());
    }
    let status = lab.bulkhead(&["status", "--json"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("running"), "{status:?}");
    for mut client in open {
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0; 512];
        // Whatever comes, or nothing: the VM's answer to garbage is not the point, its health is.
        let _ = client.read(&mut answer);
    }
    lab.bulkhead(&["stop"]);
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn ps_shows_what_answers_and_says_which_does_not() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut well = lab.start(&kernel, &["--name", "well"]);
    let mut stopped = lab.start(&kernel, &["--name", "stopped"]);
    well.await_running();
    stopped.await_running();
    let launcher = stopped.child.id();
    support::signal(launcher.try_into().unwrap(), "STOP");
    for words in [&["ps"][..], &["ps", "--json"]] {
        let output = lab.bulkhead(words);
        let (shown, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(shown.contains("well") && shown.contains("smmu0"), "{shown}");
        assert!(said.contains("stopped.sock") && said.contains(&format!("process {launcher}, is stopped")));
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(lab.bulkhead(&["status", "stopped"]).status.code(), Some(4));
    support::signal(launcher.try_into().unwrap(), "CONT");
    assert!(lab.bulkhead(&["ps"]).status.success());
    for vm in [well, stopped] {
        support::signal(vm.child.id().try_into().unwrap(), "TERM");
        assert_eq!(vm.end().0.code(), Some(0));
    }
}

#[test]
fn answers_to_closed_and_full_outputs_end_without_a_panic() {
    let Some(lab) = Lab::new() else { return };
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    // As it was built: `host-check` starts a program beside it.
    let ended = |words: &[&str], output: Stdio, errors: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(words).env("XDG_RUNTIME_DIR", lab.path("run")).stdin(Stdio::null());
        let ended = support::finish(command.stdout(output).stderr(errors).spawn().unwrap());
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    for words in
        [&["--help"][..], &["run", "--help"], &["--version"], &["ps"], &["ps", "--json"], &["host-check"]]
    {
        // A reader that has seen enough is no failure; an answer that is lost is one.
        for (output, expected) in [(full(), 1), (closed(), 0)] {
            let (code, said) = ended(words, output, Stdio::piped());
            assert!(!said.contains("panicked"), "{words:?}: {said}");
            assert!(words[0] != "ps" || code == Some(expected), "{words:?}: {code:?} {said}");
        }
    }
    // Nothing can be told: the exit code is left.
    assert_eq!(ended(&["ps", "--nonsense"], full(), full()).0, Some(2));
    assert_eq!(ended(&["status", "none"], full(), full()).0, Some(4));
}

#[test]
fn outputs_that_are_one_pipe_have_whole_lines_of_the_log_between_the_guests() {
    let Some(lab) = Lab::new() else { return };
    let lines = "a line of the guest's\n".repeat(40);
    let kernel = lab.file("Image", &guest::prints_and_powers_off(&lines));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = lab
        .command(&["run", "--kernel", kernel.to_str().unwrap(), "--memory", "16M"])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    let (guest, log): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| *line == "a line of the guest's");
    assert_eq!(guest.len(), 40, "{text}");
    assert!(!log.is_empty() && log.iter().all(|line| line.contains(" INFO ")), "{text}");
}

#[test]
fn console_and_log_are_kept_in_the_files_that_are_named() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::prints_and_powers_off("hello\n"));
    let (console, log) = (lab.path("console.txt"), lab.path("log.txt"));
    let files = ["--console-file", console.to_str().unwrap(), "--log-file", log.to_str().unwrap()];
    for (turn, mode) in [(1, "none"), (2, "stdio")] {
        let words: Vec<&str> = files.iter().chain(&["--console", mode]).copied().collect();
        let (status, shown, said) = lab.start(&kernel, &words).end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert_eq!(said, "");
        assert_eq!(shown, if mode == "stdio" { b"hello\n".as_slice() } else { b"" });
        assert_eq!(std::fs::read_to_string(&console).unwrap(), "hello\n".repeat(turn));
        assert_eq!(std::fs::read_to_string(&log).unwrap().matches("guest runs").count(), turn);
    }
    // What is not a file of ours is neither written nor replaced.
    std::fs::write(lab.path("other.1"), "precious").unwrap();
    let other = lab.path("other");
    let words = ["--console-file", other.to_str().unwrap()];
    let (status, _, said) = lab.start(&kernel, &words).end();
    assert!(status.code() == Some(1) && said.contains("other.1 is there and was not made by it"), "{said}");
    assert_eq!(std::fs::read_to_string(lab.path("other.1")).unwrap(), "precious");
}

#[test]
fn log_does_not_grow_with_what_clients_do() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    let socket = lab.path("run/bulkhead/vm.sock");
    // More at once than there is room for, again and again: each is a warning.
    for _ in 0..20 {
        let waiting: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
        assert!(!waiting.is_empty());
    }
    signal(vm.child.id().try_into().unwrap(), "TERM");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0));
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    assert!((1..100).contains(&warnings), "{warnings} warnings");
}
