// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parties that are stopped, slow or silent: a server costs its device only, a question is answered without them, and a
//! request to stop is obeyed whatever they do, and answered when everything is free.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[path = "../../dev-vfio/tests/server/mod.rs"]
mod server;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use ipc::vfio_user::feature::{MIG_DEVICE_STATE, MIGRATION};
use ipc::vfio_user::header::Command;
use serde_json::Value;
use server::{Bend, Device, Server};
use support::{Lab, PATIENCE, Vm, guest, signal};

/// A socket that `bulkhead run` connects to. Nobody is heard there unless something is served.
fn listen(lab: &Lab) -> (UnixListener, PathBuf) {
    let path = lab.path("device.sock");
    (UnixListener::bind(&path).unwrap(), path)
}

/// A device in whose registers the guest finds `first`, and a byte to end with.
fn device(first: u8) -> Device {
    let mut registers = vec![0; 64];
    registers[8] = first;
    registers[16] = b'.';
    Device { registers: Mutex::new(registers), ..Device::default() }
}

fn serve(listener: &UnixListener, device: Device, bend: Bend) -> Server {
    Server::on(listener.accept().unwrap().0.into(), device, bend)
}

/// What `inspect` says of a process.
fn inspected(lab: &Lab, process: &str) -> Value {
    let all = lab.json(&["inspect", "--json"]);
    let row = all.as_array().unwrap().iter().find(|row| row["process"] == process);
    row.unwrap_or_else(|| panic!("no {process} in {all:#}")).clone()
}

/// Waits until the control socket answers.
fn await_socket(lab: &Lab) {
    let begun = Instant::now();
    while !lab.bulkhead(&["status"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "the control socket does not answer");
        sleep(Duration::from_millis(10));
    }
}

