// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread of one vCPU: runs guest code while the gate is open.

use super::command_hold::CommandHold;
use super::engine::{Engine, Exit};
use super::gate::Gate;
use ipc::protocol::control::Event;
use process::Events;

/// Runs vCPU `index` until the gate says quit.
pub fn serve<E: Engine>(
    engine: &E,
    index: usize,
    gate: &Gate,
    hold: Option<&CommandHold<E>>,
    events: &Events,
) {
    loop {
        if !gate.wait_cpu_running() {
            return;
        }
        // Behind the gate, which it may have found closed: commands may have come before a pause was complete, or wait
        // in what was restored. If this process was stopped, what is overdue by now is seen before any guest code goes
        // on.
        hold.iter().for_each(|hold| hold.look());
        if gate.are_cpus_held() {
            continue;
        }
        let event = match engine.run(index) {
            Exit::Kicked => continue,
            Exit::PowerOff => Event::GuestPoweredOff,
            Exit::Reset => Event::GuestReset,
            Exit::Fatal(why) => Event::Fatal(format!("vCPU {index} stopped: {why}")),
        };
        // The machine is stopped before the event is sent, so that no guest code runs after it.
        gate.request_pause();
        engine.kick();
        events.tell(event);
    }
}
