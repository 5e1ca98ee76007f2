// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults that the host's SMMU has found, on their way to the vSMMU.
//!
//! One thread polls the kernel's event queue, with a timeout to check whether the device has failed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::device::PhysicalDevice;
use crate::function::Function;
use crate::threads::{LOOK_TIMESPEC, spawn};

/// Spawns the thread that passes events of the kernel's fault queue on to the vSMMU.
pub fn start_thread(function: &Arc<Function<PhysicalDevice>>) -> io::Result<()> {
    let file = match function.iommu().nested() {
        Some(iommu) => iommu.events().try_clone_to_owned()?,
        None => return Ok(()),
    };
    let theirs = Arc::clone(function);
    spawn("faults", move || tell(&theirs, &file))
}

fn tell(function: &Function<PhysicalDevice>, file: &OwnedFd) {
    while function.failure().is_none() {
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&LOOK_TIMESPEC)) {
            Ok(_) | Err(Errno::INTR) => {
                // While the function holds still they wait: what is told after a pause to a vSMMU that is just being
                // saved is lost.
                drop(function.gate.enter());
                function.tell_faults();
            }
            Err(errno) => {
                ipc::log::warn!("{}: polling the vEVENTQ failed: {errno}", function.name);
                return;
            }
        }
    }
}
