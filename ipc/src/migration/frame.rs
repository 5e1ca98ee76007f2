// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames of a migration stream: 24 bytes of header, little-endian, and a body.
//!
//! The header says what the body is, how long, and the checksum of both; its sequence number counts the frames of this
//! connection in this direction, from 0, so that a stream with a piece cut out or put in is noticed at that place.
//! [`Header::decode`] and [`Header::check`] are pure, allocate nothing, and are the entry points of the fuzz target.

use core::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::migration::LANES_MAX;

/// "BKMS", as the bytes stand in the stream.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BKMS");

/// The newest format. A header says which one its kind of body came with ([`Kind::format`]): so a host of an earlier
/// release takes what a newer one sends, until that sends what it does not know.
pub const FORMAT: u16 = 2;

/// The length of a header.
pub const HEADER_LEN: usize = 24;

/// The largest body: a receiver has a buffer of this length for each lane, and no other.
pub const BODY_LEN_MAX: usize = 1 << 20;

/// What the body of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Hello`]: the first of every connection in either direction.
    Hello,
    /// A coordinator's message, opaque here. Lane 0 only.
    Message,
    /// Pages of guest RAM with their bytes: [`crate::migration::pages`].
    Pages,
    /// Pages of guest RAM that are zero.
    ZeroPages,
    /// A piece of a process's saved state: [`crate::migration::unit`]. Lane 0 only.
    Unit,
    /// [`EndOfRound`].
    EndOfRound,
    /// Nothing: whoever sends it is there. Lane 0 only, an empty body.
    Alive,
    /// Pages of guest RAM, their bytes packed: [`crate::migration::pages`].
    PackedPages,
}

/// What stands before each body, in the host's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Which frame of the connection it is, in its direction.
    pub sequence: u64,
    /// How many bytes of body follow; at most [`BODY_LEN_MAX`].
    pub body_len: usize,
    crc32: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    magic: U32,
    format: U16,
    kind: u8,
    reserved: u8,
    sequence: U64,
    body_len: U32,
    crc32: U32,
}

const _: () = assert!(size_of::<Wire>() == HEADER_LEN);

/// Why a stream is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Not a frame.
    #[error("frame {sequence}: magic {magic:#x}: this is no migration stream, or a piece of it is missing")]
    Magic {
        /// The frame that was due.
        sequence: u64,
        /// What is there instead.
        magic: u32,
    },
    /// A stream of another time.
    #[error(
        "migration stream of format {found}, this build takes up to {FORMAT}: migrate with the same release on both \
         hosts"
    )]
    Format {
        /// The format found.
        found: u16,
    },
    /// A kind that does not exist.
    #[error("frame {sequence}: kind {kind:#x} does not exist in format {format}")]
    Kind {
        /// The frame.
        sequence: u64,
        /// The byte found.
        kind: u8,
        /// What the header says.
        format: u16,
    },
    /// A reserved field is not zero.
    #[error("frame {sequence}: a reserved field is {value:#x}")]
    Reserved {
        /// The frame.
        sequence: u64,
        /// The value found.
        value: u32,
    },
    /// Another frame than the one that is due.
    #[error("frame {found} where frame {expected} is due")]
    Sequence {
        /// The number found.
        found: u64,
        /// The number that was due.
        expected: u64,
    },
    /// A body above the cap.
    #[error("frame {sequence}: body of {len:#x} bytes, at most {BODY_LEN_MAX:#x} allowed")]
    BodyLong {
        /// The frame.
        sequence: u64,
        /// The length found.
        len: u32,
    },
    /// The frame is not what was written.
    #[error("frame {sequence}: checksum {found:#x}, the header says {expected:#x}")]
    Checksum {
        /// The frame.
        sequence: u64,
        /// Of what has come.
        found: u32,
        /// In the header.
        expected: u32,
    },
    /// The body has not the form of its kind.
    #[error("frame body {place}: {value:#x} cannot be")]
    Body {
        /// Which body, and which part of it.
        place: &'static str,
        /// What is there.
        value: u64,
    },
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Hello,
        Self::Message,
        Self::Pages,
        Self::ZeroPages,
        Self::Unit,
        Self::EndOfRound,
        Self::Alive,
        Self::PackedPages,
    ];

    /// The format that it came with.
    #[must_use]
    pub const fn format(self) -> u16 {
        match self {
            Self::Hello
            | Self::Message
            | Self::Pages
            | Self::ZeroPages
            | Self::Unit
            | Self::EndOfRound
            | Self::Alive => 1,
            Self::PackedPages => 2,
        }
    }

    const fn to_byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Message => 2,
            Self::Pages => 3,
            Self::ZeroPages => 4,
            Self::Unit => 5,
            Self::EndOfRound => 6,
            Self::Alive => 7,
            Self::PackedPages => 8,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Message),
            3 => Some(Self::Pages),
            4 => Some(Self::ZeroPages),
            5 => Some(Self::Unit),
            6 => Some(Self::EndOfRound),
            7 => Some(Self::Alive),
            8 => Some(Self::PackedPages),
            _ => None,
        }
    }
}

