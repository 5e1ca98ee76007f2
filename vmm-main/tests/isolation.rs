// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every role of a running VM, attacked from inside (debug builds).
//!
//! Each process attempts what a taken-over one would; it is refused, or dies and the report names process, call and
//! arguments.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::sync::Arc;

use support::{Lab, cpus, guest, signal};
use vmm_main::system::{COORDINATOR_ID, CpuKind, Instance, Shape, System, VCPU};

/// The death of any process without a device ends the VM, with its report.
#[cfg(debug_assertions)]
const ENDS_THE_VM: [&str; 2] = ["--smmu-restart", "never"];

/// The processes of a VM without devices on this kind of CPU; those that are the same on all of them, once.
#[cfg(debug_assertions)]
fn processes_with(cpu: CpuKind) -> Vec<(CpuKind, Arc<Instance>)> {
    let system = System::new(&Shape::new(cpu));
    let own = |instance: &&Arc<Instance>| cpu == CpuKind::Soft || instance.id == VCPU;
    system.instances().filter(own).map(|instance| (cpu, Arc::clone(instance))).collect()
}

#[cfg(debug_assertions)]
#[test]
fn attempts_from_inside_are_refused_or_end_in_a_report() {
    /// What must end the process, and the call that its report must name. The others may also be refused by an error.
    const DEADLY: [(&str, &str); 6] = [
        ("socket", "socket("),
        ("ptrace", "ptrace("),
        ("foreign-ioctl", "ioctl("),
        ("mmap-exec", "mmap("),
        ("unshare", "unshare("),
        ("mount", "mount("),
    ];
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let name = lab.vm_name();
    for (cpu, process) in cpus().into_iter().flat_map(processes_with) {
        let (process, profile) = (process.id.to_string(), process.template.profile().name);
        for attempt in
            ["open", "execve", "fork", "kill"].into_iter().chain(DEADLY.map(|(attempt, _)| attempt))
        {
            let words = ["--name", &name, "--cpu", cpu.as_str()];
            let mut vm = lab.start(&kernel, &[&words[..], &ENDS_THE_VM].concat());
            vm.await_running();
            let answer = lab.bulkhead(&["probe", &process, attempt]);
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            if answer.status.success() {
                assert!(text.starts_with("refused with errno"), "{} {attempt}: {text}", process);
                lab.bulkhead(&["stop"]);
                assert_eq!(vm.end().0.code(), Some(0), "{} {attempt}", process);
                continue;
            }
            let (status, _, log) = vm.end();
            assert_eq!(status.code(), Some(3), "{} {attempt}: {log}", process);
            let report = log.lines().last().unwrap();
            assert!(report.contains(&format!("`{}` ended itself", profile)), "{attempt}: {report}");
            assert!(report.contains("refused: "), "{attempt}: {report}");
            if let Some((_, call)) = DEADLY.iter().find(|(deadly, _)| *deadly == attempt) {
                assert!(report.contains(call), "{} {attempt}: {report}", process);
            }
            assert_eq!(lab.left_behind(), Vec::<String>::new(), "{} {attempt}", process);
        }
    }
}

#[cfg(debug_assertions)]
#[test]
fn vsmmu_that_attempts_what_is_refused_is_reported_and_the_guest_goes_on_with_its_next_life() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &["--cpu", "soft"]);
    vm.await_running();
    for generation in [2, 3] {
        let answer = lab.bulkhead(&["probe", "smmu0", "socket"]);
        assert!(!answer.status.success(), "{answer:?}");
        let told = vm.await_log("it is started anew");
        assert!(told.contains("socket(") && told.contains("not in profile `smmu`"), "{told}");
        vm.await_log("smmu0 goes on where it died");
        assert_eq!(vm.process("smmu0")["generation"], generation);
    }
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[cfg(debug_assertions)]
#[test]
fn panics_and_hangs_of_a_process_end_in_a_report() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let processes = cpus().into_iter().flat_map(processes_with);
    for (cpu, process) in processes.filter(|(_, process)| process.id != COORDINATOR_ID) {
        let process = process.id.to_string();
        for (attempt, word) in [("panic", "panicked"), ("hang", "deadline passed")] {
            let mut vm = lab.start(&kernel, &[&["--cpu", cpu.as_str()][..], &ENDS_THE_VM].concat());
            vm.await_running();
            assert_eq!(lab.bulkhead(&["probe", &process, attempt]).status.code(), Some(3));
            let (status, _, log) = vm.end();
            assert_eq!(status.code(), Some(3), "{log}");
            let report = log.lines().last().unwrap();
            assert!(report.contains(&process) && report.contains(word), "{report}");
        }
    }
}

#[cfg(debug_assertions)]
#[test]
fn processes_of_a_device_are_refused_too_and_its_server_costs_the_device_only() {
    use rustix::io::Errno;
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let image = image.to_str().unwrap();
    for attempt in
        ["open", "socket", "execve", "ptrace", "foreign-ioctl", "mmap-exec", "fork", "kill", "mount"]
    {
        for name in ["vfio0", "nvme0"] {
            let mut vm = lab.start(&kernel, &["--nvme", image, "--device-restart", "never"]);
            vm.await_running();
            let answer = lab.bulkhead(&["probe", name, attempt]);
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            if answer.status.success() {
                assert!(text.starts_with("refused with errno"), "{name} {attempt}: {text}");
                lab.bulkhead(&["stop"]);
                assert_eq!(vm.end().0.code(), Some(0), "{name} {attempt}");
                continue;
            }
            // Either process takes its device along, and nothing else.
            let told = vm.await_log("the guest goes on without it");
            assert!(told.contains("WARN") && told.contains("refused: "), "{name} {attempt}: {told}");
            assert!(lab.bulkhead(&["stop"]).status.success(), "{name} {attempt}");
            assert_eq!(vm.end().0.code(), Some(0), "{name} {attempt}");
        }
    }
    // What a process may have is bounded, and the bound is an error to who meets it: the machine goes on.
    let mut vm = lab.start(&kernel, &["--nvme", image]);
    vm.await_running();
    for (name, attempt, errno) in [
        ("nvme0", "far-write", Errno::FBIG),
        ("nvme0", "much-memory", Errno::NOMEM),
        ("vfio0", "much-memory", Errno::NOMEM),
        ("smmu0", "much-memory", Errno::NOMEM),
        ("vcpu", "much-memory", Errno::NOMEM),
        ("smmu0", "much-address-space", Errno::NOMEM),
        ("vcpu", "much-address-space", Errno::NOMEM),
    ] {
        let answer = lab.bulkhead(&["probe", name, attempt]);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let expected = format!("refused with errno {}", errno.raw_os_error());
        assert!(text.starts_with(&expected), "{name} {attempt}: {answer:?}");
    }
    assert_eq!(std::fs::metadata(image).unwrap().len(), 1 << 20);
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    // A server that dies by itself, and is not to come back, takes its device along, and nothing else.
    let mut vm = lab.start(&kernel, &["--nvme", image, "--device-restart", "never"]);
    vm.await_running();
    signal(vm.pid("nvme0"), "KILL");
    let told = vm.await_log("the guest goes on without it");
    assert!(told.contains("WARN") && told.contains("vfio0 is lost") && told.contains("nvme0"), "{told}");
    let answer = lab.bulkhead(&["status"]);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("running"), "{answer:?}");
    assert!(lab.bulkhead(&["stop"]).status.success());
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches("vfio0 is lost").count(), 1, "told once: {log}");
}
