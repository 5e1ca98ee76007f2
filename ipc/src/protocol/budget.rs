// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a process may wait inside a request, and from that how long the coordinator waits for its answer.
//!
//! A deadline shorter than the waits inside it takes a slow peer of a process for the death of the process. So both
//! ends take their spans from here: a process those of its own waits, the coordinator their sum and [`SLACK`]. A wait
//! that is added to a request is added to [`waits`]. What has no place here does not happen inside a request: a device
//! is opened by a thread of its own ([`vfio::OPENING`]), and its outcome is an event.

use core::time::Duration;

use crate::hello::Role;
use crate::protocol::control::Request;

/// What a busy host adds to a request that waits for nobody.
pub const SLACK: Duration = Duration::from_secs(5);

/// For an `Inspect`. Not in [`deadline`]: a process that is late with it is reported as such, and lives.
pub const INSPECT: Duration = Duration::from_secs(2);

/// From `Quit` to the end of the process, which is killed then. A vCPU process delivers its guest's last output
/// meanwhile.
pub const QUIT: Duration = sum(&[vcpu::FLUSH, Duration::from_millis(1500)]);

/// Waits of a vCPU process.
pub mod vcpu {
    use core::time::Duration;

    use super::{SLACK, sum};
    use crate::shm::ring;

    /// For its threads to stand still: a vCPU that waits for a device is the slowest of them, and a busy host.
    pub const PARK: Duration = sum(&[ring::ANSWER_SPAN, SLACK]);
    /// For the guest's last output to find a reader, once it has quit.
    pub const FLUSH: Duration = Duration::from_millis(1500);
}

/// Waits of a vSMMU process.
pub mod smmu {
    use core::time::Duration;

    /// For its ring thread to pause or to go on: a full Command queue, and devices that are slow to take requests.
    pub const MODE_CHANGE: Duration = Duration::from_secs(10);
    /// For all devices to tell what is on its way and to answer: at a pause, a save and a replay.
    pub const ANSWERS: Duration = Duration::from_secs(5);
}

/// Waits of the process of an assigned device.
pub mod vfio {
    use core::time::Duration;

    /// For one answer of the device's server. A device that stalls a guest's CPU for so long is broken.
    pub const ANSWER: Duration = Duration::from_secs(5);
    /// For the whole conversation until the device can be used, in a thread of its own. Some thirty answers: a server
    /// that takes half a second for each is slow, and still served.
    pub const OPENING: Duration = Duration::from_secs(20);
    /// For the requests in the ring: one access that asks the server twice.
    pub const DRAIN: Duration = Duration::from_secs(10);
    /// For the device to stop, or to go on: its disk finishes what it has begun.
    pub const STATE: Duration = Duration::from_secs(15);
    /// The same with a saved state.
    pub const RESTORING: Duration = super::sum(&[OPENING, DATA]);
    /// For a device's own state to go out of its server, or into another one: 8 GiB at the pace of a slow one.
    pub const DATA: Duration = Duration::from_secs(60);
    /// For the last transfer or interrupt to leave the gate: it may be telling the vCPU process, or the server.
    pub const GATE: Duration = Duration::from_secs(10);
}

/// For writing or reading a saved state: memory, up to the largest that there is.
const STATE_UNITS: Duration = Duration::from_secs(25);

/// For mapping guest RAM and building the model; for a physical device, for pinning that RAM.
const BUILD: Duration = Duration::from_secs(5);

/// What a process of this role may wait for inside this request, in all.
#[must_use]
pub const fn waits(role: Role, request: &Request) -> Duration {
    match (role, request) {
        (_, Request::Configure(_)) => BUILD,
        (Role::Smmu, Request::Save) => sum(&[smmu::ANSWERS, STATE_UNITS]),
        (Role::Vfio, Request::Save) => sum(&[vfio::STATE, vfio::DATA, vfio::STATE]),
        (_, Request::Save | Request::Load(_)) => STATE_UNITS,
        (Role::Vcpu, Request::Pause) => vcpu::PARK,
        (Role::Smmu, Request::Replay) => smmu::ANSWERS,
        (Role::Smmu, Request::Pause) => sum(&[smmu::MODE_CHANGE, smmu::ANSWERS]),
        (Role::Smmu, Request::Resume) => smmu::MODE_CHANGE,
        // It may refuse to stop, and is to go on then; the ring is drained once more when it has stopped.
        (Role::Vfio, Request::Pause) => {
            sum(&[vfio::DRAIN, vfio::STATE, vfio::STATE, vfio::DRAIN, vfio::GATE])
        }
        (Role::Vfio, Request::Go) => vfio::STATE,
        // A connection that another life may have used is had back, and the device goes on.
        (Role::Vfio, Request::Resume) => sum(&[vfio::OPENING, vfio::STATE]),
        (Role::Vfio, Request::CheckSave) => vfio::ANSWER,
        (
            _,
            Request::Arm
            | Request::Replay
            | Request::Go
            | Request::CheckSave
            | Request::Pause
            | Request::Resume
            | Request::Quit
            | Request::DirtyLog(_)
            | Request::Inspect
            | Request::DmaEnded { .. }
            | Request::Rewire { .. }
            | Request::Probe(_),
        ) => Duration::ZERO,
    }
}

/// How long the coordinator waits for the answer of a process of this role.
#[must_use]
pub const fn deadline(role: Role, request: &Request) -> Duration {
    sum(&[waits(role, request), SLACK])
}

/// The spans one after the other.
#[must_use]
pub const fn sum(spans: &[Duration]) -> Duration {
    let (mut total, mut rest) = (Duration::ZERO, spans);
    while let [first, others @ ..] = rest {
        total = total.saturating_add(*first);
        rest = others;
    }
    total
}

#[cfg(test)]
mod tests;
