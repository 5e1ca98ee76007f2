// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saved state: an envelope that can be read before anything is decoded, around one frozen struct.
//!
//! A *state unit* is 36 bytes of envelope (magic, format, kind, version, length, checksum; little-endian) and a
//! postcard body. A stream is a sequence of units. It is untrusted (it comes from another process, host, or a file):
//! length and checksum are checked before a body is decoded, a body must be consumed to its last byte, and a stream to
//! its last unit: a unit that the reader does not know is an error. [`Reader::new`] is pure and the entry point of the
//! fuzz target. A stream of any size is written and read unit by unit ([`stream`]), with the same checks.

pub mod stream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "BKSU", as the bytes stand in the stream.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BKSU");

/// The envelope's own format.
pub const FORMAT: u16 = 1;

/// The largest body of one unit, in bytes. The largest today is a GIC with its LPI tables' cache, below 1 MiB.
pub const BODY_LEN_MAX: u32 = 16 << 20;

/// The most units in one stream: one per CPU and a few per device.
pub const UNITS_MAX: usize = 1024;

/// The length of an envelope.
pub const ENVELOPE_LEN: usize = 36;

/// The kind of a unit: a name of up to 16 ASCII letters, digits, dots and hyphens, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitKind([u8; 16]);

impl UnitKind {
    /// A kind by its name; checked when the program is built, if used in a constant.
    ///
    /// # Panics
    /// If the name is empty, too long, or has other characters.
    #[must_use]
    pub const fn new(name: &str) -> Self {
        match Self::parse(name.as_bytes()) {
            Some(kind) => kind,
            None => panic_name(),
        }
    }

    const fn parse(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut rest = name;
        let mut room: &mut [u8] = &mut bytes;
        if rest.is_empty() {
            return None;
        }
        while let Some((first, more)) = rest.split_first() {
            if !(first.is_ascii_alphanumeric() || *first == b'.' || *first == b'-') {
                return None;
            }
            let Some((cell, tail)) = room.split_first_mut() else { return None };
            *cell = *first;
            room = tail;
            rest = more;
        }
        Some(Self(bytes))
    }

    /// The name, without the padding.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.0.get(..end).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or_default()
    }

    fn from_wire(bytes: [u8; 16]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let kind = Self::parse(bytes.get(..end)?)?;
        // Only zeros may follow the first one: a kind has one spelling.
        (kind.0 == bytes).then_some(kind)
    }
}

impl core::fmt::Debug for UnitKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[expect(clippy::panic, reason = "a kind's name is a constant of the program: this stops the build")]
const fn panic_name() -> ! {
    panic!("a unit kind is 1 to 16 ASCII letters, digits, dots or hyphens")
}

/// A struct that is the body of one kind and version of state unit. Frozen once released: a change is a new
/// struct with a higher `VERSION` and a conversion from this one.
pub trait SavedState: Serialize + DeserializeOwned {
    /// Names the state unit; never reused.
    const KIND: UnitKind;
    /// The version of the struct.
    const VERSION: u16;
}

