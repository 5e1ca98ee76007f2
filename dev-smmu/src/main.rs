// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMUv3 process: descriptors -> seal -> serve. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, and the names of its descriptors. Run by hand it ends with status 1 and a line that says who starts it: without
//! arguments it has no generation, and with made-up ones it has neither these descriptors nor the
//! namespaces it verifies before it serves; nothing is opened, created or changed.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use dev_smmu::host::Wires;
use dev_smmu::service::{self, Descriptors};
use ipc::shm::ring;
use ipc::slot::{IrqLine, SlotKind};
use sandbox::{CrashPage, Inherited, profiles};
use std::collections::BTreeMap;

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
    let mut stage1 = BTreeMap::new();
    for (peer, channel) in fds.take_each(SlotKind::Stage1) {
        stage1.insert(peer.parse()?, channel);
    }
    let descriptors = Descriptors {
        ram: fds.take(SlotKind::Ram)?,
        dirty_log: fds.take(SlotKind::DirtyLog)?,
        ring: fds.take(SlotKind::Ring)?,
        register_page: fds.take(SlotKind::RegisterPage)?,
        wires: Wires {
            event_queue: fds.take(SlotKind::Irq(IrqLine::EventQueue))?.into(),
            global_error: fds.take(SlotKind::Irq(IrqLine::GlobalError))?.into(),
            command_sync: fds.take(SlotKind::Irq(IrqLine::CommandSync))?.into(),
        },
        stage1,
    };
    let locked = sandbox::seal(&profiles::smmu(), fds.names(), crash_page)?;
    service::run(&locked, generation, control, descriptors, spin)?;
    Ok(())
}
