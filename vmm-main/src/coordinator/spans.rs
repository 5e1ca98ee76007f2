// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The longest that operations of the coordinator may take, whatever its processes do: the sums of their waits.

use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::budget;
use ipc::protocol::control::Request;

use super::logs::LAST_LINES_DEADLINE;

/// From SIGKILL until the process is reaped. Only one that hangs in the kernel takes longer.
pub const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// The longest that ending a process takes.
pub const FINISH_SPAN: Duration = budget::sum(&[budget::QUIT, KILL_DEADLINE, LAST_LINES_DEADLINE]);

/// The longest that ending all processes takes: the vCPU process, then all others together.
pub const STOP_SPAN: Duration = budget::sum(&[FINISH_SPAN, FINISH_SPAN]);

/// The longest that a pause or a resume takes, if every process is as late as it may be: one tier after the other.
pub const ORDER_SPAN: Duration = budget::sum(&[
    budget::deadline(Role::Vcpu, &Request::Pause),
    budget::deadline(Role::Vfio, &Request::Pause),
    budget::deadline(Role::Nvme, &Request::Pause),
    budget::deadline(Role::Smmu, &Request::Pause),
]);