fn stop(lab: &Lab, vm: Vm<'_>) -> String {
    let stopped = lab.bulkhead(&["stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

/// Lines of a log that tell of the device.
fn told(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("vfio0 is lost")).collect()
}

#[test]
fn a_silent_server_costs_its_device_and_nobody_waits_for_it_but_the_guest() {
    let Some(lab) = Lab::new() else { return };
    let (_listener, path) = listen(&lab);
    let kernel = lab.file("Image", &guest::drives_bar_0());
    let mut vm = lab.start(&kernel, &["--vfio-user", path.to_str().unwrap()]);
    await_socket(&lab);
    // While the device is being opened every process answers.
    let begun = Instant::now();
    while lab.json(&["ps", "--json"]).as_object().unwrap().values().next().unwrap().as_array().unwrap().len()
        < 4
    {
        assert!(begun.elapsed() < PATIENCE, "the processes are not there");
    }
    let row = inspected(&lab, "vfio0");
    assert_eq!((&row["values"]["state"], &row["unanswered"]), (&"opening".into(), &Value::Null), "{row}");
    assert_eq!(lab.json(&["status", "--json"])["phase"], "created");
    // The guest finds an empty slot.
    vm.await_running();
    assert_eq!(vm.output_of(3), [0xff; 3]);
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let told = told(&log);
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("WARN") && told[0].contains("deadline passed"), "{log}");
}

#[test]
fn an_order_to_stop_waits_for_no_server() {
    let Some(lab) = Lab::new() else { return };
    let (_listener, path) = listen(&lab);
    let kernel = lab.file("Image", &guest::spins());
    let vm = lab.start(&kernel, &["--vfio-user", path.to_str().unwrap()]);
    await_socket(&lab);
    let log = stop(&lab, vm);
    assert!(!log.contains("guest runs") && told(&log).is_empty(), "it was not waited for: {log}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn a_server_that_is_slow_at_every_answer_keeps_its_device() {
    let Some(lab) = Lab::new() else { return };
    let (listener, path) = listen(&lab);
    let kernel = lab.file("Image", &guest::drives_bar_0());
    let vm = lab.start(&kernel, &["--vfio-user", path.to_str().unwrap()]);
    let slow: Bend = Box::new(|_, _| {
        sleep(Duration::from_millis(400));
        None
    });
    let _server = serve(&listener, device(b'S'), slow);
    assert_eq!(vm.output_of(3), [b'S', 0xff, b'.']);
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(told(&log).is_empty(), "{log}");
}

#[test]
fn a_required_device_that_is_lost_is_one_clear_refusal_and_another_one_warning() {
    let Some(lab) = Lab::new() else { return };
    let (listener, _) = listen(&lab);
    let kernel = lab.file("Image", &guest::drives_bar_0_and_resets());
    let config = |required: &str| {
        let text = format!("[[device]]\nvfio-user = \"device.sock\"\n{required}\n");
        lab.file("vm.toml", text.as_bytes()).to_str().unwrap().to_owned()
    };
    // A server that closes at once.
    let words = config("required = true");
    let vm = lab.start(&kernel, &["--config", &words]);
    drop(listener.accept().unwrap());
    let (status, output, log) = vm.end();
    assert_eq!((status.code(), output.as_slice()), (Some(3), &b""[..]), "{log}");
    assert!(log.lines().last().unwrap().starts_with("bulkhead: the device vfio0 is lost: "), "{log}");
    assert!(!log.contains("guest runs") && !log.contains("the guest goes on"), "{log}");

    // One that is lost later, after the guest's reset.
    let vm = lab.start(&kernel, &["--config", &words]);
    let server = serve(&listener, device(b'1'), Box::new(|_, _| None));
    assert_eq!(vm.output_of(3), [b'1', 0xff, b'.']);
    drop(listener.accept().unwrap());
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.lines().last().unwrap().contains("the device vfio0 is lost: "), "{log}");
    drop(server);

    // The same without: one warning each time, and the guest goes on.
    let words = config("");
    let vm = lab.start(&kernel, &["--config", &words]);
    drop(listener.accept().unwrap());
    assert_eq!(vm.output_of(3), [0xff; 3]);
    let log = stop(&lab, vm);
    assert!(told(&log).iter().all(|line| line.contains("WARN")) && !told(&log).is_empty(), "{log}");

    // Nobody listens at all: a mistake in the path, unless it is said that the VM is to start without.
    drop(listener);
    let refused = lab.start(&kernel, &["--config", &words]).end();
    assert_eq!(refused.0.code(), Some(2), "{}", refused.2);
    let words = config("required = false");
    let vm = lab.start(&kernel, &["--config", &words]);
    assert_eq!(vm.output_of(3), [0xff; 3]);
    let log = stop(&lab, vm);
    assert!(told(&log)[0].contains("WARN") && told(&log)[0].contains("Connection refused"), "{log}");
}

#[test]
fn a_server_that_is_silent_after_a_guests_reset_costs_its_device() {
    let Some(lab) = Lab::new() else { return };
    let (listener, path) = listen(&lab);
    let kernel = lab.file("Image", &guest::drives_bar_0_and_resets());
    let mut vm = lab.start(&kernel, &["--vfio-user", path.to_str().unwrap()]);
    let server = serve(&listener, device(b'1'), Box::new(|_, _| None));
    assert_eq!(vm.output_of(3), [b'1', 0xff, b'.']);
    let told = vm.await_log("vfio0 is lost");
    assert!(told.contains("WARN") && told.contains("deadline passed"), "{told}");
    assert_eq!(vm.output_of(3), [0xff; 3]);
    // The guest resets itself again and again, and each boot begins with no device lost.
    let begun = Instant::now();
    loop {
        let status = lab.json(&["status", "--json"]);
        if status["lost_devices"]["vfio0"].as_str().is_some_and(|why| why.contains("deadline passed")) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
    }
    assert!(server.is_over());
    stop(&lab, vm);
}

#[test]
fn a_server_that_takes_its_time_to_go_on_is_waited_for_by_resume() {
    let Some(lab) = Lab::new() else { return };
    let (listener, path) = listen(&lab);
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &["--vfio-user", path.to_str().unwrap()]);
    let slow: Bend = Box::new(|command, body| {
        let feature = u16::from_le_bytes([*body.get(4)?, *body.get(5)?]);
        match (command, feature) {
            (Command::DEVICE_FEATURE, MIGRATION) => Some(Ok([&body[..8], &1u64.to_le_bytes()].concat())),
            (Command::DEVICE_FEATURE, MIG_DEVICE_STATE) => {
                // RUNNING: longer than any order had that nothing waits in.
                if body[8] == 2 {
                    sleep(Duration::from_secs(6));
                }
                Some(Ok(body.to_vec()))
            }
            _ => None,
        }
    });
    let _server = serve(&listener, device(b'.'), slow);
    vm.await_running();
    vm.output_of(10);
    assert!(lab.bulkhead(&["pause"]).status.success());
    vm.drain();
    let resumed = lab.bulkhead(&["resume"]);
    assert!(resumed.status.success(), "{resumed:?}");
    vm.output_of(10);
    assert!(inspected(&lab, "vfio0")["values"]["state"] == "works");
    stop(&lab, vm);
}

