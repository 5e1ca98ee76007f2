// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupting a thread's wait in a ring: the kick of a vCPU, or a notification to a ring thread.
//!
//! One [`Interrupt`] per waiting thread, used for any ring that it waits on. It stays raised until the waiting thread
//! takes it: a wait that begins later ends at once.

use super::layout::Shared;
use crate::shm::futex::FutexWord;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Relaxed, SeqCst};
use crate::shm::sync::{Arc, AtomicBool, Mutex, fence, lock};

/// Ends one thread's waits. Clones are the same interrupt.
#[derive(Clone)]
pub struct Interrupt(Arc<Inner>);

struct Inner {
    raised: AtomicBool,
    sleeper: Mutex<Option<Sleeper>>,
}

/// The word that the interrupt's thread sleeps on, or is about to.
#[derive(Clone)]
pub(super) struct Sleeper {
    pub(super) shared: View<Shared>,
    pub(super) slot: WaitSlot,
}

/// Which word of a ring a thread sleeps on.
#[derive(Clone, Copy)]
pub(super) enum WaitSlot {
    Responder,
    Freed,
    Lane(u16),
}

impl WaitSlot {
    pub(super) fn word(self, shared: &Shared) -> Option<&FutexWord> {
        match self {
            Self::Responder => Some(&shared.responder_sleeps.0),
            Self::Freed => Some(&shared.progress.0.freed),
            Self::Lane(lane) => shared.lane(lane).map(|lane| &lane.sleeps),
        }
    }

    /// Wakes a thread that sleeps here, and keeps one from sleeping that is about to.
    fn rouse(self, shared: &Shared) {
        let Some(word) = self.word(shared) else { return };
        match self {
            Self::Responder | Self::Lane(_) => _ = word.swap(0, Relaxed),
            Self::Freed => word.bump(),
        }
        // Whatever the word says: the peer can write it as well, and a kick must not depend on it.
        word.wake_all();
    }
}

impl Interrupt {
    /// A lowered interrupt.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner { raised: AtomicBool::new(false), sleeper: Mutex::new(None) }))
    }

    /// Ends the current or next wait of its thread. From any thread.
    pub fn raise(&self) {
        self.0.raised.store(true, Relaxed);
        fence(SeqCst);
        let sleeper = lock(&self.0.sleeper).clone();
        if let Some(sleeper) = sleeper {
            sleeper.slot.rouse(&sleeper.shared);
        }
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Relaxed)
    }

    /// Lowers it, and returns whether it was raised. For the waiting thread.
    pub fn take(&self) -> bool {
        self.0.raised.swap(false, SeqCst)
    }

    /// Records the word that the waiting thread is about to sleep on.
    pub(super) fn tuck_in(&self, sleeper: Sleeper) {
        *lock(&self.0.sleeper) = Some(sleeper);
    }

    pub(super) fn get_up(&self) {
        *lock(&self.0.sleeper) = None;
    }
}

impl Default for Interrupt {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Interrupt").field("raised", &self.is_raised()).finish_non_exhaustive()
    }
}
