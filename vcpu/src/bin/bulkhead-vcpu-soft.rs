// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process with software CPUs. Started by the coordinator, never by hand.

use sandbox::profiles;
use vcpu::{Soft, VcpuProgram};

fn main() -> anyhow::Result<()> {
    Ok(process::run::<VcpuProgram<Soft>>(&profiles::vcpu_soft(), |fds| Ok(fds.take_rest()))?)
}
