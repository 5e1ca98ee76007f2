// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a device that a vfio-user server has: descriptors -> seal -> serve. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, and the names of its descriptors. Run by hand it ends with status 1 and a line that says
//! who starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use dev_vfio::service::{self, Descriptors};
use dev_vfio::vfio_user::VfioUserDevice;
use ipc::shm::ring;
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, profiles};

fn main() -> Result<()> {
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
    let server = fds.take(SlotKind::VfioUser)?;
    let descriptors = Descriptors::<VfioUserDevice>::take(&mut fds, server)?;
    let locked = sandbox::seal(&profiles::vfio(), fds.names(), crash_page)?;
    service::run(&locked, generation, control, descriptors, spin)?;
    Ok(())
}
