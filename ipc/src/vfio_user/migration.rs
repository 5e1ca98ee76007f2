// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `MIG_DATA_READ`, `MIG_DATA_WRITE`: the device's state as a stream of bytes.
//!
//! A read that returns less than was asked for is the last one. What the bytes mean is the device's business.
//! Specification: "MIG_DATA_READ" and "MIG_DATA_WRITE".

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{DATA_LEN_MAX, Malformed, wire};

/// The beginning of a piece of migration data; data follows where there is some.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MigData {
    /// In a request the most bytes of reply body, in a reply its length.
    pub argsz: U32,
    /// Bytes of data.
    pub size: U32,
}

const _: () = assert!(size_of::<MigData>() == 8);

impl MigData {
    /// The beginning of a message with `len` bytes of data, or of one that asks for them.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let argsz = u32::try_from(len.saturating_add(size_of::<Self>())).unwrap_or(u32::MAX);
        Self { argsz: argsz.into(), size: u32::try_from(len).unwrap_or(u32::MAX).into() }
    }

    /// Takes a `MIG_DATA_READ` apart: how many bytes the client wants and takes.
    ///
    /// # Errors
    /// If it wants none, or its own limit leaves no room.
    pub fn decode_read(body: &[u8]) -> Result<usize, Malformed> {
        const NAME: &str = "MIG_DATA_READ";
        let data: Self = wire::with_room(NAME, body)?;
        let room = usize::try_from(data.argsz.get()).unwrap_or(0).saturating_sub(size_of::<Self>());
        let wanted = usize::try_from(data.size.get()).unwrap_or(0).min(room).min(DATA_LEN_MAX);
        let none = Malformed::new(NAME, "there is no room for data", data.size.get());
        Some(wanted).filter(|wanted| *wanted > 0).ok_or(none)
    }

    /// Takes a `MIG_DATA_WRITE` apart.
    ///
    /// # Errors
    /// If the size is more than came.
    pub fn decode_write(body: &[u8]) -> Result<&[u8], Malformed> {
        const NAME: &str = "MIG_DATA_WRITE";
        let (data, bytes): (Self, _) = wire::split(NAME, body)?;
        let size = usize::try_from(data.size.get()).unwrap_or(usize::MAX);
        let short = Malformed::new(NAME, "the size is above what came", data.size.get());
        let (bytes, behind) = bytes.split_at_checked(size).ok_or(short)?;
        wire::room(NAME, behind)?;
        Ok(bytes)
    }

    /// Takes the reply to a `MIG_DATA_READ` of at most `wanted` bytes apart: the client's side.
    ///
    /// # Errors
    /// If the size is not what came, or more than was asked for.
    pub fn decode_read_reply(body: &[u8], wanted: usize) -> Result<&[u8], Malformed> {
        const NAME: &str = "MIG_DATA_READ reply";
        let (data, bytes): (Self, _) = wire::split(NAME, body)?;
        let bytes = wire::counted(NAME, data.size.get().into(), bytes)?;
        if bytes.len() <= wanted {
            Ok(bytes)
        } else {
            Err(Malformed::new(NAME, "it holds more than was asked for", bytes.len()))
        }
    }
}
