// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's memory as the model sees it: copy in, copy out.
//!
//! Reading is `smmu_arch::memory::Memory`; only the Event queue writes. Marking the dirty log is part of
//! a write, so a model cannot forget it. Addresses are GPAs.

use smmu_arch::memory::{Abort, Memory};

/// Guest memory that can be written too.
pub trait GuestMemory: Memory {
    /// Stores all of `bytes` at `address` and marks the pages dirty, or does nothing and aborts.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Abort>;
}