/// Why a stream was refused, or could not be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Fewer bytes than an envelope.
    #[error("state unit at {at:#x}: {len:#x} bytes are too few for an envelope")]
    EnvelopeShort {
        /// Offset in the stream.
        at: usize,
        /// Bytes left there.
        len: usize,
    },
    /// Not a state unit.
    #[error("state unit at {at:#x}: magic {magic:#x}")]
    Magic {
        /// Offset in the stream.
        at: usize,
        /// The word found.
        magic: u32,
    },
    /// An unknown format of the envelope.
    #[error("state unit at {at:#x}: envelope format {format:#x}")]
    Format {
        /// Offset in the stream.
        at: usize,
        /// The format found.
        format: u16,
    },
    /// The kind is not a valid name.
    #[error("state unit at {at:#x}: the kind is not a name")]
    KindName {
        /// Offset in the stream.
        at: usize,
    },
    /// The body is above the cap, or longer than the stream.
    #[error("state unit {kind:?}: body of {len:#x} bytes, {room:#x} allowed")]
    BodyLong {
        /// The unit.
        kind: UnitKind,
        /// The length in the envelope.
        len: u32,
        /// What the cap or the rest of the stream allows.
        room: usize,
    },
    /// The body does not match its checksum.
    #[error("state unit {kind:?}: checksum {found:#x}, envelope says {expected:#x}")]
    Checksum {
        /// The unit.
        kind: UnitKind,
        /// Of the body.
        found: u32,
        /// In the envelope.
        expected: u32,
    },
    /// More units than a stream may have.
    #[error("stream has more than {max} state units")]
    UnitCount {
        /// The bound.
        max: usize,
    },
    /// No unit of this kind is left.
    #[error("state unit {kind:?} is missing")]
    Missing {
        /// The kind asked for.
        kind: UnitKind,
    },
    /// A version that this build cannot load.
    #[error("state unit {kind:?}: version {found}, this build loads {expected}")]
    Version {
        /// The unit.
        kind: UnitKind,
        /// The version in the envelope.
        found: u16,
        /// The version asked for.
        expected: u16,
    },
    /// The body does not decode.
    #[error("state unit {kind:?}: body is malformed")]
    Body {
        /// The unit.
        kind: UnitKind,
    },
    /// Bytes behind the body's last field.
    #[error("state unit {kind:?}: {len:#x} bytes are left over")]
    BodyLeftOver {
        /// The unit.
        kind: UnitKind,
        /// How many.
        len: usize,
    },
    /// Units that the reader did not take.
    #[error("{count} state units are left over, the first is {kind:?}")]
    UnitsLeftOver {
        /// How many.
        count: usize,
        /// The first of them.
        kind: UnitKind,
    },
    /// A state that does not fit a unit.
    #[error("state unit {kind:?} cannot be written: {why}")]
    Unwritable {
        /// The unit.
        kind: UnitKind,
        /// The reason.
        why: &'static str,
    },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Envelope {
    magic: U32,
    format: U16,
    version: U16,
    kind: [u8; 16],
    len: U32,
    crc32: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<Envelope>() == ENVELOPE_LEN);

impl Envelope {
    fn around(kind: UnitKind, version: u16, body: &[u8]) -> Result<Self, SavedError> {
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= BODY_LEN_MAX);
        Ok(Self {
            magic: MAGIC.into(),
            format: FORMAT.into(),
            version: version.into(),
            kind: kind.0,
            len: len.ok_or(SavedError::Unwritable { kind, why: "it is too long" })?.into(),
            crc32: crc32fast::hash(body).into(),
            reserved: 0.into(),
        })
    }

    /// Checks the envelope, with `room` bytes left in the stream. Returns the kind and the length of the body.
    fn check(&self, at: usize, room: usize) -> Result<(UnitKind, usize), SavedError> {
        if self.magic != MAGIC {
            return Err(SavedError::Magic { at, magic: self.magic.get() });
        }
        if self.format != FORMAT || self.reserved != 0 {
            return Err(SavedError::Format { at, format: self.format.get() });
        }
        let kind = UnitKind::from_wire(self.kind).ok_or(SavedError::KindName { at })?;
        let len = self.len.get();
        if len > BODY_LEN_MAX {
            return Err(SavedError::BodyLong {
                kind,
                len,
                room: usize::try_from(BODY_LEN_MAX).unwrap_or(room),
            });
        }
        let fits = usize::try_from(len).ok().filter(|len| *len <= room);
        Ok((kind, fits.ok_or(SavedError::BodyLong { kind, len, room })?))
    }

    fn check_body(&self, kind: UnitKind, body: &[u8]) -> Result<(), SavedError> {
        let (found, expected) = (crc32fast::hash(body), self.crc32.get());
        if found == expected { Ok(()) } else { Err(SavedError::Checksum { kind, found, expected }) }
    }
}

/// Writes a stream.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    count: usize,
}

impl Writer {
    /// An empty stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one unit.
    ///
    /// # Errors
    /// `Unwritable` if the body is too long or there are too many units.
    pub fn append<T: SavedState>(&mut self, state: &T) -> Result<(), SavedError> {
        let refuse = |why| SavedError::Unwritable { kind: T::KIND, why };
        let body = postcard::to_stdvec(state).map_err(|_| refuse("it does not encode"))?;
        if self.count >= UNITS_MAX {
            return Err(refuse("the stream is full"));
        }
        let envelope = Envelope::around(T::KIND, T::VERSION, &body)?;
        self.bytes.extend_from_slice(envelope.as_bytes());
        self.bytes.extend_from_slice(&body);
        self.count += 1;
        Ok(())
    }

