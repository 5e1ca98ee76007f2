// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A share of their time is taken from the guest's CPUs, so that a guest that dirties its memory faster than it can be
//! sent comes to move.
//!
//! A thread holds the CPUs for that share of each period, and lets them go on for the rest of it. Guest time goes on:
//! to the guest its CPUs are slow, as on a host that has others to run. A pause finds CPUs parked that are held here,
//! so that nobody else has to know. A CPU that was kicked ends its slice of guest code first: by that it has more.

use super::cpu_hold::CpuHold;
use super::engine::Engine;
use ipc::protocol::control::{Failure, THROTTLE_MAX};
use ipc::protocol::inspect::Inspect;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// In which the CPUs run once and are held once: short beside what users and peers notice, and long beside a kick.
const PERIOD: Duration = Duration::from_millis(50);

/// Who takes it.
pub struct Throttle<E> {
    cpus: Arc<CpuHold<E>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    percent: u8,
    is_over: bool,
    /// How often CPUs were held.
    holds: u64,
}

impl<E: Engine> Throttle<E> {
    /// Over these CPUs, which have all of their time.
    pub fn new(cpus: Arc<CpuHold<E>>) -> Self {
        Self { cpus, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many percent from now on; none: the CPUs have all of their time at once.
    pub fn set(&self, percent: u8) -> Result<(), Failure> {
        if percent > THROTTLE_MAX {
            let why = format!("{percent} percent of their time: at most {THROTTLE_MAX} can be taken");
            return Err(Failure::new("slow the guest's CPUs down", why));
        }
        self.state().percent = percent;
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the time, until the machine ends: a thread of its own.
    pub fn serve(&self) {
        let mut state = self.state();
        while !state.is_over {
            if state.percent == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let held = PERIOD * u32::from(state.percent) / 100;
            state.holds = state.holds.saturating_add(1);
            self.cpus.throttle(true);
            state = self.wait(state, held);
            self.cpus.throttle(false);
            state = self.wait(state, PERIOD - held);
        }
    }

    /// Waits for so long, or until something changes.
    fn wait<'s>(&self, state: MutexGuard<'s, State>, span: Duration) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends the thread, because the machine ends.
    pub fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// The share, and how often CPUs were held for it.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let state = self.state();
        inspect.counter("throttle.percent", u64::from(state.percent));
        inspect.counter("throttle.holds", state.holds);
    }
}
