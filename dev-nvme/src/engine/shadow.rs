// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Polls the shadow doorbells of a host (NVM Express 2.0, Doorbell Buffer Config), and arms them when it has none to
//! ring.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::adaptive_poll::Next;
use super::{Engine, Host};
use crate::controller::{Ticket, Watched};
use crate::dma::{DmaError, HostMemory};

/// How long one job polls doorbells: short, so that the connection is served in between.
const LOOK_FOR: Duration = Duration::from_micros(10);

impl Engine {
    /// Polls shadow doorbells for a moment, or until one changes; after a longer time without change, arms them, so
    /// that the host writes the register.
    pub(super) fn look(&self, host: &Host, ticket: Ticket, mut watched: Vec<Watched>, helps: bool) {
        let mut found = look_once(&*host.memory, &mut watched);
        let mut asleep_since = None;
        if found == Ok(false) {
            let since = Instant::now();
            // Only a helping thread polls again by itself.
            let next = if helps { self.lock().poll.idle(since) } else { Next::Sleep };
            while found == Ok(false) && next != Next::Sleep && since.elapsed() < LOOK_FOR {
                match next {
                    Next::Yield => std::thread::yield_now(),
                    // On a busy host a yield may cost a whole time slice.
                    Next::Spin | Next::Sleep => std::hint::spin_loop(),
                }
                found = look_once(&*host.memory, &mut watched);
            }
            if found == Ok(false) && next == Next::Sleep {
                found = arm(&*host.memory, &watched).and_then(|()| look_once(&*host.memory, &mut watched));
                asleep_since = Some(since);
            }
        }
        if found == Ok(true) && helps {
            found = suppress_register_writes(&*host.memory, &watched).map(|()| true);
        }
        let mut shared = self.lock();
        match (found, asleep_since) {
            (Ok(false), Some(since)) => {
                shared.poll.sleep(since);
                shared.controller.looked(ticket, &watched, true);
            }
            (Ok(changed), _) => {
                if changed {
                    shared.poll.found();
                }
                shared.controller.looked(ticket, &watched, false);
            }
            (Err(_), _) if shared.has_lost(host) => {}
            (Err(_), _) => shared.controller.look_failed(ticket),
        }
        self.unlock(shared);
    }
}

/// Reads the shadow doorbells into `seen`. Returns whether one has changed.
fn look_once(memory: &dyn HostMemory, watched: &mut [Watched]) -> Result<bool, DmaError> {
    let mut changed = false;
    for Watched { at, seen, news, .. } in watched {
        let value = memory.load(*at)?;
        *news |= value != *seen;
        changed |= *news;
        *seen = value;
    }
    Ok(changed)
}

/// Moves each EventIdx just behind its doorbell, so that the host makes no register write while we poll. An EventIdx
/// left in place would be passed once per round of the queue.
fn suppress_register_writes(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    let mut heard = watched.iter().filter(|watched| watched.news);
    heard.try_for_each(|watched| memory.store(watched.event_index, watched.unreached()))
}

/// Sets each EventIdx to its doorbell, so that the host writes the register at the next change. A change before the
/// host sees this is found by one more poll.
fn arm(memory: &dyn HostMemory, watched: &[Watched]) -> Result<(), DmaError> {
    for Watched { event_index, seen, .. } in watched {
        memory.store(*event_index, *seen)?;
    }
    fence(Ordering::SeqCst);
    Ok(())
}
