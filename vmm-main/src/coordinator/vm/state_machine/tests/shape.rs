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

/// The group of a process in the system that has these.
pub fn restart_group(instance: InstanceId) -> Result<RestartGroup, &'static str> {
    let devices = [DeviceKind::Nvme, DeviceKind::VfioUser];
    System::new(&Shape::new(CpuKind::Soft).with_devices(devices)).restart_group(instance)
}

pub fn problem(what: &str) -> Problem {
    Problem::new(Class::Host, what, "test", "none")
}
