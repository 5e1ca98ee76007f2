// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The orders that the log stands on, by name: each is a fence, and all accesses beside them are relaxed.
//!
//! The model checker takes them away one at a time (`tests/loom_dirty_log.rs`): a model fails for each, or it would not
//! be here. Who takes a bit needs none for the copy of its page: a write that the flip's fence did not come behind is
//! marked in the other bitmap too.

use crate::shm::sync::Ordering::SeqCst;

/// What comes before what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A write of guest memory before its producer's look at the switch, and before its mark.
    WriteBeforeSwitch,
    /// Switching the log on before the first copy.
    SwitchBeforeCopy,
    /// Setting bits before the look at whether the log was flipped meanwhile.
    BitsBeforeLook,
    /// Flipping before whoever was answered takes bits and copies pages.
    FlipBeforeHarvest,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::WriteBeforeSwitch, Self::SwitchBeforeCopy, Self::BitsBeforeLook, Self::FlipBeforeHarvest];
}

#[cfg(not(loom))]
#[inline]
pub(super) fn fence(_order: Order) {
    crate::shm::sync::fence(SeqCst);
}

#[cfg(loom)]
pub(super) fn fence(order: Order) {
    if weakened::get() != Some(order) {
        crate::shm::sync::fence(SeqCst);
    }
}

/// Which order a model does without.
#[cfg(loom)]
pub mod weakened {
    use super::Order;
    use core::cell::Cell;

    std::thread_local! {
        /// Models run their threads on the thread that runs the test.
        static WEAKENED: Cell<Option<Order>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> Option<Order> {
        WEAKENED.get()
    }

    /// From now on, on this thread.
    pub fn set(order: Option<Order>) {
        WEAKENED.set(order);
    }
}
