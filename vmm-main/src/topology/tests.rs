// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules that the table itself must keep, whatever rows it gets.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const CPUS: [CpuKind; 2] = [CpuKind::Kvm, CpuKind::Soft];

fn rows() -> impl Iterator<Item = &'static Row> {
    std::iter::once(&COORDINATOR).chain(PROCESSES)
}

/// A VM with every device that there can be.
fn full(cpu: CpuKind) -> Shape {
    Shape { cpu, devices: vec![DeviceKind::Nvme; VFIO.len()] }
}

#[test]
fn topology_descriptors_are_numbered_without_gap_or_repeat() {
    for row in rows() {
        let mut objects = BTreeSet::new();
        for (index, fd) in row.fds.iter().enumerate() {
            assert_eq!(usize::try_from(fd.number), Ok(index), "{}", row.name);
            assert!(objects.insert(fd.object), "{} holds {:?} twice", row.name, fd.object);
            let later_required = row.fds[index..].iter().any(|later| !later.optional);
            assert!(!(fd.optional && later_required), "{}: optional rows stand last", row.name);
        }
    }
}

#[test]
fn topology_every_process_starts_with_control_crash_page_and_log() {
    for row in rows() {
        let first: Vec<Object> = row.fds.iter().take(3).map(|fd| fd.object).collect();
        assert_eq!(first, [Object::Control, Object::CrashPage, Object::Log], "{}", row.name);
    }
}

#[test]
fn topology_names_are_unique_and_found() {
    for shape in CPUS.map(full) {
        let rows = || std::iter::once(&COORDINATOR).chain(processes(&shape));
        let names: BTreeSet<&str> = rows().map(|row| row.name).collect();
        assert_eq!(names.len(), rows().count());
        for row in rows() {
            assert_eq!(super::row(row.name, &shape).map(|found| found.program), Some(row.program));
        }
        assert!(super::row("nobody", &shape).is_none());
    }
}

#[test]
fn topology_shared_objects_have_the_right_holders() {
    for cpu in CPUS {
        assert_holders(cpu);
    }
}

fn assert_holders(cpu: CpuKind) {
    let shape = full(cpu);
    let mut holders: BTreeMap<Object, Vec<(&str, Rights)>> = BTreeMap::new();
    for row in processes(&shape) {
        for fd in row.fds {
            holders.entry(fd.object).or_default().push((row.name, fd.rights));
        }
    }
    for (object, held) in holders {
        let names: Vec<&str> = held.iter().map(|(name, _)| *name).collect();
        match object {
            Object::Control | Object::CrashPage | Object::Log => {
                assert_eq!(held.len(), processes(&shape).count());
            }
            Object::Ring(device) | Object::RegisterPage(device) => {
                assert_eq!(names, [VCPU, device], "{object:?}");
            }
            Object::IntxEnd(device) => {
                assert_eq!(held, [(VCPU, Rights::Write), (device, Rights::Read)], "{object:?}");
            }
            Object::Irq(device, _) | Object::MsiDoorbell(device) | Object::Intx(device) => {
                assert_eq!(held, [(VCPU, Rights::Read), (device, Rights::Write)], "{object:?}");
            }
            Object::MsiBoard(device) => {
                assert_eq!(held, [(VCPU, Rights::ReadWrite), (device, Rights::Write)], "{object:?}");
            }
            // A log has one producer; another process's log is nobody's business but the coordinator's.
            Object::DirtyLog(owner) => assert_eq!(held, [(owner, Rights::Write)]),
            Object::Console => assert_eq!(held, [(VCPU, Rights::ReadWrite)]),
            Object::Kvm => assert_eq!((cpu, names), (CpuKind::Kvm, vec![VCPU])),
            // The vCPUs, the vSMMU, and whoever does a device's DMA; not the device itself.
            Object::GuestRam => assert_eq!(names, [VCPU, "vfio0", "vfio1", "vfio2", "vfio3", SMMU0]),
            Object::Stage1(device, Side::Device) | Object::VfioUser(device, Side::Device) => {
                assert_eq!(names, [device], "{object:?}");
            }
            Object::Bus(device, Side::Device) => assert_eq!(names, [device]),
            Object::Bus(_, Side::Peer) => assert_eq!(names, [VCPU]),
            Object::Stage1(_, Side::Peer) => assert_eq!(names, [SMMU0]),
            Object::VfioUser(device, Side::Peer) | Object::DeviceSource(device) => {
                assert_eq!(names, [device.replace("vfio", "nvme")], "{object:?}");
            }
            Object::Iommufd(device) => panic!("{device} is not a real device"),
            Object::Handover | Object::Kernel | Object::Initramfs | Object::Program(_) => {
                panic!("{object:?} must not leave the coordinator, {held:?} hold it")
            }
        }
    }
}

