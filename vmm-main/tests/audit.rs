// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead audit` on a running VM: nothing to find where nothing is wrong, and each planted difference by its name.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::fs;
use std::process::Output;

use rustix::process::{Pid, Resource, Rlimit, geteuid, prlimit};
use serde_json::Value;
use support::{Lab, Vm, guest};

/// How often a VM that is as it should be is looked at.
const LOOKS: u32 = 20;

/// A VM with a disk that has just been started, if this user may see everything of it.
fn vm(lab: &Lab) -> Option<Vm<'_>> {
    if !geteuid().is_root() {
        eprintln!(
            "SKIPPED: the descriptors, mappings and filters of sealed processes: only root may see them"
        );
        return None;
    }
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let mut vm = lab.start(&kernel, &["--cpu", "soft", "--nvme", image.to_str().unwrap()]);
    vm.await_running();
    Some(vm)
}

/// The differences of each process.
fn drift(audited: &Output) -> Vec<(String, String)> {
    let answer: Value = serde_json::from_slice(&audited.stdout).unwrap();
    let of = |process: &Value| {
        let name = process["process"].as_str().unwrap().to_owned();
        let all: Vec<_> = process["drift"]
            .as_array()
            .unwrap()
            .iter()
            .map(|drift| drift.as_str().unwrap().to_owned())
            .collect();
        all.into_iter().map(move |drift| (name.clone(), drift))
    };
    let found: Vec<_> = answer["processes"].as_array().unwrap().iter().flat_map(of).collect();
    assert_eq!(audited.status.code(), Some(i32::from(!found.is_empty())), "{audited:?}");
    found
}

