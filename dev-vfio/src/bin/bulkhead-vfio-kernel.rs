// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a physical device: descriptors -> seal -> serve. Started by the coordinator.
//!
//! Or, as `bulkhead host-check` starts it, `host-check [ADDRESS]`: what this host offers for such devices, as a table;
//! status 1 if something is missing that a VM needs.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use dev_vfio::physical::device::PhysicalDevice;
use dev_vfio::physical::{Given, host_check};
use dev_vfio::service::{Descriptors, VfioProgram};
use sandbox::profiles;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("host-check") {
        let findings = host_check::run(arguments.next().as_deref());
        // A reader that has seen enough, or a full disk, leaves the exit code.
        let _ = std::io::stdout().write_all(findings.table().as_bytes());
        return Ok(if findings.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    process::run::<VfioProgram<PhysicalDevice>>(&profiles::vfio_kernel(), |fds| {
        let given = Given::take(fds)?;
        Descriptors::take(fds, given)
    })?;
    Ok(ExitCode::SUCCESS)
}
