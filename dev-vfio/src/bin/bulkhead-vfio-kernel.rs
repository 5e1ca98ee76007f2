// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a physical device: descriptors -> seal -> serve. Started by the coordinator.
//!
//! Or, as `bulkhead host-check` starts it, `host-check [ADDRESS]`: what this host offers for such devices, as a table; status
//! 1 if something is missing that a VM needs.
//!
//! Arguments: its name, its generation, and the names of its descriptors.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use dev_vfio::physical::device::PhysicalDevice;
use dev_vfio::physical::{Given, host_check};
use dev_vfio::service::{self, Descriptors};
use ipc::shm::ring;
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, profiles};

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("host-check") {
        let findings = host_check::run(arguments.next().as_deref());
        // A reader that has seen enough, or a full disk, leaves the exit code.
        let _ = std::io::stdout().write_all(findings.table().as_bytes());
        return Ok(if findings.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut arguments = std::env::args().skip(2);
    let generation = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .context("no name and generation given: this program is started by `bulkhead run`, not by hand")?;
    // Asks the kernel for files that a sealed process cannot open.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(arguments)?;
    let control = fds.take(SlotKind::Control)?;
    let crash_page = CrashPage::from_fd(fds.take(SlotKind::CrashPage)?).context("the crash page")?;
    let given = Given { cdev: fds.take(SlotKind::VfioDevice)?, iommu: fds.take(SlotKind::Iommufd)? };
    let descriptors = Descriptors::<PhysicalDevice>::take(&mut fds, given)?;
    let locked = sandbox::seal(&profiles::vfio_kernel(), fds.names(), crash_page)?;
    service::run(&locked, generation, control, descriptors, spin)?;
    Ok(ExitCode::SUCCESS)
}
