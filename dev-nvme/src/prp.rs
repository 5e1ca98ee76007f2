// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Physical Region Pages: where a command's data is, NVMe 1.4 section 4.3.
//!
//! Pages are 4 KiB, the only size `CAP` offers. A list's pages are read one by one, each of them once; the walk is
//! bounded by the data's length, because every list page but the first has at least one data entry, whatever the host
//! writes there.

use core::ops::Deref;

use crate::dma::HostMemory;
use crate::spec::status::Status;

/// The memory page of `CC.MPS` 0.
pub const PAGE_LEN: u64 = 4096;

/// A piece of the host's memory, within any number of adjacent pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub iova: u64,
    /// In bytes.
    pub len: usize,
}

/// The pieces of one command's data. A single one, which most commands have, needs no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segments {
    /// A contiguous range.
    One(Segment),
    /// Several, or none.
    Several(Vec<Segment>),
}

impl Deref for Segments {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        match self {
            Self::One(segment) => core::slice::from_ref(segment),
            Self::Several(segments) => segments,
        }
    }
}

impl Segments {
    /// Adds a piece, joined to the one before where they are adjacent.
    fn add(&mut self, iova: u64, len: usize) {
        let last = match self {
            Self::One(segment) => Some(segment),
            Self::Several(segments) => segments.last_mut(),
        };
        if let Some(last) = last {
            let end = u64::try_from(last.len).ok().and_then(|len| last.iova.checked_add(len));
            if end == Some(iova) {
                last.len += len;
                return;
            }
        }
        let segment = Segment { iova, len };
        match self {
            Self::One(first) => *self = Self::Several(vec![*first, segment]),
            Self::Several(segments) if segments.is_empty() => *self = Self::One(segment),
            Self::Several(segments) => segments.push(segment),
        }
    }
}

/// The pieces that make up `len` bytes.
///
/// # Errors
/// An entry that is not aligned as it must be, or a list that cannot be read.
pub fn segments(memory: &dyn HostMemory, prp1: u64, prp2: u64, len: usize) -> Result<Segments, Status> {
    if !prp1.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let mut walk = Walk { segments: Segments::Several(Vec::new()), left: len };
    walk.take(prp1, page_rest(prp1));
    if walk.left == 0 {
        return Ok(walk.segments);
    }
    if walk.left <= page_rest(0) {
        walk.take_page(prp2)?;
        return Ok(walk.segments);
    }
    if !prp2.is_multiple_of(ENTRY_LEN) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let mut list = prp2;
    while walk.left > 0 {
        let entries = read_list(memory, list, walk.left)?;
        let needed = walk.left.div_ceil(page_rest(0));
        // The last entry of a full page that does not finish the data is the next page of the list.
        let chained = entries.len() < needed;
        let (data, next) =
            if chained { entries.split_at(entries.len().saturating_sub(1)) } else { (&entries[..], &[][..]) };
        for entry in data {
            walk.take_page(*entry)?;
        }
        match next.first() {
            None => break,
            Some(next) if !next.is_multiple_of(PAGE_LEN) => return Err(Status::PRP_OFFSET_INVALID),
            Some(next) => list = *next,
        }
    }
    Ok(walk.segments)
}

const ENTRY_LEN: u64 = 8;

/// Bytes from `address` to the end of its page.
fn page_rest(address: u64) -> usize {
    // At most a page.
    usize::try_from(PAGE_LEN - address % PAGE_LEN).unwrap_or(0)
}

/// As many entries as `left` bytes need, but not beyond the list's page.
fn read_list(memory: &dyn HostMemory, list: u64, left: usize) -> Result<Vec<u64>, Status> {
    let room = page_rest(list) / size_of::<u64>();
    let count = left.div_ceil(page_rest(0)).min(room);
    let mut bytes = vec![0; count * size_of::<u64>()];
    memory.read(list, &mut bytes).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
    Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

struct Walk {
    segments: Segments,
    left: usize,
}

impl Walk {
    fn take_page(&mut self, entry: u64) -> Result<(), Status> {
        if !entry.is_multiple_of(PAGE_LEN) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        self.take(entry, page_rest(0));
        Ok(())
    }

    /// Takes up to `len` bytes at `iova`.
    fn take(&mut self, iova: u64, len: usize) {
        let len = len.min(self.left);
        self.left -= len;
        self.segments.add(iova, len);
    }
}
