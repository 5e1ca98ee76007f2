// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose processes a VM's are, and from whom that parts them: from other VMs if each has an id of its own, never from
//! the ordinary user who started it. Both are acted out, by processes that become who they attack as.
//!
//! A test calls this very program again as the attacker: one test of it, by its exact name, with what to do in
//! `ATTACK`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal};
use support::{Lab, Vm, guest};

const ATTACK: &str = "BULKHEAD_TEST_ATTACK";
/// An ordinary user, who needs no account.
const ORDINARY: u32 = 12345;
/// "nobody".
const SHARED: u32 = 65534;
/// Ids for VMs that no account of a host has.
const RANGE: &str = "1800000000:64";

/// Says why this host cannot run a test of ids; true if it can.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can become the users that attack");
    }
    root
}

/// What the attacker of this word does, if this process is one.
fn attack() -> bool {
    let Ok(attack) = std::env::var(ATTACK) else { return false };
    let words: Vec<&str> = attack.split(' ').collect();
    let pid = words.get(1).and_then(|word| Pid::from_raw(word.parse().unwrap()));
    let outcome = match words[0] {
        // Existence is asked for, nothing is sent: the rights are those of any signal.
        "signal" => rustix::process::test_kill_process(pid.unwrap()),
        "take" => take_ram(pid.unwrap()),
        "flood" => flood(),
        other => panic!("no attack is called {other}"),
    };
    println!("attack: {outcome:?}");
    true
}

/// Takes the descriptor of guest RAM out of a vCPU process, and reads through it.
fn take_ram(pid: Pid) -> Result<(), Errno> {
    const RAM_FD: i32 = 3;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let ram = rustix::process::pidfd_getfd(&process, RAM_FD, PidfdGetfdFlags::empty())?;
    let mut bytes = [0; 8];
    rustix::io::pread(&ram, &mut bytes, 0)?;
    Ok(())
}

/// Puts as many descriptors into messages that nobody reads as the kernel lets this user, and waits to be ended.
fn flood() -> Result<(), Errno> {
    // More than the coordinator's own limit, which is what it is measured by.
    let limit = Rlimit { current: Some(4096), maximum: Some(4096) };
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    let (null, mut count) = (std::fs::File::open("/dev/null").unwrap(), 0);
    let full = [null.as_fd(); 250];
    let mut held: Vec<OwnedFd> = Vec::new();
    let errno = loop {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match send(near.as_fd(), &full) {
            Ok(()) => count += full.len(),
            Err(errno) => break errno,
        }
        held.extend([near, far]);
    };
    println!("flooded: {count} until {errno:?}");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    Ok(())
}

fn send(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::DONTWAIT).map(drop)
}

/// The test `name` of this program as user `uid`, attacking.
fn attacker(uid: u32, name: &str, attack: &str) -> Command {
    // Where every user may execute it, unlike the folder that it was built in.
    let program = std::env::temp_dir().join(format!("bulkhead-attacker-{}", std::process::id()));
    if !program.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture"]).env(ATTACK, attack).current_dir("/");
    command.uid(uid).gid(uid).stdin(Stdio::null());
    command
}

fn attacked(uid: u32, name: &str, attack: &str) -> String {
    let Output { stdout, stderr, .. } = attacker(uid, name, attack).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("attack: ")).map(|(_, rest)| rest.to_owned());
    line.unwrap_or_else(|| panic!("no attack: {text}{}", String::from_utf8_lossy(&stderr)))
}

/// What `ps`, asked by this user, says of the user of each process.
fn told_users(lab: &Lab, uid: u32) -> Vec<String> {
    let output = lab.command(&["ps", "--json"]).uid(uid).gid(uid).output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = all.as_object().unwrap().values().flat_map(|rows| rows.as_array().unwrap());
    let facts = rows.flat_map(|row| row["observed"]["facts"].as_array().unwrap());
    let users = facts.filter_map(|fact| fact.as_str().unwrap().strip_prefix("uid "));
    users.map(str::to_owned).collect()
}

fn uid_of(vm: &Vm<'_>, name: &str) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid(name))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn vms_with_ids_of_their_own_are_parted_from_each_other() {
    const NAME: &str = "vms_with_ids_of_their_own_are_parted_from_each_other";
    if attack() || !is_root() {
        return;
    }
    let (Some(one), Some(other)) = (Lab::new(), Lab::new()) else { return };
    let kernel = one.file("Image", &guest::spins());
    let mut first = one.start(&kernel, &["--ids", RANGE]);
    first.await_running();
    let mut second = other.start(&kernel, &["--ids", RANGE]);
    second.await_running();
    let (ours, theirs) = (uid_of(&first, "vcpu"), uid_of(&second, "vcpu"));
    assert_ne!(ours, theirs);
    assert_eq!(told_users(&one, 0), vec![ours.to_string(); 3]);
    for name in ["coordinator", "vcpu", "smmu0"] {
        assert_eq!(uid_of(&first, name), ours, "{name}");
        let seen = first.process(name);
        assert_eq!(seen["observed"]["drift"], serde_json::json!([]), "{name}");
        for stranger in [theirs, SHARED, ORDINARY] {
            let pid = first.pid(name);
            assert_eq!(
                attacked(stranger, NAME, &format!("signal {pid}")),
                "Err(Os { code: 1, kind: PermissionDenied, message: \"Operation not permitted\" })",
                "{name} by {stranger}"
            );
            assert!(
                attacked(stranger, NAME, &format!("take {pid}")).starts_with("Err"),
                "{name} by {stranger}"
            );
        }
        // The attack does reach what it may.
        assert_eq!(attacked(ours, NAME, &format!("signal {}", first.pid(name))), "Ok(())", "{name}");
    }
    for vm in [first, second] {
        assert!(vm.lab.bulkhead(&["stop"]).status.success());
        assert_eq!(vm.end().0.code(), Some(0));
    }
}

