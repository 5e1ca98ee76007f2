// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The exclusive monitor (Arm ARM B2.9).
//!
//! A load-exclusive records the address, size and value; the store-exclusive is a host compare-and-swap against that
//! value. A store by anyone between the two makes it fail if it changed the value. Writing the same value back in
//! between goes unnoticed, which the architecture does not allow for but which no lock, counter or list built from
//! these instructions can tell, except one that counts on the failure alone.

/// The local monitor of one CPU.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Monitor {
    /// What the last load-exclusive saw; gone after a store-exclusive, CLREX or an exception return.
    held: Option<Held>,
}

/// A location held by the monitor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub va: u64,
    /// Bytes: 1 to 16.
    pub len: u8,
    pub value: u128,
}

impl Monitor {
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }

    /// What it holds.
    pub(crate) fn held(&self) -> Option<Held> {
        self.held
    }

    pub(crate) fn hold(&mut self, va: u64, len: u8, value: u128) {
        self.held = Some(Held { va, len, value });
    }

    /// Ends the hold. The value that was loaded, if it was loaded from these bytes.
    pub(crate) fn take(&mut self, va: u64, len: u8) -> Option<u128> {
        let held = self.held.take()?;
        (held.va == va && held.len == len).then_some(held.value)
    }
}