fn end(vm: Vm<'_>) {
    assert!(vm.lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn vm_as_it_should_be_shows_no_drift_and_who_maps_guest_ram() {
    let Some(lab) = Lab::new() else { return };
    let Some(vm) = vm(&lab) else { return };
    let mut longest = 0;
    for _ in 0..LOOKS {
        let audited = lab.bulkhead(&["audit", "--json"]);
        assert_eq!(drift(&audited), []);
        let answer: Value = serde_json::from_slice(&audited.stdout).unwrap();
        for process in answer["processes"].as_array().unwrap() {
            let right = process["right"].to_string();
            for seen in
                ["each instruction as in its profile", "all of known kinds", "executes /", "maps its program"]
            {
                assert!(right.contains(seen), "{seen}: {process}");
            }
            let maps_ram = matches!(process["process"].as_str().unwrap(), "vcpu" | "smmu0" | "vfio0");
            assert_eq!(process["maps_guest_ram"], maps_ram, "{process}");
            longest = longest.max(process["stopped_us"].as_u64().unwrap());
        }
    }
    println!("a process was stopped for {longest} us at most in {LOOKS} audits");
    end(vm);
}

#[test]
fn planted_differences_are_found_and_named() {
    let Some(lab) = Lab::new() else { return };
    let Some(vm) = vm(&lab) else { return };
    let audited = || drift(&lab.bulkhead(&["audit", "--json"]));

    // A limit is raised.
    let smmu = Pid::from_raw(vm.pid("smmu0"));
    let unlimited = || Rlimit { current: None, maximum: None };
    match prlimit(smmu, Resource::Nofile, unlimited()) {
        Ok(right) => {
            let found = audited();
            let is_named = |drift: &str| drift.contains("Max open files");
            assert!(matches!(&found[..], [(name, drift)] if name == "smmu0" && is_named(drift)), "{found:?}");
            prlimit(smmu, Resource::Nofile, right).unwrap();
            assert_eq!(audited(), []);
        }
        Err(error) => eprintln!("SKIPPED: a limit that is raised: {error} (CAP_SYS_RESOURCE)"),
    }

    // Another installation's processes stand in the roles' places.
    let other = lab.path("other");
    fs::create_dir(&other).unwrap();
    let copy = other.join("bulkhead");
    fs::copy(env!("CARGO_BIN_EXE_bulkhead"), &copy).unwrap();
    let mut command = lab.command(&["audit", "--json"]);
    let found = drift(
        &std::process::Command::new(&copy)
            .args(command.get_args())
            .envs(envs(&mut command))
            .output()
            .unwrap(),
    );
    assert_eq!(found.len(), 5, "{found:?}");
    for (name, drift) in &found {
        assert!(
            drift.starts_with("program: it executes /") && drift.contains("other/bulkhead"),
            "{name}: {drift}"
        );
    }

    // A descriptor that nobody gave it: what a program that was taken over could make.
    #[cfg(target_arch = "x86_64")]
    {
        let nvme = vm.pid("nvme0");
        const AT: u64 = 100;
        let duplicate = u64::try_from(nix::libc::F_DUPFD_CLOEXEC).unwrap();
        assert_eq!(inject::call(nvme, "fcntl", [0, duplicate, AT]), i64::try_from(AT).unwrap());
        let found = audited();
        let is_named = |drift: &str| drift.contains("socket:[") && drift.ends_with("as descriptor 100");
        assert!(matches!(&found[..], [(name, drift)] if name == "nvme0" && is_named(drift)), "{found:?}");
        assert_eq!(inject::call(nvme, "close", [AT, 0, 0]), 0);
        assert_eq!(audited(), []);
    }
    end(vm);
}

#[test]
fn process_that_dies_while_it_is_traced_is_reaped_and_comes_back() {
    use nix::sys::ptrace::{Options, interrupt, seize};
    use nix::sys::wait::{WaitPidFlag, waitpid};

    let Some(lab) = Lab::new() else { return };
    let Some(vm) = vm(&lab) else { return };
    let first = vm.pid("nvme0");
    let traced = nix::unistd::Pid::from_raw(first);
    seize(traced, Options::empty()).unwrap();
    interrupt(traced).unwrap();
    waitpid(traced, Some(WaitPidFlag::__WALL)).unwrap();
    support::signal(first, "KILL");
    // Until its tracer has been told its parent is not.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let is_back = || {
        let all = lab.json(&["ps", "--json"]);
        let mut rows = all.as_object().unwrap().values().flat_map(|rows| rows.as_array().unwrap());
        rows.any(|row| row["name"] == "nvme0" && row["generation"] == 2)
    };
    assert!(!is_back());
    waitpid(traced, Some(WaitPidFlag::__WALL)).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !is_back() {
        assert!(std::time::Instant::now() < deadline, "it has not come back");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let audited = lab.bulkhead(&["audit", "--json"]);
    assert_eq!(drift(&audited), [], "after new lives and exchanged channels");
    end(vm);
}

#[test]
fn restarts_by_order_show_no_drift() {
    let Some(lab) = Lab::new() else { return };
    let Some(vm) = vm(&lab) else { return };
    let program = lab.path("another-name");
    fs::copy(std::path::Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("bulkhead-nvme"), &program)
        .unwrap();
    for words in [
        &["restart", "smmu0"][..],
        &["restart", "vfio0"],
        &["save-restore"],
        &["restart", "nvme0", "--program", program.to_str().unwrap()],
        &["restart", "smmu0"],
    ] {
        let done = lab.bulkhead(words);
        assert!(done.status.success(), "{words:?}: {done:?}");
        assert_eq!(drift(&lab.bulkhead(&["audit", "--json"])), [], "behind {words:?}");
    }
    end(vm);
}

fn envs(command: &mut std::process::Command) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}

#[test]
fn questions_about_profiles_need_no_vm() {
    let Some(lab) = Lab::new() else { return };
    let ask = |words: &[&str]| {
        let answer = lab.bulkhead(words);
        (
            answer.status.code(),
            String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr),
        )
    };
    let (code, said) =
        ask(&["audit", "--explain", "smmu", "mmap", "0", "4096", "PROT_READ|PROT_EXEC", "0x22", "-1", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("prot = PROT_READ|PROT_EXEC is not allowed: memory is never made executable"),
        "{said}"
    );
    let (code, said) =
        ask(&["audit", "--explain", "smmu", "mmap", "0", "4096", "PROT_READ", "0x22", "-1", "0"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("allowed in `smmu`, for private memory"), "{said}");
    let (code, said) = ask(&["audit", "--explain", "smmu", "mmap", "PROT_READ"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = ask(&["audit", "--explain", "smmu", "socket", "AF_INET"]);
    assert_eq!(code, Some(2), "a name of a call without names: {said}");
    let (code, said) = ask(&["audit", "--explain", "smmu", "socket", "2", "1"]);
    assert!(code == Some(1) && said.contains("not in profile `smmu`"), "{said}");
    let (code, said) = ask(&["audit", "--profile", "smnu"]);
    assert!(code == Some(2) && said.contains("vcpu-soft"), "{said}");
    for arch in ["x86_64", "aarch64"] {
        for format in ["text", "markdown", "json", "oci"] {
            let (code, said) = ask(&["audit", "--profile", "mover", "--arch", arch, "--format", format]);
            assert_eq!(code, Some(0), "{said}");
        }
    }
    let (_, review) = ask(&["audit", "--profile", "smmu", "--format", "json"]);
    let old = lab.file("smmu.json", review.replace("PROT_WRITE", "PROT_NONE").as_bytes());
    let (code, said) = ask(&["audit", "--profile", "smmu", "--diff", old.to_str().unwrap()]);
    assert!(
        code == Some(0) && said.contains("+ mprotect: prot has no bits but PROT_READ|PROT_WRITE"),
        "{said}"
    );
    let (code, said) = ask(&["audit", "--profile", "smmu", "--diff", "/dev/null"]);
    assert!(code == Some(2) && said.contains("this is no profile"), "{said}");
}

/// A system call that another process makes, as if its program had been taken over: ptrace(2).
#[cfg(target_arch = "x86_64")]
mod inject {
    use nix::sys::ptrace::{self, Options};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;

    /// The length of the instruction `syscall`.
    const INSTRUCTION_LEN: u64 = 2;

    /// What `pid`, whose main thread waits in a system call, gets for this one. Its own call begins anew after it.
    pub fn call(pid: i32, name: &str, args: [u64; 3]) -> i64 {
        let number = sandbox::syscalls::number(name, sandbox::Arch::X86_64).unwrap();
        let pid = Pid::from_raw(pid);
        let wait = || waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(pid).unwrap();
        wait();
        let before = ptrace::getregs(pid).unwrap();
        assert_ne!(before.orig_rax, u64::MAX, "it does not wait in a system call");
        let mut regs = before;
        regs.rip -= INSTRUCTION_LEN;
        (regs.rax, regs.orig_rax) = (number.into(), u64::MAX);
        [regs.rdi, regs.rsi, regs.rdx] = args;
        ptrace::setregs(pid, regs).unwrap();
        // To its beginning, and to its end.
        for _ in 0..2 {
            ptrace::syscall(pid, None).unwrap();
            wait();
        }
        let answer = ptrace::getregs(pid).unwrap().rax.cast_signed();
        let mut again = before;
        again.rip -= INSTRUCTION_LEN;
        (again.rax, again.orig_rax) = (before.orig_rax, u64::MAX);
        ptrace::setregs(pid, again).unwrap();
        ptrace::detach(pid, None).unwrap();
        answer
    }
}
