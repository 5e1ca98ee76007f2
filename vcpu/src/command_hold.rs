// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's CPUs are held, and its time, while commands are overdue in the queue of its SMMU.
//!
//! A guest gives up a CMD_SYNC that does not complete (Linux: after 1 s of its own time), and uses memory anew that a
//! device may still reach. Whoever is slow, the SMMU's process or a device's, and whether it hangs or the host is
//! overloaded: until it has caught up, or its next life has, the guest sees no time pass. Nobody is ended for it here:
//! that is for those who know whether a process hangs.
//!
//! The vCPU whose write makes commands wait begins the count, and each one on its way into the guest does if they wait
//! already; a thread goes on with it while they do. Software CPUs have their time limited from then on, however late
//! this thread comes. Guest time of the host's CPUs stands from the hold on.

use super::command_wait::{CommandWait, Look, WAIT_MAX};
use super::cpu_hold::CpuHold;
use super::engine::Engine;
use super::gate::Gate;
use ipc::protocol::inspect::Inspect;
use ipc::shm::command_queue::CommandQueue;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks while commands wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Between two looks while none do: whoever sees them begin to wait ends it.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// Who holds the CPUs.
pub struct CommandHold<E> {
    queue: CommandQueue,
    cpus: Arc<CpuHold<E>>,
    gate: Arc<Gate>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    wait: CommandWait,
    looked: Instant,
    /// Since when the CPUs are held.
    held: Option<Instant>,
    holds: u64,
    held_longest: Duration,
    is_over: bool,
}

impl<E: Engine> CommandHold<E> {
    /// Over this queue, of a machine that does not run yet.
    pub fn new(queue: CommandQueue, cpus: Arc<CpuHold<E>>, gate: Arc<Gate>) -> Self {
        let state = State {
            wait: CommandWait::default(),
            looked: Instant::now(),
            held: None,
            holds: 0,
            held_longest: Duration::ZERO,
            is_over: false,
        };
        Self { queue, cpus, gate, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands may begin to wait, because of a write of the guest: if none has until now, the time begins.
    pub fn written(&self) {
        let mut state = self.state();
        if state.wait.is_idle() {
            self.look_at(&mut state);
        }
    }

    /// Looks at the queue. From any thread, at any time.
    pub fn look(&self) {
        self.look_at(&mut self.state());
    }

    fn look_at(&self, state: &mut State) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut state.looked, now));
        // Guest time stands in a pause, and the SMMU may then leave what waits. To look before the vCPUs have parked
        // does no harm.
        if !self.gate.is_running() {
            return;
        }
        let was_idle = state.wait.is_idle();
        match state.wait.look(self.queue.waiting(), elapsed) {
            Look::Waiting => {}
            // As before: guest time has no limit.
            Look::Idle if was_idle => {}
            Look::Overdue if state.held.is_some() => {}
            Look::Overdue => {
                state.held = Some(now);
                state.holds = state.holds.saturating_add(1);
                self.cpus.hold_for_commands();
                ipc::log::info!(
                    "commands wait in the queue of smmu0 for {} ms: the guest's CPUs are held until it has consumed them",
                    WAIT_MAX.as_millis()
                );
            }
            progress @ (Look::Begun | Look::Idle) => {
                if progress == Look::Begun {
                    // Whoever has seen it: the thread may still be waiting as it does while nothing waits.
                    self.changed.notify_all();
                }
                self.cpus.limit_for_commands((progress == Look::Begun).then_some(WAIT_MAX));
                if let Some(held) = state.held.take() {
                    let held = held.elapsed();
                    state.held_longest = state.held_longest.max(held);
                    ipc::log::info!(
                        "smmu0 has consumed what was overdue: the guest's CPUs were held for {} ms",
                        held.as_millis()
                    );
                }
            }
        }
    }

    /// Looks while commands wait, until the machine ends: a thread of its own, which no pause waits for.
    pub fn serve(&self) {
        let mut state = self.state();
        while !state.is_over {
            let interval = if state.wait.is_idle() { IDLE_INTERVAL } else { LOOK_INTERVAL };
            let waited = self.changed.wait_timeout(state, interval);
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = after;
            // Woken, it has been looked at a moment ago.
            if timeout.timed_out() {
                self.look_at(&mut state);
            }
        }
    }

    /// Ends the thread, because the machine ends.
    pub fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// How often CPUs were held, and for how long.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let state = self.state();
        let longest = state.held.map_or(Duration::ZERO, |held| held.elapsed()).max(state.held_longest);
        inspect.counter("commands.holds", state.holds);
        inspect.counter("commands.held_ms_max", u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
        inspect.text("commands", if state.held.is_some() { "overdue: CPUs are held" } else { "in time" });
    }
}
