// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every role of a running VM, held against the topology table from outside, and attacked from inside.
//!
//! From outside: what the kernel shows of each live process. From inside (debug builds): each process attempts what a
//! taken-over one would; it is refused, or dies and the report names process, call and arguments.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use support::{Lab, Vm, guest, signal};
use vmm_main::launcher;
use vmm_main::topology::{self, CpuKind, DeviceKind, Shape};

#[test]
fn live_processes_are_what_the_topology_says() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let image = image.to_str().unwrap();
    for cpu in cpus() {
        let words = ["--cpu", cpu.word(), "--nvme", image];
        assert_processes(lab.start(&kernel, &words[..2]), &Shape { cpu, devices: vec![] });
        assert_processes(lab.start(&kernel, &words), &Shape { cpu, devices: vec![DeviceKind::Nvme] });
    }
}

/// The kinds of CPU that this host has.
fn cpus() -> Vec<CpuKind> {
    let mut cpus = vec![CpuKind::Soft];
    match launcher::cpu::choose(Some(CpuKind::Kvm)) {
        Ok(_) => cpus.push(CpuKind::Kvm),
        Err(why) if std::env::consts::ARCH == "aarch64" => {
            eprintln!("SKIPPED: the vCPU process on KVM: {why}")
        }
        // Not left out: there is no such process on this architecture.
        Err(_) => {}
    }
    cpus
}

/// The processes of a VM without devices on this kind of CPU; those that are the same on all of them, once.
#[cfg(debug_assertions)]
fn rows_with(cpu: CpuKind) -> Vec<(CpuKind, &'static topology::Row)> {
    let shape = Shape { cpu, devices: vec![] };
    let own = topology::processes(&shape)
        .filter(|row| cpu == CpuKind::Soft || row.needed == topology::Needed::ByCpu(cpu));
    let coordinator = (cpu == CpuKind::Soft).then_some(&topology::COORDINATOR);
    coordinator.into_iter().chain(own).map(|row| (cpu, row)).collect()
}

fn assert_processes(mut vm: Vm<'_>, shape: &Shape) {
    vm.await_running();
    let as_root = rustix::process::geteuid().is_root();
    for row in std::iter::once(&topology::COORDINATOR).chain(topology::processes(shape)) {
        let seen = vm.process(row.name);
        assert_eq!(seen["profile"], row.profile().name);
        let given = row.fds_with(shape).filter(|fd| !fd.optional).count();
        let enforced = seen["enforced"].to_string();
        assert!(
            enforced.contains(&format!("descriptors 0..{given} and no other")),
            "{}: {enforced}",
            row.name
        );
        assert_eq!(seen["observed"]["drift"], serde_json::json!([]), "{}", row.name);
        let unread = seen["observed"]["unread"].as_array().unwrap().len();
        // The audit compares seccomp, no_new_privs, every capability set, namespaces, root, mounts, ids and limits.
        assert!(unread <= usize::from(!as_root), "{}: {seen}", row.name);
        if as_root {
            assert_descriptors(row, seen["host_pid"].as_i64().unwrap());
        }
    }
    assert!(vm.lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

/// No process holds anything but kinds of objects that its row (or its own runtime) accounts for.
fn assert_descriptors(row: &topology::Row, pid: i64) {
    let runtime = ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"];
    // What the vCPU process on KVM has made for itself, and the device that it and the coordinator were given.
    let made = row.profile().name == "vcpu-kvm";
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned();
        let shared = ["socket:[", "pipe:[", "/memfd:"].iter().any(|kind| target.starts_with(kind));
        let files = row.name == "coordinator"
            && (target == "anon_inode:[pidfd]"
                || target.starts_with("pidfd")
                || [
                    "/Image",
                    "/bulkhead-vcpu",
                    "/bulkhead-vcpu-soft",
                    "/bulkhead-smmu",
                    "/bulkhead-vfio",
                    "/bulkhead-nvme",
                ]
                .iter()
                .any(|file| target.ends_with(file)));
        // An image is held by who serves it, and by who handed it on.
        let files = files || ["coordinator", "nvme0"].contains(&row.name) && target.ends_with("/disk.img");
        let kvm = made && target.starts_with("anon_inode:kvm-")
            || (made || row.name == "coordinator") && target == "/dev/kvm";
        assert!(shared || files || kvm || runtime.contains(&target.as_str()), "{} holds {target}", row.name);
    }
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
    for (cpu, row) in cpus().into_iter().flat_map(rows_with) {
        for attempt in
            ["open", "execve", "fork", "kill"].into_iter().chain(DEADLY.map(|(attempt, _)| attempt))
        {
            let mut vm = lab.start(&kernel, &["--name", &name, "--cpu", cpu.word()]);
            vm.await_running();
            let answer = lab.bulkhead(&["probe", row.name, attempt]);
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            if answer.status.success() {
                assert!(text.starts_with("refused with errno"), "{} {attempt}: {text}", row.name);
                lab.bulkhead(&["stop"]);
                assert_eq!(vm.end().0.code(), Some(0), "{} {attempt}", row.name);
                continue;
            }
            let (status, _, log) = vm.end();
            assert_eq!(status.code(), Some(3), "{} {attempt}: {log}", row.name);
            let report = log.lines().last().unwrap();
            assert!(
                report.contains(&format!("`{}` ended itself", row.profile().name)),
                "{attempt}: {report}"
            );
            assert!(report.contains("refused: "), "{attempt}: {report}");
            if let Some((_, call)) = DEADLY.iter().find(|(deadly, _)| *deadly == attempt) {
                assert!(report.contains(call) && report.contains("(0x"), "{} {attempt}: {report}", row.name);
            }
            assert_eq!(lab.left_behind(), Vec::<String>::new(), "{} {attempt}", row.name);
        }
    }
}

#[cfg(debug_assertions)]
#[test]
fn panics_and_hangs_of_a_process_end_in_a_report() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    for (cpu, row) in cpus().into_iter().flat_map(rows_with).filter(|(_, row)| row.name != "coordinator") {
        for (attempt, word) in [("panic", "panicked"), ("hang", "deadline passed")] {
            let mut vm = lab.start(&kernel, &["--cpu", cpu.word()]);
            vm.await_running();
            assert_eq!(lab.bulkhead(&["probe", row.name, attempt]).status.code(), Some(3));
            let (status, _, log) = vm.end();
            assert_eq!(status.code(), Some(3), "{log}");
            let report = log.lines().last().unwrap();
            assert!(report.contains(row.name) && report.contains(word), "{report}");
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
            let mut vm = lab.start(&kernel, &["--nvme", image]);
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
    // A server that dies by itself takes its device along, and nothing else.
    let mut vm = lab.start(&kernel, &["--nvme", image]);
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