impl Header {
    /// The header of a frame with this body, in parts that follow each other.
    ///
    /// # Panics
    /// Never; a body above [`BODY_LEN_MAX`] has a header that its receiver refuses.
    #[must_use]
    pub fn of(kind: Kind, sequence: u64, body: &[&[u8]]) -> Self {
        let body_len = body.iter().map(|part| part.len()).sum();
        let header = Self { kind, sequence, body_len, crc32: 0 };
        Self { crc32: header.checksum(body), ..header }
    }

    /// Of the header, as it travels without a checksum, and this body.
    fn checksum(&self, body: &[&[u8]]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&Self { crc32: 0, ..*self }.to_bytes());
        body.iter().for_each(|part| crc.update(part));
        crc.finalize()
    }

    /// The header as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let wire = Wire {
            magic: MAGIC.into(),
            format: self.kind.format().into(),
            kind: self.kind.to_byte(),
            reserved: 0,
            sequence: self.sequence.into(),
            body_len: u32::try_from(self.body_len).unwrap_or(u32::MAX).into(),
            crc32: self.crc32.into(),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Takes the header of the frame that is due apart.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn decode(bytes: &[u8; HEADER_LEN], sequence: u64) -> Result<Self, StreamError> {
        let wire: &Wire = zerocopy::transmute_ref!(bytes);
        if wire.magic != MAGIC {
            return Err(StreamError::Magic { sequence, magic: wire.magic.get() });
        }
        let format = wire.format.get();
        if !(1..=FORMAT).contains(&format) {
            return Err(StreamError::Format { found: format });
        }
        let kind = Kind::from_byte(wire.kind).filter(|kind| kind.format() == format);
        let kind = kind.ok_or(StreamError::Kind { sequence, kind: wire.kind, format })?;
        if wire.reserved != 0 {
            return Err(StreamError::Reserved { sequence, value: wire.reserved.into() });
        }
        if wire.sequence != sequence {
            return Err(StreamError::Sequence { found: wire.sequence.get(), expected: sequence });
        }
        let len = wire.body_len.get();
        let body_len = usize::try_from(len).ok().filter(|len| *len <= BODY_LEN_MAX);
        let body_len = body_len.ok_or(StreamError::BodyLong { sequence, len })?;
        Ok(Self { kind, sequence, body_len, crc32: wire.crc32.get() })
    }

    /// Whether these are the bytes that the header was made for, and it is as it was made.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, body: &[u8]) -> Result<(), StreamError> {
        let found = self.checksum(&[body]);
        if found == self.crc32 && body.len() == self.body_len {
            Ok(())
        } else {
            Err(StreamError::Checksum { sequence: self.sequence, found, expected: self.crc32 })
        }
    }
}

/// The number of a migration: drawn at the source, the same in all of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MigrationId(pub [u8; 16]);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What either end of a connection says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which migration this is a connection of.
    pub migration: MigrationId,
    /// Which of its connections.
    pub lane: u8,
    /// How many there are.
    pub lane_count: u8,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HelloWire {
    migration: [u8; 16],
    lane: u8,
    lane_count: u8,
    reserved: U16,
}

impl Hello {
    /// The body as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 20] {
        let Self { migration, lane, lane_count } = *self;
        zerocopy::transmute!(HelloWire { migration: migration.0, lane, lane_count, reserved: 0.into() })
    }

    /// Takes the body apart.
    ///
    /// # Errors
    /// If its length is another, or there cannot be such a lane.
    pub fn decode(body: &[u8]) -> Result<Self, StreamError> {
        let wire: &HelloWire = whole("Hello", body)?;
        let HelloWire { migration, lane, lane_count, reserved } = wire;
        let bad = |place, value| Err(StreamError::Body { place, value });
        if reserved.get() != 0 {
            return bad("Hello, reserved", reserved.get().into());
        }
        if !(1..=LANES_MAX).contains(lane_count) {
            return bad("Hello, number of lanes", (*lane_count).into());
        }
        if lane >= lane_count {
            return bad("Hello, lane", (*lane).into());
        }
        Ok(Self { migration: MigrationId(*migration), lane: *lane, lane_count: *lane_count })
    }
}

/// Says in a lane that it has carried everything of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfRound {
    /// Which one, from 0.
    pub round: u32,
    /// How many pages this lane has carried in it, those that are zero included.
    pub page_count: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EndOfRoundWire {
    round: U32,
    reserved: U32,
    page_count: U64,
}

impl EndOfRound {
    /// The body as it travels.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let Self { round, page_count } = *self;
        let wire = EndOfRoundWire { round: round.into(), reserved: 0.into(), page_count: page_count.into() };
        zerocopy::transmute!(wire)
    }

    /// Takes the body apart.
    ///
    /// # Errors
    /// If its length is another.
    pub fn decode(body: &[u8]) -> Result<Self, StreamError> {
        let EndOfRoundWire { round, reserved, page_count } = whole("EndOfRound", body)?;
        if reserved.get() != 0 {
            return Err(StreamError::Body { place: "EndOfRound, reserved", value: reserved.get().into() });
        }
        Ok(Self { round: round.get(), page_count: page_count.get() })
    }
}

/// A body that is one struct and nothing else.
fn whole<'a, T>(place: &'static str, body: &'a [u8]) -> Result<&'a T, StreamError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_bytes(body).map_err(|_| StreamError::Body { place, value: body.len() as u64 })
}

#[cfg(test)]
mod tests;
