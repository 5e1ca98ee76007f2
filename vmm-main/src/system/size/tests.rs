// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use ipc::instance::InstanceId;

use super::*;
use crate::system::{CpuKind, DEVICES_MAX, SMMU0, VCPU, device};

const SIZE: Size = Size { memory_len: 8 << 30, image_len: 1 << 40 };

fn system(devices: &[DeviceKind]) -> System {
    System::new(&Shape::new(CpuKind::Soft).with_devices(devices.iter().copied()))
}

fn limits(system: &System, id: InstanceId) -> sandbox::Limits {
    system.profile_of(system.get(id).unwrap(), SIZE).limits
}

#[test]
fn size_of_each_process_is_its_own_and_what_it_is_given() {
    let system = system(&[DeviceKind::Nvme, DeviceKind::Physical]);
    let more = |id: InstanceId| {
        let own = system.get(id).unwrap().template.profile().limits.address_len;
        limits(&system, id).address_len - own
    };
    // Two bitmaps.
    let log = SIZE.memory_len / 16384;
    assert_eq!(more(SMMU0), SIZE.memory_len + log);
    assert_eq!(more(device(0)), SIZE.memory_len + log);
    assert_eq!(more(device(1)), log, "RAM is not mapped beside a physical device");
    assert_eq!(
        more(InstanceId::new(Role::Nvme, 0)),
        0,
        "an NVMe controller has nothing of the guest's memory"
    );
    let areas = layout::pci_area32(0).len + layout::pci_area64(0).len;
    assert_eq!(more(VCPU), SIZE.memory_len + log + (1 << 30) + areas);
}

#[test]
fn size_of_files_is_the_images_for_who_writes_it_only() {
    let system = system(&[DeviceKind::Nvme]);
    let file = |id| limits(&system, id).fsize_len;
    assert_eq!(file(InstanceId::new(Role::Nvme, 0)), SIZE.image_len);
    assert_eq!([file(VCPU), file(SMMU0)], [64 << 20; 2]);
    assert_eq!(file(device(0)), 16 << 30, "the state of a device with memory of its own");
}

#[test]
fn size_of_the_coordinator_leaves_room_for_all_it_starts() {
    let most = |kind| vec![kind; DEVICES_MAX];
    for devices in [vec![], most(DeviceKind::Nvme), most(DeviceKind::VfioUser), most(DeviceKind::Physical)] {
        let system = system(&devices);
        let own = limits(&system, crate::system::COORDINATOR_ID);
        let mut threads = 0;
        for process in system.processes() {
            let limits = limits(&system, process.id);
            assert!(
                limits.address_len <= own.address_len && limits.data_len <= own.data_len,
                "{}",
                process.id
            );
            assert!(limits.fsize_len <= own.fsize_len && limits.nofile_count <= own.nofile_count);
            threads += limits.nproc_count;
        }
        assert!(own.nproc_count >= 2 * threads, "two sets of processes live while a guest moves");
        assert!(own.fsize_len >= SIZE.memory_len, "it makes the guest's RAM");
    }
}

#[test]
fn size_of_the_vcpu_process_grows_with_each_device() {
    for (cpu, per_function) in [(CpuKind::Soft, 2 * 8), (CpuKind::Kvm, 2 * 8 + 64)] {
        let limits = |count| {
            let shape = Shape::new(cpu).with_devices(vec![DeviceKind::Physical; count]);
            let system = System::new(&shape);
            let limits = limits(&system, VCPU);
            (limits.nofile_count, limits.nproc_count)
        };
        let (none, all) = (limits(0), limits(DEVICES_MAX));
        let devices = u64::try_from(DEVICES_MAX).unwrap();
        // Six descriptors are given for each: ring, board, doorbell, link, pin and its end; and a second link.
        assert_eq!(all.0 - none.0, devices * (per_function + 6 + 1));
        assert_eq!(all.1 - none.1, 2 * devices);
    }
}