#[test]
fn topology_a_vm_has_the_processes_of_its_devices_and_their_descriptors_only() {
    let shape = |devices: &[DeviceKind]| Shape { cpu: CpuKind::Soft, devices: devices.to_vec() };
    let names = |devices: &[DeviceKind]| processes(&shape(devices)).map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(names(&[]), [VCPU, SMMU0]);
    let devices = [DeviceKind::VfioUser, DeviceKind::Nvme, DeviceKind::Real];
    assert_eq!(names(&devices[..2]), [VCPU, "vfio0", "vfio1", "nvme1", SMMU0]);
    assert_eq!(names(&devices).len(), 6);
    for devices in [&[][..], &devices[..1], &devices[..], &[DeviceKind::Nvme; 4], &[DeviceKind::Real; 4]] {
        for shape in CPUS.map(|cpu| Shape { cpu, ..shape(devices) }) {
            assert_given(&shape);
        }
    }
}

fn assert_given(shape: &Shape) {
    for row in processes(shape) {
        let present = |fd: &&FdRow| fd.object.owner().is_none_or(|owner| super::row(owner, shape).is_some());
        let expected: Vec<i32> = row.fds.iter().filter(present).map(|fd| fd.number).collect();
        let given: Vec<i32> = row.fds_with(shape).map(|fd| fd.number).collect();
        assert_eq!(given, expected, "{}: those that are left out stand last", row.name);
    }
}

#[test]
fn topology_real_device_has_its_own_files_and_a_profile_that_keeps_it_from_guest_ram() {
    for (index, name) in VFIO.into_iter().enumerate() {
        let mut devices = vec![DeviceKind::Nvme; index];
        devices.push(DeviceKind::Real);
        let shape = Shape { cpu: CpuKind::Kvm, devices };
        let row = super::row(name, &shape).unwrap();
        assert_eq!((row.program, row.profile().name), (VFIO_KERNEL_PROGRAM, "vfio-kernel"));
        // The numbers that the profile names.
        let numbers =
            [Object::GuestRam, Object::DirtyLog(name), Object::Ring(name), Object::DeviceSource(name)];
        assert_eq!(numbers.map(|object| row.number_of(object)), [3, 4, 5, 7].map(Some));
        let numbers = [Object::MsiBoard(name), Object::Iommufd(name)];
        assert_eq!(numbers.map(|object| row.number_of(object)), [8, 13].map(Some));
        for other in processes(&shape).filter(|other| other.name != name) {
            assert_eq!(other.number_of(Object::DeviceSource(name)), None, "{}", other.name);
            assert_eq!(other.number_of(Object::Iommufd(name)), None, "{}", other.name);
        }
    }
}

#[test]
fn topology_whoever_writes_guest_ram_has_a_dirty_log() {
    for row in PROCESSES {
        let writes = row.fds.iter().any(|fd| fd.object == Object::GuestRam && fd.rights == Rights::ReadWrite);
        assert_eq!(writes, row.number_of(Object::DirtyLog(row.name)).is_some(), "{}", row.name);
    }
}

#[test]
fn topology_coordinator_holds_the_program_of_every_process() {
    for row in PROCESSES {
        assert!(COORDINATOR.number_of(Object::Program(row.program)).is_some(), "{}", row.name);
    }
}

#[test]
fn topology_profiles_are_those_of_the_roles() {
    let profiles: BTreeSet<_> = rows().map(|row| (row.profile().name, row.program)).collect();
    assert!(profiles.contains(&("coordinator", "bulkhead")));
    let roles: BTreeSet<_> = rows().map(|row| row.role).collect();
    assert_eq!((profiles.len(), roles.len()), (7, 5));
}
