// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptors that a process holds, beside what the system table gives it.
//!
//! Memory objects are known by their names, which their maker alone could give them, files by their paths as far as
//! these are fixed. Sockets all look the same from outside: how many there are is known, not whose they are.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use sandbox::audit::Descriptor as Open;

use super::mappings::may_map;
use crate::system::{COORDINATOR_ID, Descriptor, Edge, EdgeKind, Instance, Make, ObjectId, Party, System};

/// What is known of a VM beside its shape.
#[derive(Debug, Clone, Copy)]
pub struct Vm<'a> {
    /// By which its memory objects are named, too.
    pub name: &'a str,
    /// Its processes, and what connects them.
    pub system: &'a System,
    /// The file names of programs that users gave for its processes.
    pub given: &'a [String],
}

/// What of `open` is neither of the system table nor of a kind that the process's program makes or is sent.
pub fn compare(vm: Vm<'_>, instance: &Instance, pid: i32, open: &[Open]) -> Vec<String> {
    let mut sent = sent_later(vm.system, instance);
    let mut is_unknown = |held: &&Open| {
        let given = usize::try_from(held.fd).ok().and_then(|number| instance.descriptors.get(number));
        // A number that was closed may be another descriptor's by now.
        let is_known =
            given.is_some_and(|given| is_of(vm, given, &held.target)) || is_made(vm, instance, held);
        if !is_known && held.target.starts_with("socket:[") && sent > 0 {
            sent -= 1;
            return false;
        }
        !is_known || held.target.starts_with('/') && !is_plain(pid, held)
    };
    open.iter()
        .filter(|held| is_unknown(held))
        .map(|held| format!("{} as descriptor {}", held.target, held.fd))
        .collect()
}

/// How many channels of its own at most are another one by now: they are exchanged when the process at the other end
/// is started anew, and the new one comes before the old one is closed.
fn sent_later(system: &System, instance: &Instance) -> usize {
    let other = |edge: &&Edge| match edge.peer {
        Party::Instance(peer) if edge.owner == instance.id => edge.is_rewired_by(peer),
        Party::Instance(peer) => peer == instance.id && edge.is_rewired_by(edge.owner),
        Party::Launcher => false,
    };
    system.edges().iter().filter(other).count()
}

/// Whether what has a path is a file with bytes, or memory; of the devices, those that the table names have been told
/// by their paths.
fn is_plain(pid: i32, held: &Open) -> bool {
    if held.target.starts_with("/dev/") || memory_name(&held.target).is_some() {
        return true;
    }
    let of = fs::metadata(format!("/proc/{pid}/fd/{}", held.fd)).map(|facts| facts.file_type());
    // Closed since it was listed.
    of.map_or(true, |kind| kind.is_file() || kind.is_block_device())
}

/// Whether the kernel shows this descriptor as the table has it.
fn is_of(vm: Vm<'_>, held: &Descriptor, target: &str) -> bool {
    let memory = |name: &str| memory_name(target).is_some_and(|found| found == name);
    let Some(make) = make(vm.system, held.object) else { return false };
    match (held.object.kind, make) {
        (EdgeKind::Control | EdgeKind::Console | EdgeKind::VfioUser, _) => target.starts_with("socket:["),
        (EdgeKind::Log, _) => target.starts_with("pipe:["),
        (EdgeKind::CrashPage, _) => memory("crash-page"),
        (EdgeKind::Handover, _) => memory("bulkhead-configuration"),
        (EdgeKind::Kernel | EdgeKind::Initramfs | EdgeKind::Image, _) => {
            let is_device = target.starts_with("/dev/") && held.object.kind != EdgeKind::Image;
            target.starts_with('/') && memory_name(target).is_none() && !is_device
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
        ) => memory(&make.memory_name(vm.name, held.object.owner)),
    }
}

/// Whether a process makes such a descriptor, or is sent it, after its start.
fn is_made(vm: Vm<'_>, instance: &Instance, held: &Open) -> bool {
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
            "bulkhead-vcpu" if target.starts_with("anon_inode:kvm-") => true,
            "bulkhead-vcpu" | "bulkhead-vcpu-soft" => {
                memory_name(target).is_some_and(|name| may_map(vm.system, instance, name))
            }
            "bulkhead-vfio-kernel" => target.starts_with("anon_inode:[iommufd"),
            "bulkhead-mover" => target.starts_with("socket:[") || memory_name(target) == Some("identity"),
            _ => false,
        };
    }
    // It has every object, its ends of channels and logs, its clients, the programs that users gave.
    let of_an_object = || {
        let all = vm.system.instances().chain([vm.system.mover()]);
        all.flat_map(|instance| &instance.descriptors).any(|held| is_of(vm, held, target))
    };
    let is_program = |name: &str| name == "identity" || vm.given.iter().any(|given| given == name);
    target == "anon_inode:[pidfd]"
        || target.starts_with("pidfd:[")
        || memory_name(target).is_some_and(is_program)
        || of_an_object()
}

/// The name of a memory object, as the kernel prints it.
pub(super) fn memory_name(target: &str) -> Option<&str> {
    target.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")
}

fn make(system: &System, object: ObjectId) -> Option<Make> {
    system.edges().iter().flat_map(Edge::objects).find(|(known, _)| *known == object).map(|(_, make)| make)
}
