// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The longest that operations of the coordinator may take, whatever its processes do: the sums of their waits.

use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::budget;
use ipc::protocol::control::{LoadFrom, Request, RoleConfig};

use super::logs::LAST_LINES_DEADLINE;

/// From SIGKILL until the process is reaped. Only one that hangs in the kernel takes longer.
pub const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// The longest that ending a process takes.
const FINISH_SPAN: Duration = budget::sum(&[budget::QUIT, KILL_DEADLINE, LAST_LINES_DEADLINE]);

/// The longest that ending all processes takes: the vCPU process, then all others together.
pub const STOP_SPAN: Duration = budget::sum(&[FINISH_SPAN, FINISH_SPAN]);

/// From exec to a sealed, greeted process: milliseconds on an idle host.
pub const START_DEADLINE: Duration = Duration::from_secs(10);

/// From the request to arm to the event about the device, out of reset: opening it, one answer of the vCPU process
/// beyond that, and a busy host.
pub const OPENING_SPAN: Duration = budget::sum(&[budget::vfio::OPENING, budget::vfio::GATE, budget::SLACK]);

/// The same of a device with a saved state.
pub const RESTORING_SPAN: Duration =
    budget::sum(&[budget::vfio::RESTORING, budget::vfio::GATE, budget::SLACK]);

/// From the end of a physical device's link until the vCPU process has unmapped its BARs: the function's process is
/// killed, with its end of the link, and the link's thread notices.
pub const UNMAPPING_SPAN: Duration = budget::sum(&[KILL_DEADLINE, budget::vcpu::LINK_END, budget::SLACK]);

/// The most that pausing, or resuming, takes if every process is as late as it may be: one tier after the other.
pub const ORDER_SPAN: Duration = by_tiers(&Request::Pause);

/// The most that a save/restore takes, up to its answer, and the way back from its last step. Of the processes that are
/// started one after the other one is as late as it may be; all others are asked together, or tier by tier.
pub const MOVE_SPAN: Duration = budget::sum(&[
    budget::deadline(Role::Vfio, &Request::CheckSave),
    START_DEADLINE,
    START_DEADLINE,
    budget::deadline(Role::Vfio, &Request::Configure(RoleConfig::Nothing)),
    ORDER_SPAN,
    budget::deadline(Role::Vfio, &Request::Save),
    budget::deadline(Role::Vfio, &Request::Load(LoadFrom::Reset)),
    by_tiers(&Request::Arm),
    RESTORING_SPAN,
    budget::deadline(Role::Smmu, &Request::Replay),
    FINISH_SPAN,
    ORDER_SPAN,
]);

/// For the launcher's copy of a program that a process is to be restarted into: one of the longest, from a slow disk.
pub const COPY_DEADLINE: Duration = Duration::from_secs(30);

/// If every tier is as late with this request as it may be.
const fn by_tiers(request: &Request) -> Duration {
    budget::sum(&[
        budget::deadline(Role::Vcpu, request),
        budget::deadline(Role::Vfio, request),
        budget::deadline(Role::Nvme, request),
        budget::deadline(Role::Smmu, request),
    ])
}
