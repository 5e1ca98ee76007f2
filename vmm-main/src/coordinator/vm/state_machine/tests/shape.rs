// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM that the tests are about: its processes, and what becomes of it when one dies.

use ipc::hello::Role;
use ipc::instance::InstanceId;

use crate::coordinator::vm::plan::{FailurePolicy, Member, Plan};
use crate::problem::{Class, Problem};
use crate::system::{CpuKind, DeviceKind, RestartGroup, Shape, System};

pub const VCPU: InstanceId = InstanceId::new(Role::Vcpu, 0);
pub const VFIO0: InstanceId = InstanceId::new(Role::Vfio, 0);
pub const VFIO1: InstanceId = InstanceId::new(Role::Vfio, 1);
pub const NVME0: InstanceId = InstanceId::new(Role::Nvme, 0);
pub const SMMU0: InstanceId = InstanceId::new(Role::Smmu, 0);

/// How many deaths of the vSMMU within a minute are survived.
pub const SMMU_DEATHS_MAX: u32 = DEATHS_MAX;
/// The same of a process that comes back.
pub const DEATHS_MAX: u32 = 3;

/// A VM with two devices, one of them served by us; perhaps the other one is required.
pub fn plan(required: bool, restarts: Option<u32>) -> Plan {
    let member = |instance: InstanceId, tier, policy, restarts| Member {
        instance,
        tier,
        runs_guest: instance == VCPU,
        opens_device: instance.role == Role::Vfio,
        has_dirty_log: instance != NVME0,
        server: (instance == VFIO0).then_some(NVME0),
        policy,
        restarts,
        dma_is_hosts: false,
        required: required && instance == VFIO1,
        restart: restart_group(instance),
    };
    let members = vec![
        member(VCPU, 0, FailurePolicy::EndsVm, None),
        member(VFIO0, 1, FailurePolicy::FailsDevice(VFIO0), restarts),
        member(VFIO1, 1, FailurePolicy::FailsDevice(VFIO1), None),
        member(NVME0, 2, FailurePolicy::FailsDevice(VFIO0), restarts),
        member(SMMU0, 3, FailurePolicy::EndsVm, Some(SMMU_DEATHS_MAX)),
    ];
    Plan { members, reset_ends_vm: false }
}

/// A VM with so many disks that are served by us, and come back.
pub fn disks(count: usize) -> Plan {
    let system = System::new(&Shape::new(CpuKind::Soft).with_devices(vec![DeviceKind::Nvme; count]));
    let member = |instance: InstanceId| {
        let device = crate::system::device_of(instance);
        Member {
            instance,
            tier: match instance.role {
                Role::Vcpu => 0,
                Role::Vfio => 1,
                Role::Nvme => 2,
                _ => 3,
            },
            runs_guest: instance == VCPU,
            opens_device: instance.role == Role::Vfio,
            has_dirty_log: instance.role != Role::Nvme,
            server: (instance.role == Role::Vfio).then(|| InstanceId::new(Role::Nvme, instance.index)),
            policy: device.map_or(FailurePolicy::EndsVm, FailurePolicy::FailsDevice),
            restarts: (instance != VCPU).then_some(DEATHS_MAX),
            dma_is_hosts: false,
            required: false,
            restart: system.restart_group(instance),
        }
    };
    let instances = of_disks(count).into_iter().chain([VCPU, SMMU0]);
    Plan { members: instances.map(member).collect(), reset_ends_vm: false }
}

/// The processes of so many disks.
pub fn of_disks(count: usize) -> Vec<InstanceId> {
    let numbers = 0..u8::try_from(count).unwrap();
    numbers.flat_map(|number| [Role::Vfio, Role::Nvme].map(|role| InstanceId::new(role, number))).collect()
}

/// The group of a process in the system that has these.
pub fn restart_group(instance: InstanceId) -> Result<RestartGroup, &'static str> {
    let devices = [DeviceKind::Nvme, DeviceKind::VfioUser];
    System::new(&Shape::new(CpuKind::Soft).with_devices(devices)).restart_group(instance)
}

pub fn problem(what: &str) -> Problem {
    Problem::new(Class::Host, what, "test", "none")
}
