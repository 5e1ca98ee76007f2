// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMUv3 process: descriptors -> seal -> serve. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, the number of its descriptors. Descriptors: 0 control channel, 1 crash
//! page, 2 log, then those of `Descriptors` in order. Run by hand it ends with status 1 and a line that says who starts it: without
//! arguments it has no generation, and with made-up ones it has neither these descriptors nor the
//! namespaces it verifies before it serves; nothing is opened, created or changed.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use dev_smmu::host::Wires;
use dev_smmu::service::{self, Descriptors};
use ipc::shm::ring;
use sandbox::{CrashPage, Inherited, profiles};
use std::collections::BTreeMap;

/// The first channel to a device, if there is any.
const FD_STAGE1: u8 = 10;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(2).map_while(|text| text.parse().ok());
    let generation = numbers
        .next()
        .context("no name and generation given: this program is started by `bulkhead run`, not by hand")?;
    let fd_count = numbers.next().context("no number of descriptors given: `bulkhead run` does that")?;
    // Asks the kernel for files that a sealed process cannot open.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(fd_count)?;
    let control = fds.take(0)?;
    let crash_page = CrashPage::from_fd(fds.take(1)?).context("the crash page")?;
    let mut stage1 = BTreeMap::new();
    for number in FD_STAGE1..u8::try_from(fd_count).context("too many descriptors")? {
        stage1.insert(number, fds.take(number)?);
    }
    let descriptors = Descriptors {
        ram: fds.take(3)?,
        dirty_log: fds.take(4)?,
        ring: fds.take(5)?,
        register_page: fds.take(6)?,
        wires: Wires {
            event_queue: fds.take(7)?.into(),
            global_error: fds.take(8)?.into(),
            command_sync: fds.take(9)?.into(),
        },
        stage1,
    };
    let locked = sandbox::seal(&profiles::smmu(), fd_count, crash_page)?;
    service::run(&locked, generation, control, descriptors, spin)?;
    Ok(())
}
