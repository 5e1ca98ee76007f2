// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a process may wait inside a request, and therefore how long the coordinator waits for its reply.
//!
//! With a deadline shorter than the waits inside it, the coordinator would take a process for dead whose peer is slow.
//! So both ends take their spans from here: the process those of its own waits, the coordinator their sum plus
//! [`SLACK`]. A wait that is added to a request is added to [`waits`]. Longer work is not done inside a request: a
//! device is opened by a thread of its own ([`vfio::OPENING`]), and the outcome is an event.
//!
//! Some of the sums are minutes, for a state of some GiB that comes slowly. A process reports progress
//! ([`Event::Progress`](crate::protocol::control::Event::Progress)) after each of its waits, so that one that makes
//! none (it was stopped, or hangs in the kernel) holds up a guest for [`SILENCE`], and not for the sum.

use core::time::Duration;

use crate::hello::Role;
use crate::protocol::control::Request;

/// What a busy host may add to any request.
pub const SLACK: Duration = Duration::from_secs(5);

/// For `Inspect`. Not part of [`deadline`]: a process that is late with it is reported as late, and not ended.
pub const INSPECT: Duration = Duration::from_secs(2);

/// From `Quit` until the process is killed. A vCPU process writes its guest's last output in this time.
pub const QUIT: Duration = sum(&[vcpu::FLUSH, Duration::from_millis(1500)]);

/// The longest that a process waits for one thing, inside a request or while it opens its device.
pub const STEP: Duration = vfio::OPENING;

/// How often at most a process reports progress.
pub const PROGRESS_SPAN: Duration = Duration::from_secs(3);

/// How long the coordinator waits without a word of progress, where an answer may take longer than this: for the
/// longest step, behind one that came to its end a moment too early to be told of.
pub const SILENCE: Duration = sum(&[STEP, PROGRESS_SPAN, SLACK]);

/// Waits of a vCPU process.
pub mod vcpu {
    use core::time::Duration;

    use super::{SLACK, sum};
    use crate::shm::ring;

    /// For its threads to stop: the slowest is a vCPU that waits for a device.
    pub const PARK: Duration = sum(&[ring::ANSWER_SPAN, SLACK]);
    /// For writing the guest's last output after `Quit`.
    pub const FLUSH: Duration = Duration::from_millis(1500);
    /// For an answer to the process of a function to find room in its channel.
    pub const LINK_ANSWER: Duration = Duration::from_secs(10);
    /// For the life before to be over, until a next life's vectors are refused.
    pub const LINK_TURN: Duration = Duration::from_secs(2);
    /// For the thread of a function link to notice its end: what it may be waiting for then.
    pub const LINK_END: Duration = sum(&[LINK_TURN, LINK_ANSWER]);
}

/// Waits of a vSMMU process.
pub mod smmu {
    use core::time::Duration;

    /// For its ring thread to pause or to go on: a full Command queue, and devices that are slow to take requests.
    pub const MODE_CHANGE: Duration = Duration::from_secs(10);
    /// For all devices to answer, at a pause, a save and a replay.
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
    /// For draining the ring: one access that asks the server twice.
    pub const DRAIN: Duration = Duration::from_secs(10);
    /// For the device to stop or to resume: its disk completes the commands it has begun.
    pub const STATE: Duration = Duration::from_secs(15);
    /// For opening the device and loading its saved state.
    pub const RESTORING: Duration = super::sum(&[OPENING, DATA]);
    /// For transferring the device's state out of its server, or into another one: 8 GiB, of a slow server.
    pub const DATA: Duration = Duration::from_secs(60);
    /// For the answers to the last transfers of a stopped device, copies of memory: those that are late are in flight.
    pub const ANSWERED: Duration = Duration::from_millis(200);
    /// For the last transfer or interrupt to leave the gate: it may wait for the vCPU process, or the server.
    pub const GATE: Duration = Duration::from_secs(10);
}

/// Waits of a mover, none of them inside a request.
pub mod mover {
    use core::time::Duration;

    /// For whoever has connected to say who it is, TLS included.
    pub const GREETING: Duration = Duration::from_secs(10);
    /// How long the other host may neither take nor give a byte, and how long a lane may stay behind the others.
    pub const STALL: Duration = Duration::from_secs(30);
    /// How often each end says that it is there, while it has nothing else to say.
    pub const ALIVE: Duration = Duration::from_secs(5);
    /// For sending the last messages, and for the other host to close its end.
    pub const CLOSING: Duration = Duration::from_secs(5);
}

/// For writing or reading the state units of a process: memory, up to the largest size allowed.
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
        // If the device refuses to stop it is resumed; if it stops the ring is drained a second time.
        (Role::Vfio, Request::Pause) => {
            sum(&[vfio::DRAIN, vfio::STATE, vfio::ANSWERED, vfio::STATE, vfio::DRAIN, vfio::GATE])
        }
        (Role::Vfio, Request::Go) => vfio::STATE,
        // The connection is taken back from a next life that may have used it, and the device resumed.
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
            | Request::Heartbeat
            | Request::DmaEnded { .. }
            | Request::HoldCpus { .. }
            | Request::Throttle { .. }
            | Request::Rewire { .. }
            | Request::Carry(_)
            | Request::Probe(_),
        ) => Duration::ZERO,
    }
}

/// How long the coordinator waits for the answer of a process of this role.
#[must_use]
pub const fn deadline(role: Role, request: &Request) -> Duration {
    sum(&[waits(role, request), SLACK])
}

/// How long the ring thread of a process of this role may stay with one access: that of an assigned device waits for
/// the device's server.
#[must_use]
pub const fn turn(role: Role) -> Duration {
    match role {
        Role::Vfio => vfio::DRAIN,
        _ => Duration::ZERO,
    }
}

/// The sum of the spans.
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