#[test]
fn descriptors_in_flight_are_counted_for_each_id() {
    const NAME: &str = "descriptors_in_flight_are_counted_for_each_id";
    if attack() || !is_root() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    // A user of its own for the flood, so that nothing else of the host meets it.
    const FLOODED: u32 = 1_800_000_100;
    let mut flood =
        attacker(FLOODED, NAME, "flood").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(flood.stdout.take().unwrap()));
    let told = lines.by_ref().map(Result::unwrap).find(|line| line.contains("flooded: ")).unwrap();
    assert!(told.contains("TOOMANYREFS") || told.contains("code: 109"), "{told}");
    // A VM with the flooded id cannot hand a descriptor on, which it does to save itself; one with its own does not
    // notice.
    let mut vm = lab.start(&kernel, &["--ids", &format!("{FLOODED}:1")]);
    vm.await_running();
    let answer = lab.bulkhead(&["save-restore"]);
    let told = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(!answer.status.success() && told.contains("Too many references"), "{told}");
    assert!(told.contains("--ids"), "{told}");
    // That costs the answer, and neither a process nor the VM.
    let status = lab.bulkhead(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(["running", "paused"].contains(&status["phase"].as_str().unwrap()), "{status}");
    for name in ["coordinator", "vcpu", "smmu0"] {
        assert_eq!(vm.process(name)["generation"], 1, "{name}");
    }
    assert!(lab.bulkhead(&["stop"]).status.success());
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let mut vm = lab.start(&kernel, &["--ids", RANGE]);
    vm.await_running();
    assert!(lab.bulkhead(&["save-restore"]).status.success());
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    flood.kill().unwrap();
    flood.wait().unwrap();
}

/// A place that an ordinary user can use.
fn for_ordinary(lab: &Lab) {
    for path in ["", "run"] {
        let path = lab.path(path);
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(ORDINARY)), None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn ordinary_users_vm_is_not_parted_from_that_user() {
    const NAME: &str = "ordinary_users_vm_is_not_parted_from_that_user";
    if attack() || !is_root() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    for_ordinary(&lab);
    let mut vm = lab.start_as(ORDINARY, &kernel, &[]);
    vm.await_running();
    let pid = vm.pid("vcpu");
    assert_eq!(uid_of(&vm, "vcpu"), ORDINARY);
    // It is not dumpable, and has other namespaces: neither keeps their owner out.
    assert_eq!(attacked(ORDINARY, NAME, &format!("take {pid}")), "Ok(())");
    assert_eq!(attacked(ORDINARY, NAME, &format!("signal {pid}")), "Ok(())");
    assert!(attacked(SHARED, NAME, &format!("take {pid}")).starts_with("Err"));
    let told = format!("{ORDINARY} (your own: your other processes can reach into it)");
    assert_eq!(told_users(&lab, ORDINARY), vec![told; 3]);
    rustix::process::kill_process(Pid::from_child(&vm.child), Signal::TERM).unwrap();
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn vm_of_root_without_an_id_of_its_own_is_told_as_shared() {
    if attack() || !is_root() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &["--ids", "shared"]);
    vm.await_running();
    assert_eq!(uid_of(&vm, "vcpu"), SHARED);
    let told = told_users(&lab, 0);
    let shared = |user: &String| user.starts_with(&format!("{SHARED} (shared with other VMs"));
    assert!(told.len() == 3 && told.iter().all(shared), "{told:?}");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn root_of_a_namespace_with_one_id_is_an_ordinary_user() {
    if attack() || !is_root() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    for_ordinary(&lab);
    let mut vm = lab.start_in_one_id_as(ORDINARY, &kernel);
    vm.await_running();
    // Asked by that user: root of the host is nobody in the namespace where the launcher is.
    let output = lab.command(&["ps", "--json"]).uid(ORDINARY).gid(ORDINARY).output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = all["vm"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{all}");
    for row in rows {
        let status = std::fs::read_to_string(format!("/proc/{}/status", row["host_pid"])).unwrap();
        assert!(status.contains(&format!("Uid:\t{ORDINARY}\t{ORDINARY}")), "{status}");
        assert_eq!(row["observed"]["drift"], serde_json::json!([]), "{row}");
    }
    rustix::process::kill_process(Pid::from_child(&vm.child), Signal::TERM).unwrap();
    assert_eq!(vm.end().0.code(), Some(0));
}
