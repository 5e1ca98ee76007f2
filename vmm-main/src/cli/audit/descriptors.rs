// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptors that a process holds, beside what the system table gives it.
//!
//! Memory objects are known by their names, which their maker alone could give them, files by their paths as far as
//! these are fixed. Sockets all look the same from outside: how many there are is known, not whose they are.

use sandbox::audit::Descriptor as Open;

use crate::system::{COORDINATOR_ID, Descriptor, Edge, EdgeKind, Instance, Make, ObjectId, System};

/// What of `open` is neither of the system table nor of a kind that the process's program makes or is sent.
pub fn compare(vm: &str, system: &System, instance: &Instance, open: &[Open]) -> Vec<String> {
    let unknown = |held: &&Open| {
        let given = usize::try_from(held.fd).ok().and_then(|number| instance.descriptors.get(number));
        // A number that was closed may be another descriptor's by now.
        !given.is_some_and(|given| is_of(vm, system, given, &held.target))
            && !is_made(vm, system, instance, held)
    };
    open.iter().filter(unknown).map(|held| format!("{} as descriptor {}", held.target, held.fd)).collect()
}

/// Whether the kernel shows this descriptor as the table has it.
fn is_of(vm: &str, system: &System, held: &Descriptor, target: &str) -> bool {
    let memory = |name: &str| memory_name(target).is_some_and(|found| found == name);
    let Some(make) = make(system, held.object) else { return false };
    match (held.object.kind, make) {
        (EdgeKind::Control | EdgeKind::Console | EdgeKind::VfioUser, _) => target.starts_with("socket:["),
        (EdgeKind::Log, _) => target.starts_with("pipe:["),
        (EdgeKind::CrashPage, _) => memory("crash-page"),
        (EdgeKind::Handover, _) => memory("bulkhead-configuration"),
        (EdgeKind::Kernel | EdgeKind::Initramfs | EdgeKind::Image, _) => {
            target.starts_with('/') && memory_name(target).is_none()
        }
        (EdgeKind::Kvm, _) => target == "/dev/kvm",
        (EdgeKind::PhysicalDevice, _) => target.starts_with("/dev/vfio/"),
        (EdgeKind::Iommufd, _) => target == "/dev/iommu",
        (EdgeKind::Program, _) => {
            let slot = held.slot.to_string();
            let name = slot.trim_start_matches("program:");
            target.trim_end_matches(" (deleted)").rsplit_once('/').is_some_and(|(_, file)| file == name)
        }
        (_, Make::Doorbell | Make::Channel | Make::Stream) => target.starts_with("socket:["),
        (_, Make::AtStart | Make::Given) => false,
        (
            _,
            Make::Ram
            | Make::DirtyLog
            | Make::Checkpoint
            | Make::OwedMap
            | Make::Ring
            | Make::RegisterPage
            | Make::MsiBoard,
        ) => memory(&make.memory_name(vm, held.object.owner)),
    }
}

/// Whether a process makes such a descriptor, or is sent it, after its start.
fn is_made(vm: &str, system: &System, instance: &Instance, held: &Open) -> bool {
    let target = held.target.as_str();
    // Its runtime's, the device's vectors, the threads' wake-ups; what it saves its state into.
    if matches!(target, "anon_inode:[eventpoll]" | "anon_inode:[eventfd]")
        || memory_name(target).is_some_and(|name| name.starts_with("saved-"))
    {
        return true;
    }
    let program = instance.template.program;
    if instance.id != COORDINATOR_ID {
        return match program {
            "bulkhead-vcpu" => target.starts_with("anon_inode:kvm-"),
            "bulkhead-vfio-kernel" => target.starts_with("anon_inode:[iommufd"),
            "bulkhead-mover" => target.starts_with("socket:[") || memory_name(target) == Some("identity"),
            _ => false,
        };
    }
    // It has every object, its ends of channels and logs, its clients, the programs that users gave.
    let of_an_object = || {
        let mut held = system.instances().chain([system.mover()]).flat_map(|instance| &instance.descriptors);
        held.any(|held| is_of(vm, system, held, target))
    };
    let is_program = |name: &str| name.starts_with("bulkhead-") || name == "identity";
    target.contains("pidfd") || memory_name(target).is_some_and(is_program) || of_an_object()
}

/// The name of a memory object, as the kernel prints it.
pub(super) fn memory_name(target: &str) -> Option<&str> {
    target.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")
}

fn make(system: &System, object: ObjectId) -> Option<Make> {
    system.edges().iter().flat_map(Edge::objects).find(|(known, _)| *known == object).map(|(_, make)| make)
}
