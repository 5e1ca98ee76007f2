// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the first instruction of a vCPU program to its sealed service loop.

use super::engine::Engine;
use super::process;
use anyhow::{Context, Result};
use ipc::shm::ring;
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, Profile};

/// Seals this process with `profile` and serves, until the coordinator tells it to quit.
pub fn main<E: Engine>(profile: &Profile) -> Result<()> {
    let mut arguments = std::env::args().skip(2);
    let generation = arguments.next().context("no generation is given; `bulkhead run` does that")?;
    let generation =
        generation.parse().with_context(|| format!("the generation is not a number: {generation:?}"))?;
    // Asks the kernel for files that a sealed process cannot open.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(arguments)?;
    let control = fds.take(SlotKind::Control)?;
    let crash_page = CrashPage::from_fd(fds.take(SlotKind::CrashPage)?)?;
    let locked = sandbox::seal(profile, fds.names(), crash_page)?;
    process::run::<E>(&locked, generation, control, fds, spin)?;
    Ok(())
}
