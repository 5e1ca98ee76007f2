// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages the device wrote, by IOVA: `DMA_LOGGING_*`.
//!
//! A page is logged after the write and before the access completes: logged earlier, a report could return it, and
//! the client copy the page, before the write. A report between write and mark misses the page, and the next one has
//! it; so has one after the device was stopped or the window removed. Only what is in a window gets here, but a
//! client may declare windows of any size and have any page of them written: the log allocates bitmaps for stretches
//! of memory as needed, up to a limit. Beyond it all pages count as written, until a report has returned them once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use ipc::vfio_user::PAGE_LEN;

/// Pages of one stretch: 16 MiB of memory, in half a KiB of bitmap.
const STRETCH_PAGES: u64 = 4096;
const STRETCH_WORDS: usize = 64;

/// The most stretches with a bitmap: 128 GiB of memory, in 4 MiB.
const STRETCHES_MAX: usize = 8192;

/// The most ranges that unknown pages may be split into: a client that reads reports in order makes one.
const UNKNOWN_MAX: usize = 256;

/// First and last of some bytes or pages.
type Span = RangeInclusive<u64>;

/// Pages that were written by DMA since the client asked last.
#[derive(Debug, Default)]
pub struct DirtyLog {
    enabled: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What is logged, in order and apart; none at all is everything.
    ranges: Vec<Span>,
    stretches: BTreeMap<u64, Box<[u64; STRETCH_WORDS]>>,
    /// Unknown pages, for which there was no bitmap: they count as written.
    unknown: Vec<Span>,
}

/// First and last byte of a range that does not wrap around.
#[must_use]
pub const fn range(start: u64, len: u64) -> Span {
    start..=start.saturating_add(len.saturating_sub(1))
}

impl DirtyLog {
    /// Begins logging, with an empty log. Returns whether it was off.
    pub fn start(&self, ranges: Vec<Span>) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.enabled.load(Ordering::Relaxed) {
            return false;
        }
        *inner = Inner { ranges: apart(ranges), ..Inner::default() };
        self.enabled.store(true, Ordering::SeqCst);
        true
    }

    /// Ends logging and discards the log.
    pub fn stop(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.enabled.store(false, Ordering::SeqCst);
        *inner = Inner::default();
    }

    /// Whether logging is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Bytes of a window were written.
    pub fn mark(&self, iova: u64, len: usize) {
        // Between the write and the check whether logging is on: a write that finds it off is visible to a client
        // that copies memory after switching it on.
        fence(Ordering::SeqCst);
        if len == 0 || !self.is_on() {
            return;
        }
        let written = pages(&range(iova, len as u64));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for page in written {
            inner.mark(page);
        }
    }

    /// Reads and clears a range of the log, as a bitmap of `len` bytes with a bit per `page_len`.
    #[must_use]
    pub fn harvest(&self, iova: u64, length: u64, page_len: u64, len: usize) -> Vec<u8> {
        let mut bitmap = Bitmap { bytes: vec![0; len], iova, page_len };
        let wanted = pages(&range(iova, length));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.take_known(&wanted, &mut bitmap);
        inner.take_unknown(&wanted, &mut bitmap);
        bitmap.bytes
    }
}

impl Inner {
    fn is_logged(&self, page: u64) -> bool {
        let bytes = range(page * PAGE_LEN, PAGE_LEN);
        self.ranges.is_empty() || self.ranges.iter().any(|range| common(range, &bytes).is_some())
    }

    fn mark(&mut self, page: u64) {
        if self.unknown.iter().any(|span| span.contains(&page)) || !self.is_logged(page) {
            return;
        }
        let (stretch, number) = (page / STRETCH_PAGES, page % STRETCH_PAGES);
        if self.stretches.len() >= STRETCHES_MAX && !self.stretches.contains_key(&stretch) {
            self.stretches.clear();
            self.unknown = vec![0..=u64::MAX / PAGE_LEN];
            return;
        }
        let words = self.stretches.entry(stretch).or_insert_with(|| Box::new([0; STRETCH_WORDS]));
        let word = usize::try_from(number / 64).ok().and_then(|word| words.get_mut(word));
        if let Some(word) = word {
            *word |= 1 << (number % 64);
        }
    }

    fn take_known(&mut self, wanted: &Span, bitmap: &mut Bitmap) {
        let touched = wanted.start() / STRETCH_PAGES..=wanted.end() / STRETCH_PAGES;
        let mut emptied = Vec::new();
        for (stretch, words) in self.stretches.range_mut(touched) {
            for (first, word) in (stretch * STRETCH_PAGES..).step_by(64).zip(words.iter_mut()) {
                let mut left = *word;
                while left != 0 {
                    let number = left.trailing_zeros();
                    left &= left - 1;
                    let page = first + u64::from(number);
                    if wanted.contains(&page) {
                        *word &= !(1 << number);
                        bitmap.set(&(page..=page));
                    }
                }
            }
            if words.iter().all(|word| *word == 0) {
                emptied.push(*stretch);
            }
        }
        emptied.iter().for_each(|stretch| drop(self.stretches.remove(stretch)));
    }

    fn take_unknown(&mut self, wanted: &Span, bitmap: &mut Bitmap) {
        let logged: Vec<_> = match &*self.ranges {
            [] => vec![0..=u64::MAX / PAGE_LEN],
            ranges => ranges.iter().map(pages).collect(),
        };
        for span in self.unknown.iter().filter_map(|span| common(span, wanted)) {
            logged.iter().filter_map(|logged| common(&span, logged)).for_each(|span| bitmap.set(&span));
        }
        let rest: Vec<_> = self.unknown.iter().flat_map(|span| without(span, wanted)).collect();
        // Reporting a page twice does no harm.
        if rest.len() <= UNKNOWN_MAX {
            self.unknown = rest;
        }
    }
}

/// A report under construction.
struct Bitmap {
    bytes: Vec<u8>,
    iova: u64,
    page_len: u64,
}

impl Bitmap {
    /// Sets the bits of these pages, which begin at or after the report's start.
    fn set(&mut self, pages: &Span) {
        let bit = |page: u64| (page * PAGE_LEN).saturating_sub(self.iova) / self.page_len;
        for bit in bit(*pages.start())..=bit(*pages.end()) {
            let byte = usize::try_from(bit / 8).ok().and_then(|byte| self.bytes.get_mut(byte));
            let Some(byte) = byte else { return };
            *byte |= 1 << (bit % 8);
        }
    }
}

/// The pages that some bytes are in.
const fn pages(bytes: &Span) -> Span {
    *bytes.start() / PAGE_LEN..=*bytes.end() / PAGE_LEN
}

fn common(one: &Span, other: &Span) -> Option<Span> {
    let span = *one.start().max(other.start())..=*one.end().min(other.end());
    (!span.is_empty()).then_some(span)
}

/// The parts of a span before and after another.
fn without(span: &Span, taken: &Span) -> impl Iterator<Item = Span> {
    let before = taken.start().checked_sub(1).map(|last| *span.start()..=last.min(*span.end()));
    let behind = taken.end().checked_add(1).map(|first| first.max(*span.start())..=*span.end());
    before.into_iter().chain(behind).filter(|rest| !rest.is_empty())
}

/// Sorts spans and merges those that touch.
fn apart(mut ranges: Vec<Span>) -> Vec<Span> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut apart: Vec<Span> = Vec::new();
    for range in ranges {
        match apart.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => apart.push(range),
        }
    }
    apart
}

#[cfg(test)]
mod tests;