    /// The stream.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// One unit of a stream: envelope read and checked, body not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// As the envelope names it.
    pub kind: UnitKind,
    /// The version of its struct.
    pub version: u16,
    body: &'a [u8],
}

impl<'a> Unit<'a> {
    /// Decodes the body as `T`.
    ///
    /// # Errors
    /// If it is of another kind or version, malformed, or longer than a `T`.
    pub fn decode<T: SavedState>(&self) -> Result<T, SavedError> {
        if self.kind != T::KIND {
            return Err(SavedError::Missing { kind: T::KIND });
        }
        if self.version != T::VERSION {
            let (found, expected) = (self.version, T::VERSION);
            return Err(SavedError::Version { kind: T::KIND, found, expected });
        }
        let (state, rest) =
            postcard::take_from_bytes(self.body).map_err(|_| SavedError::Body { kind: T::KIND })?;
        if rest.is_empty() {
            Ok(state)
        } else {
            Err(SavedError::BodyLeftOver { kind: T::KIND, len: rest.len() })
        }
    }

    /// The encoded body.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Reads a stream: checks all envelopes first, and decodes bodies as they are taken.
#[derive(Debug)]
pub struct Reader<'a> {
    units: Vec<Unit<'a>>,
}

impl<'a> Reader<'a> {
    /// Checks every envelope and checksum of `stream`.
    ///
    /// # Errors
    /// The first error in the stream.
    pub fn new(stream: &'a [u8]) -> Result<Self, SavedError> {
        let mut units = Vec::new();
        let mut rest = stream;
        while !rest.is_empty() {
            if units.len() >= UNITS_MAX {
                return Err(SavedError::UnitCount { max: UNITS_MAX });
            }
            let (unit, behind) = split_unit(rest, stream.len() - rest.len())?;
            units.push(unit);
            rest = behind;
        }
        Ok(Self { units })
    }

    /// The units not yet taken, in the stream's order.
    #[must_use]
    pub fn units(&self) -> &[Unit<'a>] {
        &self.units
    }

    /// Takes the first unit of this kind, to look at its version before decoding it.
    pub fn take_unit(&mut self, kind: UnitKind) -> Option<Unit<'a>> {
        let position = self.units.iter().position(|unit| unit.kind == kind)?;
        Some(self.units.remove(position))
    }

    /// Takes and decodes the first unit of `T`'s kind.
    ///
    /// # Errors
    /// `Missing` if there is none, or why it was refused.
    pub fn take<T: SavedState>(&mut self) -> Result<T, SavedError> {
        self.take_unit(T::KIND).ok_or(SavedError::Missing { kind: T::KIND })?.decode()
    }

    /// The same of a state that may have been saved in the previous version, `P`.
    ///
    /// # Errors
    /// If there is none, or of another version, or it is malformed.
    pub fn take_or_previous<T: SavedState + From<P>, P: SavedState>(&mut self) -> Result<T, SavedError> {
        let unit = self.take_unit(T::KIND).ok_or(SavedError::Missing { kind: T::KIND })?;
        if unit.version == P::VERSION { Ok(unit.decode::<P>()?.into()) } else { unit.decode() }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// `UnitsLeftOver` if any unit was not taken: its state would be lost.
    pub fn finish(self) -> Result<(), SavedError> {
        match self.units.first() {
            None => Ok(()),
            Some(first) => Err(SavedError::UnitsLeftOver { count: self.units.len(), kind: first.kind }),
        }
    }
}

fn split_unit(bytes: &[u8], at: usize) -> Result<(Unit<'_>, &[u8]), SavedError> {
    let (envelope, rest) =
        Envelope::ref_from_prefix(bytes).map_err(|_| SavedError::EnvelopeShort { at, len: bytes.len() })?;
    let (kind, len) = envelope.check(at, rest.len())?;
    let long = SavedError::BodyLong { kind, len: envelope.len.get(), room: rest.len() };
    let (body, behind) = rest.split_at_checked(len).ok_or(long)?;
    envelope.check_body(kind, body)?;
    Ok((Unit { kind, version: envelope.version.get(), body }, behind))
}

#[cfg(test)]
mod tests;
