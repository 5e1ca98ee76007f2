// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process's saved state in a migration stream: in pieces, of any length in all.
//!
//! A `Unit` body says whose state it is, where in it this piece begins, whether it is the last, and has its bytes.
//! Pieces of one process come in order and without a gap, so that the receiver writes them into a memory object as they
//! come and holds none. What they mean is [`crate::saved`]'s business, on the other side.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::StreamError;
use crate::instance::InstanceId;

/// The most bytes of state in one frame.
pub const PIECE_LEN_MAX: usize = 512 << 10;

/// Room for the longest name of an instance.
const NAME_LEN: usize = 20;

/// The length of a [`PieceHead`].
pub const HEAD_LEN: usize = 32;

/// What stands before the bytes of a `Unit` body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceHead {
    /// Whose state it is.
    pub instance: InstanceId,
    /// Where in it the piece begins.
    pub offset: u64,
    /// Nothing follows of this process.
    pub is_last: bool,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeadWire {
    offset: U64,
    name: [u8; NAME_LEN],
    is_last: u8,
    reserved_8: u8,
    reserved_16: U16,
}

const _: () = assert!(size_of::<HeadWire>() == HEAD_LEN);

impl PieceHead {
    /// As it travels; the bytes follow.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_LEN] {
        let Self { instance, offset, is_last } = *self;
        let mut name = [0; NAME_LEN];
        // Names are a dozen letters and a number below 256.
        name.iter_mut().zip(instance.to_string().bytes()).for_each(|(cell, byte)| *cell = byte);
        let wire = HeadWire {
            offset: offset.into(),
            name,
            is_last: is_last.into(),
            reserved_8: 0,
            reserved_16: 0.into(),
        };
        zerocopy::transmute!(wire)
    }

    /// Takes a `Unit` body apart.
    ///
    /// # Errors
    /// If the name is none of a process, or a field is not what it may be.
    pub fn decode(body: &[u8]) -> Result<(Self, &[u8]), StreamError> {
        let bad = |place, value| StreamError::Body { place, value };
        let (wire, bytes) =
            HeadWire::ref_from_prefix(body).map_err(|_| bad("Unit, length", body.len() as u64))?;
        let HeadWire { offset, name, is_last, reserved_8, reserved_16 } = wire;
        if (*reserved_8, reserved_16.get()) != (0, 0) {
            return Err(bad("Unit, reserved", u64::from(*reserved_8) | u64::from(reserved_16.get()) << 8));
        }
        let is_last = match is_last {
            0 => false,
            1 => true,
            other => return Err(bad("Unit, last", (*other).into())),
        };
        if bytes.len() > PIECE_LEN_MAX || (bytes.is_empty() && !is_last) {
            return Err(bad("Unit, bytes", bytes.len() as u64));
        }
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_LEN);
        let (text, filling) = name.split_at(end);
        let instance = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let instance = instance.filter(|_| filling.iter().all(|byte| *byte == 0));
        let instance = instance.ok_or_else(|| bad("Unit, name of a process", offset.get()))?;
        Ok((Self { instance, offset: offset.get(), is_last }, bytes))
    }
}

#[cfg(test)]
mod tests;
