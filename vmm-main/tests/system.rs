// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system table, held against running VMs: every process, how it is confined, and every descriptor that it holds.
//!
//! What the kernel shows of each live process in `/proc/PID/fd` is what the table gives it: shared memory by its name,
//! sockets by who else holds the same one, files by their path. Nothing is held that the table does not know.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ipc::instance::InstanceId;
use support::{Lab, Vm, cpus, guest};
use vmm_main::system::{
    COORDINATOR_ID, DEVICES_MAX, Descriptor, DeviceKind, Edge, EdgeKind, Instance, Make, ObjectId, Shape,
    System,
};

/// The open descriptors of each process: number and what the kernel shows of it.
type Open = BTreeMap<InstanceId, BTreeMap<usize, String>>;

#[test]
fn live_processes_are_what_the_table_says() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let initramfs = lab.file("initramfs.cpio", &[0; 4096]);
    let images = ["a.img", "b.img", "c.img"].map(|name| lab.file(name, &[0; 1 << 20]));
    let disks: Vec<&str> = images.iter().flat_map(|image| ["--nvme", image.to_str().unwrap()]).collect();
    for cpu in cpus() {
        for count in [0, 1, 3] {
            let name = lab.vm_name();
            let mut words = vec!["--name", &name, "--cpu", cpu.as_str()];
            words.extend(["--initramfs", initramfs.to_str().unwrap()]);
            words.extend(&disks[..2 * count]);
            let shape =
                Shape { initramfs: true, ..Shape::new(cpu).with_devices(vec![DeviceKind::Nvme; count]) };
            assert_vm(&name, lab.start(&kernel, &words), &System::new(&shape));
        }
    }
}

fn assert_vm(name: &str, mut vm: Vm<'_>, system: &System) {
    vm.await_running();
    let as_root = rustix::process::geteuid().is_root();
    let mut open = Open::new();
    for instance in system.instances() {
        let seen = vm.process(&instance.id.to_string());
        assert_eq!(seen["profile"], instance.template.profile().name);
        let given = instance.descriptors.len();
        let enforced = seen["enforced"].to_string();
        let sealed = format!("descriptors 0..{given} and no other");
        assert!(enforced.contains(&sealed), "{}: {enforced}", instance.id);
        assert_eq!(seen["observed"]["drift"], serde_json::json!([]), "{}", instance.id);
        let unread = seen["observed"]["unread"].as_array().unwrap().len();
        // The audit compares seccomp, no_new_privs, every capability set, namespaces, root, mounts, ids and limits.
        assert!(unread <= usize::from(!as_root), "{}: {seen}", instance.id);
        if as_root {
            open.insert(instance.id, descriptors(seen["host_pid"].as_i64().unwrap()));
        }
    }
    if as_root {
        for instance in system.instances() {
            assert_held(name, system, instance, &open);
        }
        assert_sockets(system, &open);
    } else {
        eprintln!("SKIPPED: the descriptors of sealed processes: only root may list them");
    }
    assert!(vm.lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

fn descriptors(pid: i64) -> BTreeMap<usize, String> {
    let link = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, target))
    };
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| link(entry.unwrap())).collect()
}

/// Every descriptor of a process is what the table gives it under that number, or of a kind that its program makes.
fn assert_held(vm: &str, system: &System, instance: &Instance, open: &Open) {
    let id = instance.id;
    let mut found = BTreeSet::new();
    for (number, link) in &open[&id] {
        let given = instance.descriptors.get(*number).filter(|given| is_of(vm, system, given, link));
        if let Some(given) = given {
            found.insert(given.slot.clone());
            continue;
        }
        // A number that was closed may be another descriptor's by now.
        assert!(is_made(vm, system, instance, link), "{id} holds {link} as {number}");
    }
    // What is a connection is held for life; memory is mapped, and its descriptor may be closed.
    let connections = instance.descriptors.iter().filter(|held| is_socket(make(system, held.object)));
    for held in connections {
        assert!(
            id == COORDINATOR_ID || found.contains(&held.slot),
            "{id} has lost {}: {:?}",
            held.slot,
            open[&id]
        );
    }
}

/// Whether the kernel shows this descriptor as the table has it.
fn is_of(vm: &str, system: &System, held: &Descriptor, link: &str) -> bool {
    let object = held.object;
    let memory = |name: String| link == format!("/memfd:{name} (deleted)");
    match (object.kind, make(system, object)) {
        (EdgeKind::Control | EdgeKind::Console | EdgeKind::VfioUser, _) => link.starts_with("socket:["),
        (EdgeKind::Log, _) => link.starts_with("pipe:["),
        (EdgeKind::CrashPage, _) => link.starts_with("/memfd:") && link.contains("crash"),
        (EdgeKind::Handover, _) => memory("bulkhead-configuration".to_owned()),
        (EdgeKind::Kernel, _) => link.ends_with("/Image"),
        (EdgeKind::Initramfs, _) => link.ends_with("/initramfs.cpio"),
        (EdgeKind::Image, _) => {
            let image = ["a.img", "b.img", "c.img"].get(usize::from(object.owner.index));
            image.is_some_and(|image| link.ends_with(image))
        }
        (EdgeKind::Kvm, _) => link == "/dev/kvm",
        (EdgeKind::Program, _) => {
            link.ends_with(&format!("/{}", held.slot.to_string().trim_start_matches("program:")))
        }
        (
            _,
            make @ (Make::Ram
            | Make::DirtyLog
            | Make::Checkpoint
            | Make::OwedMap
            | Make::Ring
            | Make::RegisterPage
            | Make::MsiBoard),
        ) => memory(make.memory_name(vm, object.owner)),
        (_, make) => is_socket(make) && link.starts_with("socket:["),
    }
}

