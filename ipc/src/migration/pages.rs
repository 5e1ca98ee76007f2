// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages of guest RAM in a migration stream: with their bytes, or told to be zero.
//!
//! Pages are named as the dirty bitmaps name them: by the number of a word, which stands for 64 pages of the RAM
//! layout, and the bits of that word. So a frame carries what one word of the owed map says, and its lane follows from
//! the word. A `Pages` body is a [`Stretch`] and the bytes of its pages in rising order; of a `PackedPages` body they
//! are one LZ4 block, which stands alone, and is shorter than what it unpacks to. A `ZeroPages` body is a list of
//! stretches: zero is said, never left out, since the page may have held something when it was sent before.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::StreamError;
use crate::addr::PAGE_LEN;

/// The most bytes of pages in one frame: those of a whole word.
pub const STRETCH_LEN_MAX: usize = 64 * PAGE_BYTES;

/// The most stretches in one `ZeroPages` body.
pub const ZERO_STRETCHES_MAX: usize = 4096;

const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_LEN);

/// Up to 64 pages that stand in one word of the dirty bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The number of the word.
    pub word: u64,
    /// Its bits, not zero: the lowest page in bit 0.
    pub pages: u64,
}

/// What stands before the bytes of a `Pages` or `PackedPages` body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesHead {
    /// The pages.
    pub stretch: Stretch,
}

/// The length of a [`PagesHead`].
pub const HEAD_LEN: usize = 24;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct StretchWire {
    word: U64,
    pages: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeadWire {
    stretch: StretchWire,
    reserved: U64,
}

const _: () = assert!(size_of::<HeadWire>() == HEAD_LEN);

impl Stretch {
    /// The lane that it travels in, of so many: always the same, so that copies of a page arrive in the order they were
    /// sent.
    #[must_use]
    pub fn lane(&self, lane_count: u8) -> u8 {
        u8::try_from(self.word % u64::from(lane_count.max(1))).unwrap_or(0)
    }

    /// How many bytes its pages have.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        usize::try_from(self.pages.count_ones()).unwrap_or(0) * PAGE_BYTES
    }

    fn to_wire(self) -> StretchWire {
        StretchWire { word: self.word.into(), pages: self.pages.into() }
    }

    fn from_wire(place: &'static str, wire: &StretchWire) -> Result<Self, StreamError> {
        match (wire.word.get(), wire.pages.get()) {
            (word, 0) => Err(StreamError::Body { place, value: word }),
            (word, pages) => Ok(Self { word, pages }),
        }
    }
}

impl PagesHead {
    /// As it travels; the bytes of the pages follow.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_LEN] {
        zerocopy::transmute!(HeadWire { stretch: self.stretch.to_wire(), reserved: 0.into() })
    }

    /// Takes a `Pages` body apart: what the pages are, and their bytes.
    ///
    /// # Errors
    /// If there is no page in it, or the bytes are more or less than those of the pages.
    pub fn decode(body: &[u8]) -> Result<(Self, &[u8]), StreamError> {
        let (head, bytes) = Self::split(body)?;
        if bytes.len() != head.stretch.byte_len() {
            return Err(StreamError::Body { place: "Pages, bytes", value: bytes.len() as u64 });
        }
        Ok((head, bytes))
    }

    /// Takes a `PackedPages` body apart: what the pages are, and their packed bytes.
    ///
    /// # Errors
    /// If there is no page in it, or the packed bytes are none, or no fewer than those of the pages.
    pub fn decode_packed(body: &[u8]) -> Result<(Self, &[u8]), StreamError> {
        let (head, packed) = Self::split(body)?;
        if packed.is_empty() || packed.len() >= head.stretch.byte_len() {
            return Err(StreamError::Body { place: "PackedPages, bytes", value: packed.len() as u64 });
        }
        Ok((head, packed))
    }

    fn split(body: &[u8]) -> Result<(Self, &[u8]), StreamError> {
        let bad = |place, value| StreamError::Body { place, value };
        let (wire, bytes) =
            HeadWire::ref_from_prefix(body).map_err(|_| bad("Pages, length", body.len() as u64))?;
        let HeadWire { stretch, reserved } = wire;
        if reserved.get() != 0 {
            return Err(bad("Pages, reserved", reserved.get()));
        }
        let stretch = Stretch::from_wire("Pages, no page of word", stretch)?;
        Ok((Self { stretch }, bytes))
    }
}

/// A `ZeroPages` body that is being filled.
#[derive(Debug, Default)]
pub struct ZeroPages {
    stretches: Vec<StretchWire>,
}

impl ZeroPages {
    /// Adds a stretch. True: the body is full, and has to be sent.
    pub fn push(&mut self, stretch: Stretch) -> bool {
        self.stretches.push(stretch.to_wire());
        self.stretches.len() >= ZERO_STRETCHES_MAX
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// The body.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.stretches.as_bytes()
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.stretches.clear();
    }
}

/// Takes a `ZeroPages` body apart.
///
/// # Errors
/// If its length is none that a list has, or there is no page in one of its stretches.
pub fn zero_pages(body: &[u8]) -> Result<impl Iterator<Item = Stretch> + '_, StreamError> {
    let list = <[StretchWire]>::ref_from_bytes(body).ok();
    let list = list.filter(|list| (1..=ZERO_STRETCHES_MAX).contains(&list.len()));
    let list = list.ok_or(StreamError::Body { place: "ZeroPages, length", value: body.len() as u64 })?;
    list.iter().try_for_each(|wire| Stretch::from_wire("ZeroPages, no page of word", wire).map(drop))?;
    Ok(list.iter().map(|wire| Stretch { word: wire.word.get(), pages: wire.pages.get() }))
}

#[cfg(test)]
mod tests;
