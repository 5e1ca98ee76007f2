// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a device that a vfio-user server has: descriptors -> seal -> serve. Started by the coordinator, never by hand.
//!
//! Arguments: its name and its generation. Descriptors: 0 control channel, 1 crash page, 2 log, then those of
//! `Descriptors` in order. Run by hand it ends with status 1 and a line that says who starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use dev_vfio::service::{self, Descriptors};
use dev_vfio::vfio_user::VfioUserDevice;
use ipc::shm::ring;
use sandbox::{CrashPage, Inherited, profiles};

/// Descriptors 0 to 12.
const FD_COUNT: u32 = 13;

fn main() -> Result<()> {
    let generation = std::env::args()
        .nth(2)
        .and_then(|text| text.parse().ok())
        .context("no name and generation given: this program is started by `bulkhead run`, not by hand")?;
    // Asks the kernel for files that a sealed process cannot open.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(FD_COUNT)?;
    let control = fds.take(0)?;
    let crash_page = CrashPage::from_fd(fds.take(1)?).context("the crash page")?;
    let server = fds.take(7)?;
    let descriptors = Descriptors::<VfioUserDevice>::take(&mut fds, server)?;
    let locked = sandbox::seal(&profiles::vfio(), FD_COUNT, crash_page)?;
    service::run(&locked, generation, control, descriptors, spin)?;
    Ok(())
}
