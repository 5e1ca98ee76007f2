// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the first instruction of a vCPU program to its sealed service loop.

use super::engine::Engine;
use super::process;
use anyhow::{Context, Result};
use ipc::shm::ring;
use sandbox::{CrashPage, Inherited, Profile};

/// Seals this process with `profile` and serves, until the coordinator tells it to quit.
pub fn main<E: Engine>(profile: &Profile) -> Result<()> {
    let mut arguments = std::env::args().skip(2);
    let mut number = |what: &'static str| -> Result<u32> {
        let text =
            arguments.next().with_context(|| format!("no {what} is given; `bulkhead run` does that"))?;
        text.parse().with_context(|| format!("the {what} is not a number: {text:?}"))
    };
    let generation = number("generation")?;
    let fd_count = number("descriptor count")?;
    // Asks the kernel for files that a sealed process cannot open.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(fd_count)?;
    let control = fds.take(0)?;
    let crash_page = CrashPage::from_fd(fds.take(1)?)?;
    let locked = sandbox::seal(profile, fd_count, crash_page)?;
    process::run::<E>(&locked, generation, control, fds, spin)?;
    Ok(())
}
