// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules that the table itself must keep, whatever roles it gets, and what it yields for VMs of many shapes.

use sandbox::Profile;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// VMs without devices, with each kind alone, with all kinds, and with every slot taken.
fn shapes() -> Vec<Shape> {
    use DeviceKind::{Nvme, Physical, VfioUser};
    let mut devices =
        vec![vec![], vec![Nvme], vec![VfioUser], vec![Physical], vec![Nvme, VfioUser, Physical]];
    devices.extend([Nvme, VfioUser, Physical].map(|kind| vec![kind; DEVICES_MAX]));
    let of = |cpu| devices.iter().map(move |devices| Shape::new(cpu).with_devices(devices.iter().copied()));
    let mut shapes: Vec<Shape> = [CpuKind::Soft, CpuKind::Kvm].into_iter().flat_map(of).collect();
    shapes.push(Shape { initramfs: true, ..Shape::new(CpuKind::Soft) });
    shapes
}

fn systems() -> impl Iterator<Item = System> {
    shapes().into_iter().map(|shape| System::new(&shape))
}

/// Who holds each object, and what for.
fn holders(system: &System) -> BTreeMap<(ObjectId, Side), Vec<(InstanceId, Rights)>> {
    let mut holders: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for instance in system.instances().chain([system.mover()]) {
        for held in &instance.descriptors {
            holders.entry((held.object, held.side)).or_default().push((instance.id, held.rights));
        }
    }
    holders
}

