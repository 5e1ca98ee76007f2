// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine's real-time clock: a PL031 over the host's wall clock, its interrupt line, and the thread that waits
//! for its alarm.
//!
//! Only the offset from the host's wall clock is saved, so a restored guest has the right date. An alarm that came
//! due during a pause is raised at resume.

mod pl031;

use super::gate::Gate;
use super::interrupts::controller::Spi;
use super::saved::RtcV1;
use pl031::Pl031;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest sleep before the host's time is read again: it may be set.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The clock as the MMIO router holds it.
#[derive(Debug)]
pub struct Rtc {
    state: Mutex<State>,
    /// Signalled when the alarm changes or the machine is to pause.
    changed: Condvar,
    irq: Spi,
}

#[derive(Debug)]
struct State {
    model: Pl031,
    /// The level last sent to the interrupt controller; none for a new controller.
    line: Option<bool>,
}

impl Rtc {
    /// A clock that shows the host's time, or one as it was saved.
    pub fn new(irq: Spi, saved: Option<&RtcV1>) -> Self {
        let model = saved.map_or_else(|| Pl031::new(now()), Pl031::restore);
        Self { state: Mutex::new(State { model, line: None }), changed: Condvar::new(), irq }
    }

    /// Its registers and offset.
    pub fn save(&self) -> RtcV1 {
        self.state().model.save()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises an alarm that is due, and updates the interrupt line if it changed.
    fn update(&self, state: &mut State) {
        state.model.tick(now());
        let line = state.model.line();
        if state.line.replace(line) != Some(line) {
            self.irq.set_level(line);
        }
    }

    /// Guest read.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let mut state = self.state();
        self.update(&mut state);
        state.model.read(offset, size, now())
    }

    /// Guest write: words only, others are ignored.
    pub fn write(&self, offset: u64, size: u8, value: u64) {
        let mut state = self.state();
        self.update(&mut state);
        state.model.write(offset, size, value, now());
        self.update(&mut state);
        self.changed.notify_all();
    }

    /// Waits for alarms until the machine ends: a thread of its own.
    pub fn serve(&self, gate: &Gate) {
        while gate.wait_running() {
            let mut state = self.state();
            self.update(&mut state);
            let left = state.model.until_alarm(now()).map_or(SLEEP_MAX, |left| left.min(SLEEP_MAX));
            // A pause before this check is seen here; a later one ends the wait.
            if gate.is_running() {
                drop(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Ends the thread's sleep, because the machine is to pause or end.
    pub fn wake(&self) {
        drop(self.state());
        self.changed.notify_all();
    }
}

/// The host's time of day since 1970. Zero if the host's clock is before that.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
