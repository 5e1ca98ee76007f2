// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The order of guest accesses, enforced by host fences (Arm ARM B2.3).
//!
//! Guest accesses are relaxed atomics of the host; a read-modify-write is sequentially consistent there. Guest
//! barriers and ordered accesses become fences, and each fence has a name here, so that the tests can remove one and
//! see it missed: `order/tests.rs` holds this translation against the architecture's axiomatic model, on hosts of
//! both kinds. Dependencies of the guest are dependencies of the host: a value goes from one handler to the next
//! through registers in memory, which both kinds of hosts order.
//!
//! A load-acquire must not pass an earlier store-release, which acquire and release alone do not give: the store
//! leaves `release_pending`, and the next acquire pays for the full fence.

use std::marker::PhantomData;

use crate::sync::{Ordering, fence};

/// A fence and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Barrier {
    /// Between a load-acquire and all that follows.
    AfterLoadAcquire,
    /// Between all that came before and a store-release.
    BeforeStoreRelease,
    /// Between a store-release and a later load-acquire.
    ReleaseToAcquire,
    /// After a read-modify-write with acquire and release, which orders what stands before it and what follows.
    AfterUpdate,
    /// DMB and DSB of loads.
    Loads,
    /// DMB and DSB of stores.
    Stores,
    /// DMB and DSB of everything.
    Full,
    /// ISB: no later load is made before a branch that depends on an earlier one is decided.
    Instruction,
}

impl Barrier {
    /// The host's fence.
    pub(crate) const fn ordering(self) -> Ordering {
        match self {
            Barrier::AfterLoadAcquire | Barrier::Loads | Barrier::Instruction => Ordering::Acquire,
            Barrier::BeforeStoreRelease | Barrier::Stores => Ordering::Release,
            Barrier::ReleaseToAcquire | Barrier::AfterUpdate | Barrier::Full => Ordering::SeqCst,
        }
    }
}

/// Executes fences: the host, or a test's record of them.
pub(crate) trait Fences {
    /// Whether a read-modify-write is a full fence already, as it is on x86-64 and is not on every arm64.
    const UPDATE_IS_FENCE: bool;

    fn fence(barrier: Barrier);
}

/// Fences of the host.
#[derive(Debug)]
pub(crate) struct Host;

impl Fences for Host {
    const UPDATE_IS_FENCE: bool = cfg!(all(target_arch = "x86_64", not(loom)));

    #[inline(always)]
    fn fence(barrier: Barrier) {
        fence(barrier.ordering());
    }
}

/// The state of one CPU that its ordering depends on.
#[derive(Debug)]
pub(crate) struct Order<F: Fences = Host> {
    /// There was a store-release and no full fence since.
    release_pending: bool,
    fences: PhantomData<F>,
}

impl<F: Fences> Order<F> {
    pub(crate) const fn new() -> Order<F> {
        Order { release_pending: false, fences: PhantomData }
    }

    /// To be called before the load of LDAR and LDAXR.
    #[inline(always)]
    pub(crate) fn before_load_acquire(&mut self) {
        if self.release_pending {
            self.full(Barrier::ReleaseToAcquire);
        }
    }

    /// To be called after the load of LDAR and LDAXR; all that LDAPR needs.
    #[inline(always)]
    pub(crate) fn after_load_acquire(&self) {
        F::fence(Barrier::AfterLoadAcquire);
    }

    /// To be called before the store of STLR.
    #[inline(always)]
    pub(crate) fn before_store_release(&self) {
        F::fence(Barrier::BeforeStoreRelease);
    }

    /// To be called after the store of STLR.
    #[inline(always)]
    pub(crate) fn after_store_release(&mut self) {
        self.release_pending = true;
    }

    /// To be called before a read-modify-write. A store-exclusive acquires nothing.
    #[inline(always)]
    pub(crate) fn before_update(&mut self, acquire: bool) {
        if acquire && !F::UPDATE_IS_FENCE {
            self.before_load_acquire();
        }
    }

    /// To be called after a read-modify-write.
    #[inline(always)]
    pub(crate) fn after_update(&mut self, acquire: bool, release: bool) {
        if F::UPDATE_IS_FENCE {
            self.release_pending = false;
        } else if acquire && release {
            self.full(Barrier::AfterUpdate);
        } else if release {
            self.after_store_release();
        }
    }

    /// DMB, and the order of a DSB.
    pub(crate) fn barrier(&mut self, barrier: Barrier) {
        if barrier == Barrier::Full {
            self.full(barrier);
        } else {
            F::fence(barrier);
        }
    }

    fn full(&mut self, barrier: Barrier) {
        F::fence(barrier);
        self.release_pending = false;
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