#[test]
fn system_has_the_processes_of_its_devices_and_no_other() {
    use DeviceKind::{Nvme, Physical, VfioUser};
    let names = |devices: &[DeviceKind]| {
        let shape = Shape::new(CpuKind::Soft).with_devices(devices.iter().copied());
        System::new(&shape).processes().iter().map(|process| process.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["vcpu", "smmu0"]);
    assert_eq!(names(&[VfioUser, Nvme]), ["vcpu", "vfio0", "vfio1", "nvme1", "smmu0"]);
    assert_eq!(names(&[Physical]), ["vcpu", "vfio0", "smmu0"]);
    assert_eq!(names(&[Nvme; DEVICES_MAX]).len(), 2 + 2 * DEVICES_MAX);
    assert_eq!(DEVICES_MAX, 31);
}

#[test]
fn system_programs_and_profiles_are_those_of_the_kinds() {
    let shape = Shape::new(CpuKind::Kvm).with_devices([DeviceKind::Physical, DeviceKind::Nvme]);
    let system = System::new(&shape);
    let program = |id| system.get(id).unwrap().template.program;
    assert_eq!(program(VCPU), "bulkhead-vcpu");
    assert_eq!([program(device(0)), program(device(1))], ["bulkhead-vfio-kernel", "bulkhead-vfio"]);
    let profiles: BTreeSet<_> = children().map(|template| template.profile().name).collect();
    assert_eq!(profiles.len(), children().count(), "each kind of process has rights of its own");
    assert!(profiles.iter().all(|name| profile(name).is_some()) && profile("nobody").is_none());
}

#[test]
fn every_process_begins_with_control_crash_page_and_log() {
    // The log is where the standard library writes.
    let first = [SlotKind::Control, SlotKind::CrashPage, SlotKind::Log].map(Slot::from);
    for system in systems() {
        for instance in system.instances() {
            assert!(instance.slots().take(3).eq(&first), "{}", instance.id);
        }
    }
}

#[test]
fn names_of_descriptors_are_unique_in_a_process_and_fit_its_table() {
    for system in systems() {
        for instance in system.instances() {
            let names: BTreeSet<&Slot> = instance.slots().collect();
            assert_eq!(names.len(), instance.descriptors.len(), "{}", instance.id);
            assert!(names.len() <= 253, "{} is given {} descriptors", instance.id, names.len());
            for (number, slot) in (0..).zip(instance.slots()) {
                assert_eq!(instance.number(slot), Some(number));
            }
        }
    }
}

#[test]
fn every_object_has_a_holder_at_each_end_that_it_has() {
    for system in systems() {
        let holders = holders(&system);
        for edge in system.edges() {
            for (object, _) in edge.objects() {
                for (side, party) in [(Side::Owner, Party::Instance(edge.owner)), (Side::Peer, edge.peer)] {
                    // The launcher's ends are not given to it: it makes them.
                    let (Some(_), Party::Instance(id)) = (object.end(side), party) else { continue };
                    let held = holders.get(&(object, side));
                    assert!(
                        held.is_some_and(|held| held.iter().any(|(holder, _)| *holder == id)),
                        "{object:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn descriptors_are_of_edges_that_the_process_is_at_an_end_of_or_that_go_through_the_coordinator() {
    for system in systems() {
        for ((object, side), held) in holders(&system) {
            for (id, rights) in held {
                let at_an_end = object.owner == id || object.kind.spec().is_shared || {
                    let mut edges = system.edges_of(object.kind).filter(|edge| edge.owner == object.owner);
                    side == Side::Peer && edges.any(|edge| edge.peer == Party::Instance(id))
                };
                let handed_on = id == COORDINATOR_ID && matches!(rights, Rights::HandOn | Rights::Execute);
                assert!(at_an_end || handed_on, "{id} holds {object:?}");
            }
        }
    }
}

#[test]
fn a_connection_has_one_holder_at_each_end() {
    for system in systems() {
        let holders = holders(&system);
        for edge in system.edges() {
            let exclusive = |make| matches!(make, Make::Channel | Make::Stream | Make::Doorbell);
            for (object, _) in edge.objects().filter(|(_, make)| exclusive(*make)) {
                for side in [Side::Owner, Side::Peer] {
                    assert_eq!(holders[&(object, side)].len(), 1, "{object:?} {side:?}");
                }
            }
        }
    }
}

#[test]
fn a_doorbell_is_rung_at_one_end_and_looked_at_the_other() {
    for system in systems() {
        let objects = system.edges().iter().flat_map(Edge::objects);
        for (object, _) in objects.filter(|(_, make)| *make == Make::Doorbell) {
            let rights = [Side::Owner, Side::Peer].map(|side| object.end(side).unwrap().rights);
            assert!(
                matches!(rights, [Rights::Write, Rights::Read] | [Rights::Read, Rights::Write]),
                "{object:?}"
            );
        }
    }
}

#[test]
fn guest_ram_is_the_cpus_the_smmus_and_the_dma_processes() {
    for system in systems() {
        for process in system.processes() {
            let ram = process.descriptors.iter().find(|held| held.object.kind == EdgeKind::Ram);
            assert_eq!(ram.is_some(), process.id.role != Role::Nvme, "{}", process.id);
            let physical = process.template.program == roles::VFIO_KERNEL_PROGRAM;
            if let Some(ram) = ram {
                assert_eq!(
                    ram.rights == Rights::HandOn,
                    physical,
                    "the host's IOMMU writes, not the process"
                );
            }
            // Whoever writes guest RAM keeps a log of it, and nobody else reads that.
            assert_eq!(ram.is_some(), process.holds(EdgeKind::DirtyLog), "{}", process.id);
        }
        let logs = system.edges_of(EdgeKind::DirtyLog).flat_map(Edge::objects);
        let holders = holders(&system);
        for (log, _) in logs {
            assert_eq!(holders[&(log, Side::Owner)], [(log.owner, Rights::Write)]);
        }
    }
}

#[test]
fn a_mover_is_no_part_of_a_guest_and_has_its_ram_and_what_is_owed_of_it() {
    for system in systems() {
        assert!(system.instances().all(|instance| instance.id != MOVER));
        let mover = system.get(MOVER).unwrap();
        let held: Vec<_> = mover.descriptors.iter().skip(3).map(|held| held.slot.to_string()).collect();
        assert_eq!(held, ["ram", "owed-map"]);
        let maps = descriptors_in_rules(&mover.profile(), "mmap", 4);
        assert_eq!(maps, BTreeSet::from([4]), "of its files the owed map alone");
        let size = Size { memory_len: 1 << 40, image_len: 1 << 50 };
        let limits = system.profile_of(mover, size).limits;
        assert_eq!(limits.fsize_len, 1 << 40, "it writes guest RAM, and no image");
        assert!(limits.address_len < 1 << 34, "it maps no guest RAM");
    }
}

#[test]
fn what_is_behind_a_device_is_held_by_its_process_and_handed_on_by_the_coordinator() {
    use EdgeKind::{Console, Image, Iommufd, Kvm, PhysicalDevice};
    for system in systems() {
        for ((object, _), held) in holders(&system) {
            if matches!(object.kind, Console | Image | Iommufd | Kvm | PhysicalDevice) {
                let expected = [(COORDINATOR_ID, Rights::HandOn), (object.owner, Rights::ReadWrite)];
                assert_eq!(held, expected, "{object:?}");
            }
        }
    }
}

#[test]
fn a_server_of_somebody_else_is_connected_by_the_launcher_and_one_of_ours_by_the_coordinator() {
    let shape = Shape::new(CpuKind::Soft).with_devices([DeviceKind::VfioUser, DeviceKind::Nvme]);
    let system = System::new(&shape);
    let made: Vec<_> = system
        .edges_of(EdgeKind::VfioUser)
        .map(|edge| (edge.peer, edge.objects().next().unwrap().1, edge.life()))
        .collect();
    let nvme = InstanceId::new(Role::Nvme, 1);
    assert_eq!(
        made,
        [(Party::Launcher, Make::Given, Life::Boot), (Party::Instance(nvme), Make::Stream, Life::Process)]
    );
    assert_eq!([system.server_of(device(0)), system.server_of(device(1))], [None, Some(nvme)]);
    assert_eq!(
        [device_of(nvme), device_of(device(1)), device_of(VCPU)],
        [Some(device(1)), Some(device(1)), None]
    );
}

#[test]
fn pausing_goes_from_the_cpus_to_what_devices_need() {
    for system in systems() {
        let tiers: Vec<_> = system.processes().iter().map(|process| process.template.tier).collect();
        assert!(tiers.is_sorted(), "{tiers:?}");
        let tier = |id| system.get(id).map(|process| process.template.tier);
        for edge in system.edges_of(EdgeKind::VfioUser) {
            if let Party::Instance(server) = edge.peer {
                assert!(tier(edge.owner) < tier(server), "a device is paused before its server");
            }
        }
        for edge in system.edges_of(EdgeKind::Stage1) {
            assert!(tier(VCPU) < tier(edge.owner) && tier(edge.owner) < tier(SMMU0));
        }
    }
}

#[test]
fn the_coordinator_holds_each_program_that_runs_once() {
    for system in systems() {
        let coordinator = system.coordinator();
        let programs = coordinator.slots().filter(|slot| matches!(slot, Slot::Program(_))).count();
        assert_eq!(programs, system.programs().len());
        for process in system.processes() {
            assert!(system.program(process.template.program).is_some(), "{}", process.id);
        }
    }
}

/// The numbers that argument `index` of `call` may have.
fn descriptors_in_rules(profile: &Profile, call: &str, index: u8) -> BTreeSet<u64> {
    let checks = profile.rule(call).into_iter().flat_map(|rule| rule.when.iter().flatten());
    checks.filter(|check| check.index == index).map(|check| check.value).collect()
}

#[test]
fn rules_are_about_descriptors_that_the_process_has_under_that_number() {
    for system in systems() {
        for instance in system.instances() {
            let profile = instance.profile();
            assert_eq!(profile.unknown_slot(), None, "{}", instance.id);
            // What the sealed process finds by its names is what its parent's table says.
            let names = sandbox::Names::new(instance.slots().map(ToString::to_string)).unwrap();
            for held in &instance.descriptors {
                let name = held.slot.to_string();
                if let Some(number) = instance.template.number(&name) {
                    assert_eq!(names.number_of(&name), Some(number), "{} {name}", instance.id);
                }
            }
        }
        // What the coordinator may do to a descriptor is what one of its children may.
        // KVM is arm64's here: elsewhere the coordinator may not do what its process does.
        let is_here = |template: &&Template| {
            cfg!(target_arch = "aarch64") || template.program != roles::VCPU_KVM_PROGRAM
        };
        let calls_devices = |template: &&Template| template.profile().rule("ioctl").is_some();
        let of_children = children().filter(is_here).filter(calls_devices);
        let of_children: BTreeSet<u64> =
            of_children.flat_map(|template| descriptors_in_rules(&template.profile(), "ioctl", 0)).collect();
        assert_eq!(descriptors_in_rules(&COORDINATOR.profile(), "ioctl", 0), of_children);
    }
}

#[test]
fn process_of_a_physical_device_may_map_four_shared_objects_and_never_guest_ram() {
    let template = TEMPLATES.iter().find(|template| template.program == roles::VFIO_KERNEL_PROGRAM).unwrap();
    let numbers = |kinds: &[SlotKind]| -> BTreeSet<u64> {
        kinds.iter().map(|kind| u64::from(template.number(kind.as_str()).unwrap())).collect()
    };
    let mapped = descriptors_in_rules(&template.profile(), "mmap", 4);
    assert_eq!(
        mapped,
        numbers(&[SlotKind::DirtyLog, SlotKind::Ring, SlotKind::MsiBoard, SlotKind::Checkpoint])
    );
    assert!(mapped.is_disjoint(&numbers(&[SlotKind::Ram])));
    let called = descriptors_in_rules(&template.profile(), "ioctl", 0);
    assert_eq!(called, numbers(&[SlotKind::VfioDevice, SlotKind::Iommufd]));
}

#[test]
fn what_is_restarted_with_a_process_and_who_is_rewired_follows_from_its_edges() {
    use DeviceKind::{Nvme, Physical, VfioUser};
    let system = System::new(&Shape::new(CpuKind::Kvm).with_devices([Nvme, VfioUser, Physical]));
    let nvme0 = InstanceId::new(Role::Nvme, 0);
    let group = |members: &[InstanceId], rewirings: &[(InstanceId, InstanceId)]| {
        let rewirings = rewirings.iter().map(|(peer, member)| Rewiring { peer: *peer, member: *member });
        Ok(RestartGroup { members: members.to_vec(), rewirings: rewirings.collect() })
    };
    let behind = [device(0), device(1), device(2)].map(|device| (device, SMMU0));
    assert_eq!(system.restart_group(SMMU0), group(&[SMMU0], &behind));
    // A device of ours and its server, whichever is asked for; of somebody else's server the client alone.
    let rewired = |device| [(SMMU0, device), (VCPU, device)];
    assert_eq!(system.restart_group(device(0)), group(&[device(0), nvme0], &rewired(device(0))));
    assert_eq!(system.restart_group(nvme0), group(&[nvme0, device(0)], &rewired(device(0))));
    assert_eq!(system.restart_group(device(1)), group(&[device(1)], &rewired(device(1))));
    assert_eq!(system.restart_group(device(2)), group(&[device(2)], &rewired(device(2))));
    assert_eq!(system.restart_group(VCPU), Err("console"));
}

#[test]
fn what_a_restart_makes_anew_has_its_ends_given_to_who_begins_and_sent_to_who_stays() {
    for system in systems() {
        for process in system.processes() {
            let Ok(group) = system.restart_group(process.id) else { continue };
            for edge in system.edges() {
                let renewed = group.members.iter().any(|member| edge.is_renewed_by(*member));
                let ends = [Party::Instance(edge.owner), edge.peer];
                let stays = ends.into_iter().filter(|end| match end {
                    Party::Instance(id) => !group.members.contains(id),
                    Party::Launcher => true,
                });
                for end in stays.filter(|_| renewed) {
                    let sent = |rewiring: &&Rewiring| {
                        Party::Instance(rewiring.peer) == end && edge.is_rewired_by(rewiring.member)
                    };
                    assert_eq!(group.rewirings.iter().filter(sent).count(), 1, "{edge:?} of {}", process.id);
                }
            }
        }
    }
}
