// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages the device wrote, by IOVA: `DMA_LOGGING_*`.
//!
//! A page is logged before it is written, so that a report which misses it also missed its change. Grows with what
//! was written and not with what could be: a client may declare a window of any size.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ipc::vfio_user::PAGE_LEN;

/// The log.
#[derive(Debug, Default)]
pub struct DirtyLog {
    enabled: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// First and last byte of what is logged; none at all is everything.
    ranges: Vec<RangeInclusive<u64>>,
    pages: BTreeSet<u64>,
}

/// First and last byte of a range that does not wrap around.
#[must_use]
pub const fn range(start: u64, len: u64) -> RangeInclusive<u64> {
    start..=start.saturating_add(len.saturating_sub(1))
}

impl DirtyLog {
    /// Begins logging, with an empty log. Returns whether it was off.
    pub fn start(&self, ranges: Vec<RangeInclusive<u64>>) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.enabled.load(Ordering::Relaxed) {
            return false;
        }
        *inner = Inner { ranges, pages: BTreeSet::new() };
        self.enabled.store(true, Ordering::SeqCst);
        true
    }

    /// Ends logging and forgets the log.
    pub fn stop(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.enabled.store(false, Ordering::SeqCst);
        *inner = Inner::default();
    }

    /// Whether it logs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Bytes are about to be written.
    pub fn mark(&self, iova: u64, len: usize) {
        if len == 0 || !self.is_on() {
            return;
        }
        let written = range(iova, len as u64);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { ranges, pages } = &mut *inner;
        for page in written.start() / PAGE_LEN..=written.end() / PAGE_LEN {
            let bytes = range(page * PAGE_LEN, PAGE_LEN);
            let meets =
                |range: &RangeInclusive<u64>| range.start() <= bytes.end() && bytes.start() <= range.end();
            if ranges.is_empty() || ranges.iter().any(meets) {
                pages.insert(page);
            }
        }
    }

    /// Takes the pages of a range out of the log, as a bitmap of `len` bytes with a bit per `page_len`.
    #[must_use]
    pub fn harvest(&self, iova: u64, length: u64, page_len: u64, len: usize) -> Vec<u8> {
        let mut bitmap = vec![0; len];
        let wanted = range(iova, length);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = wanted.start() / PAGE_LEN..=wanted.end() / PAGE_LEN;
        let found: Vec<u64> = inner.pages.range(pages).copied().collect();
        for page in found {
            inner.pages.remove(&page);
            let bit = (page * PAGE_LEN - iova) / page_len;
            let byte = usize::try_from(bit / 8).ok().and_then(|byte| bitmap.get_mut(byte));
            if let Some(byte) = byte {
                *byte |= 1 << (bit % 8);
            }
        }
        bitmap
    }
}

#[cfg(test)]
mod tests;
