// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process with software CPUs. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, and how many descriptors it was given. Everything else comes over descriptor 0.

use anyhow::{Context, Result};
use ipc::shm::ring;
use sandbox::{CrashPage, Inherited, profiles};

fn main() -> Result<()> {
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
    let locked = sandbox::seal(&profiles::vcpu_soft(), fd_count, crash_page)?;
    vmm_main::vcpu::run::<vmm_main::vcpu::Soft>(&locked, generation, control, fds, spin)?;
    Ok(())
}