#[test]
fn a_stopped_process_is_told_by_inspect_and_lives() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    for process in ["smmu0", "vcpu"] {
        let pid = vm.pid(process);
        signal(pid, "STOP");
        for _ in 0..3 {
            let row = inspected(&lab, process);
            let why = row["unanswered"].as_str().unwrap_or_default();
            assert!(why.contains("does not answer"), "{row}");
        }
        let shown = String::from_utf8(lab.bulkhead(&["inspect"]).stdout).unwrap();
        assert!(shown.contains("does not answer"), "{shown}");
        signal(pid, "CONT");
        let row = inspected(&lab, process);
        assert!(row["unanswered"].is_null() && !row["values"].as_object().unwrap().is_empty(), "{row}");
    }
    // Longer than any answer may take has passed by now, and it goes on.
    vm.drain();
    vm.output_of(10);
    stop(&lab, vm);
}

#[test]
fn an_order_to_stop_is_obeyed_though_any_process_is_stopped_and_frees_name_and_disk() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    for process in ["vcpu", "vfio0", "nvme0", "smmu0"] {
        let mut vm = lab.start(&kernel, &["--nvme", image.to_str().unwrap()]);
        vm.await_running();
        signal(vm.pid(process), "STOP");
        let log = stop(&lab, vm);
        assert!(log.contains("did not quit and is killed"), "{process}: {log}");
        assert!(log.contains("stopped on request"), "{process}: {log}");
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "{process}");
    }
}

#[test]
fn an_order_to_stop_does_not_wait_for_a_pause() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    // Its vCPUs stand still, and it does not say so.
    signal(vm.pid("smmu0"), "STOP");
    let paused = thread::scope(|scope| {
        let paused = scope.spawn(|| lab.bulkhead(&["pause"]));
        let begun = Instant::now();
        while inspected(&lab, "vcpu")["values"]["state"] != "paused" {
            assert!(begun.elapsed() < PATIENCE, "the pause does not begin");
        }
        let stopped = lab.bulkhead(&["stop"]);
        assert!(stopped.status.success(), "{stopped:?}");
        paused.join().unwrap()
    });
    assert!(!paused.status.success());
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "nothing was lost by it: {log}");
    assert!(log.contains("stopped on request"), "{log}");
}

#[test]
fn name_and_disk_are_free_when_stop_has_answered() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    for _ in 0..5 {
        let mut vm = lab.start(&kernel, &["--name", "web", "--nvme", image.to_str().unwrap()]);
        vm.await_running();
        let stopped = lab.bulkhead(&["stop", "web", "--json"]);
        assert!(stopped.status.success(), "{stopped:?}");
        let status: Value = serde_json::from_slice(&stopped.stdout).unwrap();
        assert_eq!(status["phase"], "stopped", "{status}");
        // At once, and not when its launcher has ended as well.
        assert!(!lab.path("run/bulkhead/web.sock").exists());
        let disk = std::fs::File::open(&image).unwrap();
        rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(disk);
        assert_eq!(vm.end().0.code(), Some(0));
    }
}

#[test]
fn stop_is_no_success_while_a_stopped_launcher_keeps_the_name() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &["--name", "web"]);
    vm.await_running();
    // Handed over before who comes later is answered.
    let mut client = UnixStream::connect(lab.path("run/bulkhead/web.sock")).unwrap();
    assert!(lab.bulkhead(&["status"]).status.success());
    let launcher = vm.child.id().try_into().unwrap();
    signal(launcher, "STOP");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("has not freed its name"), "{answer}");
    assert!(lab.path("run/bulkhead/web.sock").exists());
    signal(launcher, "CONT");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn a_start_waits_for_the_processes_of_a_launcher_that_was_killed() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let words = ["--name", "web", "--nvme", image.to_str().unwrap()];
    let mut old = lab.start(&kernel, &words);
    old.await_running();
    // It has to be killed, so that the image is in use for some seconds still.
    signal(old.pid("nvme0"), "STOP");
    old.child.kill().unwrap();
    old.child.wait().unwrap();
    let mut new = lab.start(&kernel, &words);
    new.await_running();
    stop(&lab, new);
    assert_eq!(lab.left_behind(), Vec::<String>::new());
    // One whose launcher lives is refused, soon.
    let mut first = lab.start(&kernel, &words);
    first.await_running();
    let (status, _, log) = lab.start(&kernel, &["--name", "other", words[2], words[3]]).end();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("in use by process"), "{log}");
    stop(&lab, first);
}