/// Whether a process has made such a descriptor, or was sent it, after its start.
fn is_made(vm: &str, system: &System, instance: &Instance, link: &str) -> bool {
    if link == "anon_inode:[eventpoll]" || link == "anon_inode:[eventfd]" {
        return true;
    }
    if instance.id != COORDINATOR_ID {
        return instance.template.program == "bulkhead-vcpu" && link.starts_with("anon_inode:kvm-");
    }
    // The coordinator has every object, its ends of channels and logs, its own wake-up, and its clients.
    let of_an_object = || {
        let mut held = system.instances().flat_map(|instance| &instance.descriptors);
        held.any(|held| is_of(vm, system, held, link))
    };
    link.contains("pidfd") || link.starts_with("pipe:[") || of_an_object()
}

fn make(system: &System, object: ObjectId) -> Make {
    let mut objects = system.edges().iter().flat_map(Edge::objects);
    objects.find(|(known, _)| *known == object).unwrap().1
}

const fn is_socket(make: Make) -> bool {
    matches!(make, Make::Channel | Make::Stream | Make::Doorbell)
}

/// A connection between two processes is theirs alone; a doorbell is kept by the coordinator for the next life of a
/// process, and so is the end of a function link whose process may have one; no two processes hold the same end.
fn assert_sockets(system: &System, open: &Open) {
    let mut holders: BTreeMap<&str, BTreeSet<InstanceId>> = BTreeMap::new();
    for (id, links) in open {
        for link in links.values().filter(|link| link.starts_with("socket:[")) {
            holders.entry(link).or_default().insert(*id);
        }
    }
    for process in system.processes() {
        for (number, held) in process.descriptors.iter().enumerate() {
            let make = make(system, held.object);
            let Some(link) = open[&process.id].get(&number).filter(|_| is_socket(make)) else { continue };
            let expected = match make {
                Make::Doorbell => BTreeSet::from([COORDINATOR_ID, process.id]),
                _ if held.object.kind == EdgeKind::FunctionLink && system.server_of(process.id).is_some() => {
                    BTreeSet::from([COORDINATOR_ID, process.id])
                }
                _ => BTreeSet::from([process.id]),
            };
            assert_eq!(holders[link.as_str()], expected, "{} of {}: {link}", held.slot, process.id);
        }
    }
}

#[test]
fn vm_with_a_device_in_every_slot_starts_has_room_and_ends() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    for count in [1, 16, DEVICES_MAX] {
        let images: Vec<_> =
            (0..count).map(|index| lab.file(&format!("disk{index}.img"), &[0; 1 << 16])).collect();
        let mut words = vec!["--cpu", "soft"];
        words.extend(images.iter().flat_map(|image| ["--nvme", image.to_str().unwrap()]));
        let mut vm = lab.start(&kernel, &words);
        let told = vm.await_log("guest runs");
        let start_ms: u64 =
            told.split_once("start_ms=").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
        println!(
            "{count} devices: processes started in {start_ms} ms, {} ms for each",
            start_ms / count as u64
        );
        let told = |words: &[&str]| -> serde_json::Value {
            // Read while it is written: what is told of so many processes is more than a pipe holds.
            let answer = lab.command(words).output().unwrap();
            assert!(answer.status.success(), "{words:?} with {count} devices: {answer:?}");
            serde_json::from_slice(&answer.stdout).unwrap()
        };
        let processes = told(&["ps", "--json"]);
        let processes = processes.as_object().unwrap().values().next().unwrap().as_array().unwrap();
        assert_eq!(processes.len(), 3 + 2 * count);
        for process in processes {
            assert_eq!(process["observed"]["drift"], serde_json::json!([]), "{}", process["name"]);
        }
        let last = format!("vfio{}", count - 1);
        let inspected = told(&["inspect", "--json"]);
        let vcpu = inspected.as_array().unwrap().iter().find(|process| process["process"] == "vcpu").unwrap();
        let values = vcpu["values"].as_object().unwrap();
        assert!(values.keys().any(|name| name.contains(&last)), "what it tells is cut: {values:?}");
        told(&["pause", "--json"]);
        told(&["resume", "--json"]);
        // The second set of processes has room beside the first.
        let moved = told(&["save-restore", "--json"]);
        assert_eq!(moved["generation"], 2, "{count} devices");
        assert!(lab.bulkhead(&["stop"]).status.success());
        assert_eq!(vm.end().0.code(), Some(0));
    }
}
