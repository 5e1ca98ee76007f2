// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The run gate: running, paused or quitting, as every thread of the vCPU process obeys it.
//!
//! Threads register as they start. A pause is complete only when each of them has parked, so that all state is
//! quiescent then. Quit is final. Beside that the vCPU threads alone can be held ([`super::command_hold`]): the machine
//! is running, and those that are held count as parked if it is to pause. A CPU that waits for a device then is not
//! held before it is answered.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The requested state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Target {
    Paused,
    Running,
    Quit,
}

#[derive(Debug)]
struct State {
    target: Target,
    /// vCPU threads run no guest code.
    are_cpus_held: bool,
    /// When the current pause was requested.
    pausing: Option<Instant>,
    threads: usize,
    parked: usize,
}

/// Blocks the threads that run guest code during a pause.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// A copy of `state.target`, to be read without the lock.
    target: AtomicU8,
    /// A copy of `state.are_cpus_held`.
    are_cpus_held: AtomicBool,
    /// Devices are waited for as long as it takes.
    are_accesses_held: AtomicBool,
}

/// Threads did not park in time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{running} of {threads} threads did not stop within {waited_ms} ms")]
pub struct PauseTimeout {
    /// Threads still running.
    pub running: usize,
    /// Threads in all.
    pub threads: usize,
    /// How long was waited.
    pub waited_ms: u128,
}

impl Default for Gate {
    fn default() -> Self {
        let state =
            State { target: Target::Paused, are_cpus_held: false, pausing: None, threads: 0, parked: 0 };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            target: AtomicU8::new(Target::Paused as u8),
            are_cpus_held: AtomicBool::new(false),
            are_accesses_held: AtomicBool::new(false),
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, target: Target) {
        let mut state = self.state();
        if state.target != Target::Quit {
            state.pausing = (target == Target::Paused).then(|| state.pausing.unwrap_or_else(Instant::now));
            state.target = target;
            self.target.store(target as u8, Ordering::Release);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Counts a thread that will call [`Gate::wait_running`]; called before it is started.
    pub fn register(&self) {
        self.state().threads += 1;
    }

    /// Unregisters a thread that ends.
    pub fn leave(&self) {
        self.state().threads -= 1;
        self.changed.notify_all();
    }

    /// Lets all threads run.
    pub fn run(&self) {
        self.set(Target::Running);
    }

    /// Requests all threads to park; those in guest code must be kicked by the caller.
    pub fn request_pause(&self) {
        self.set(Target::Paused);
    }

    /// Ends all threads.
    pub fn quit(&self) {
        self.set(Target::Quit);
    }

    /// Whether guest work may go on.
    pub fn is_running(&self) -> bool {
        self.target.load(Ordering::Acquire) == Target::Running as u8
    }

    /// Time since the pause was requested; zero if there is none.
    pub fn pausing(&self) -> Duration {
        if self.is_running() {
            return Duration::ZERO;
        }
        self.state().pausing.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the machine has quit.
    pub fn is_ended(&self) -> bool {
        self.target.load(Ordering::Acquire) == Target::Quit as u8
    }

    /// Parks the calling thread while the machine is paused; false when it must end.
    pub fn wait_running(&self) -> bool {
        self.wait_while(|state| state.target == Target::Paused)
    }

    /// The same for the thread of a vCPU, which is parked while vCPUs are held, too.
    pub fn wait_cpu_running(&self) -> bool {
        self.wait_while(|state| {
            state.target == Target::Paused || state.are_cpus_held && state.target == Target::Running
        })
    }

    /// Holds the threads of vCPUs, or lets them go on; those in guest code must be kicked by the caller.
    pub fn hold_cpus(&self, held: bool) {
        self.state().are_cpus_held = held;
        self.are_cpus_held.store(held, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether the threads of vCPUs are held.
    pub fn are_cpus_held(&self) -> bool {
        self.are_cpus_held.load(Ordering::Acquire)
    }

    /// Has CPUs wait for devices without counting the time, or as ever.
    pub fn hold_accesses(&self, held: bool) {
        self.are_accesses_held.store(held, Ordering::Release);
    }

    /// Whether the time does not count that a CPU waits for a device.
    pub fn are_accesses_held(&self) -> bool {
        self.are_accesses_held.load(Ordering::Acquire)
    }

    fn wait_while(&self, must_park: impl Fn(&State) -> bool) -> bool {
        if self.is_running() && !self.are_cpus_held() {
            return true;
        }
        let mut state = self.state();
        if !must_park(&state) {
            return state.target == Target::Running;
        }
        state.parked += 1;
        self.changed.notify_all();
        while must_park(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
        state.target == Target::Running
    }

    /// Waits until every registered thread is parked.
    pub fn wait_parked(&self, deadline: Duration) -> Result<(), PauseTimeout> {
        let start = Instant::now();
        let mut state = self.state();
        while state.parked < state.threads {
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                let running = state.threads - state.parked;
                let waited_ms = start.elapsed().as_millis();
                return Err(PauseTimeout { running, threads: state.threads, waited_ms });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Gate {
    /// How many threads are parked.
    pub fn parked_count(&self) -> usize {
        self.state().parked
    }
}

#[cfg(test)]
mod tests;
