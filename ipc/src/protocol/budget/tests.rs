// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every deadline covers the waits inside it, for every role and request.

use super::*;
use crate::instance::InstanceId;
use crate::protocol::control::{DirtyLogOp, LoadFrom, RoleConfig};
use crate::protocol::nvme::NvmeConfig;
use crate::protocol::probe::Probe;

const ROLES: [Role; 5] = [Role::Coordinator, Role::Vcpu, Role::Smmu, Role::Vfio, Role::Nvme];

fn requests() -> Vec<Request> {
    let config = NvmeConfig {
        id: InstanceId::new(Role::Nvme, 0),
        serial: None,
        block_len: 512,
        readonly: false,
        image: "disk.img".into(),
    };
    vec![
        Request::Configure(RoleConfig::Nvme(config)),
        Request::Load(LoadFrom::Reset),
        Request::Load(LoadFrom::Units { len: 1 }),
        Request::Load(LoadFrom::Checkpoint),
        Request::Load(LoadFrom::Failed),
        Request::Arm,
        Request::Replay,
        Request::Go,
        Request::Pause,
        Request::Resume,
        Request::Quit,
        Request::Save,
        Request::CheckSave,
        Request::DirtyLog(DirtyLogOp::Rearm),
        Request::Inspect,
        Request::Probe(Probe::Open),
    ]
}

#[test]
fn deadline_of_every_request_covers_its_waits_and_a_busy_host() {
    for role in ROLES {
        for request in requests() {
            let (waits, deadline) = (waits(role, &request), deadline(role, &request));
            assert_eq!(deadline, waits + SLACK, "{role:?} {request:?}");
        }
    }
    let pause = deadline(Role::Vfio, &Request::Pause);
    assert!(pause > vfio::DRAIN + vfio::STATE + vfio::GATE, "{pause:?}");
    assert!(deadline(Role::Vfio, &Request::Resume) > vfio::STATE);
    assert!(deadline(Role::Smmu, &Request::Replay) > smmu::ANSWERS);
    assert!(deadline(Role::Smmu, &Request::Pause) > smmu::MODE_CHANGE + smmu::ANSWERS);
}

#[test]
fn waits_of_one_device_contain_each_other() {
    // A silent server is found out by one answer, long before the conversation's end; a slow one gets all of it.
    assert!(vfio::OPENING >= 2 * vfio::ANSWER);
    assert!(vfio::DRAIN >= 2 * vfio::ANSWER);
    assert!(vfio::GATE >= vfio::ANSWER);
    assert!(QUIT > vcpu::FLUSH);
    // A process that is silent for longer is lost, so none of its waits may be longer. (A vSMMU has nothing to tell
    // of between an order and the answers of its devices.)
    let smmu_pause = sum(&[smmu::MODE_CHANGE, smmu::ANSWERS]);
    let at_once = [vcpu::PARK, smmu_pause, BUILD, vfio::ANSWER, vfio::OPENING, vfio::DRAIN, vfio::GATE];
    for step in at_once.into_iter().chain([sum(&[vfio::STATE, vfio::ANSWERED])]) {
        assert!(step <= STEP, "{step:?}");
    }
    assert!(SILENCE >= STEP + PROGRESS_SPAN + SLACK);
    assert_eq!(sum(&[]), Duration::ZERO);
    assert_eq!(sum(&[Duration::MAX, SLACK]), Duration::MAX);
}
