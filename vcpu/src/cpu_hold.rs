// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's CPUs are held, and its time, while the machine runs: for commands that are overdue in the queue of its
//! SMMU ([`super::command_hold`]), or because the coordinator orders it while a device's process is gone. They alone
//! are, and guest time goes on, for the share of their time that is taken from them ([`super::throttle`]).
//!
//! Each of the three holds and lets go as if it were alone: the CPUs go on when none holds them. Guest time stands for
//! as long as one of the first two does; otherwise it goes on for as long as the commands allow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::Engine;
use super::gate::Gate;

/// Who holds the CPUs of one machine.
pub struct CpuHold<E> {
    engine: Arc<E>,
    gate: Arc<Gate>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Commands are overdue.
    for_commands: bool,
    /// For how long guest time may go on while commands wait that are not overdue.
    limit: Option<Duration>,
    /// The coordinator orders it.
    by_order: bool,
    /// Of their time a share is taken, and it is the time for that.
    is_throttled: bool,
}

impl State {
    const fn holds_time(&self) -> bool {
        self.for_commands || self.by_order
    }

    const fn holds_cpus(&self) -> bool {
        self.holds_time() || self.is_throttled
    }
}

impl<E: Engine> CpuHold<E> {
    /// Over these CPUs, which nobody holds.
    pub fn new(engine: Arc<E>, gate: Arc<Gate>) -> Self {
        Self { engine, gate, state: Mutex::default() }
    }

    /// Commands are overdue: their CPUs are held.
    pub fn hold_for_commands(&self) {
        self.change(|state| state.for_commands = true);
    }

    /// No command is overdue: guest time goes on, for at most `limit` while some wait.
    pub fn limit_for_commands(&self, limit: Option<Duration>) {
        self.change(|state| (state.for_commands, state.limit) = (false, limit));
    }

    /// The coordinator orders it, or takes that back. A device that a CPU waits for is not late meanwhile.
    pub fn by_order(&self, held: bool) {
        self.gate.hold_accesses(held);
        self.change(|state| state.by_order = held);
    }

    /// The CPUs alone are held, or let go on.
    pub fn throttle(&self, held: bool) {
        let mut state = self.state();
        state.is_throttled = held;
        self.gate.hold_cpus(state.holds_cpus());
        if held {
            self.engine.kick();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, make: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let was_held = state.holds_time();
        make(&mut state);
        match (was_held, state.holds_time()) {
            (true, true) => {}
            (false, true) => {
                self.gate.hold_cpus(true);
                self.engine.kick();
                self.limit_time(Some(Duration::ZERO));
            }
            (true, false) => {
                self.limit_time(state.limit);
                self.gate.hold_cpus(state.holds_cpus());
            }
            (false, false) => self.limit_time(state.limit),
        }
    }

    fn limit_time(&self, span: Option<Duration>) {
        if let Err(failure) = self.engine.limit_time(span) {
            ipc::log::warn!(
                "the guest sees the time pass that it was held: cannot {}: {}",
                failure.what,
                failure.why
            );
        }
    }
}
