// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long what the coordinator does may take, whatever its processes do: sums of the waits inside.

use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::budget;
use ipc::protocol::control::Request;

use super::logs::LAST_LINES_DEADLINE;

/// For a killed process to be gone. Only one that hangs in the kernel takes longer.
pub const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// The most that ending a process takes.
pub const FINISH_SPAN: Duration = budget::sum(&[budget::QUIT, KILL_DEADLINE, LAST_LINES_DEADLINE]);

/// The most that ending all processes takes: the CPUs, then all others together.
pub const STOP_SPAN: Duration = budget::sum(&[FINISH_SPAN, FINISH_SPAN]);

/// The most that pausing, or resuming, takes if every process is as late as it may be: one tier after the other.
pub const ORDER_SPAN: Duration = budget::sum(&[
    budget::deadline(Role::Vcpu, &Request::Pause),
    budget::deadline(Role::Vfio, &Request::Pause),
    budget::deadline(Role::Nvme, &Request::Pause),
    budget::deadline(Role::Smmu, &Request::Pause),
]);
