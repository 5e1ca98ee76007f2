// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fixed header of every channel message, and the limits that are checked before a body is decoded.
//!
//! 32 bytes, little-endian. [`decode`] is pure, does not allocate, and is the entry point of the fuzz target. A frame
//! is one seqpacket message, whose boundaries the kernel keeps: `body_len` is only compared, never used to read or to
//! allocate.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Breach, Violation};

/// "BKHD", as the bytes stand in memory.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BKHD");

/// The longest body, in bytes. The largest messages, a configuration and an `Inspect`, have some KiB: bulk data goes by
/// shared memory. A default socket buffer holds several of 64 KiB.
pub const BODY_LEN_MAX: u32 = 64 * 1024;

/// The length of a header on the wire.
pub const HEADER_LEN: usize = 32;

/// The most descriptors in one message; no message has more than 1 today.
pub const FDS_MAX: u8 = 8;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first frame in each direction: [`crate::hello::Hello`].
    Hello,
    /// A request, with a new request id.
    Request,
    /// The reply to a request, with its id.
    Reply,
    /// An event: request id 0, no reply.
    Event,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Request => 2,
            Self::Reply => 3,
            Self::Event => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Request),
            3 => Some(Self::Reply),
            4 => Some(Self::Event),
            _ => None,
        }
    }
}

/// A header that passed all checks that do not depend on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The protocol's number, [`crate::protocol::Protocol::ID`].
    pub protocol: u16,
    /// The protocol's version.
    pub version: u16,
    /// Chosen by the requesting end; 0 in a hello and an event.
    pub request_id: u64,
    /// The generation of the process that this channel belongs to.
    pub generation: u32,
    /// What the frame is for.
    pub kind: Kind,
    /// How many descriptors it carries.
    pub fd_count: u8,
    /// The length of the body, in bytes.
    pub body_len: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    magic: U32,
    protocol: U16,
    version: U16,
    request_id: U64,
    generation: U32,
    kind: u8,
    fd_count: u8,
    reserved_16: U16,
    body_len: U32,
    reserved_32: U32,
}

const _: () = assert!(size_of::<Wire>() == HEADER_LEN);

impl Header {
    /// The encoded header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let wire = Wire {
            magic: MAGIC.into(),
            protocol: self.protocol.into(),
            version: self.version.into(),
            request_id: self.request_id.into(),
            generation: self.generation.into(),
            kind: self.kind.to_byte(),
            fd_count: self.fd_count,
            reserved_16: 0.into(),
            body_len: self.body_len.into(),
            reserved_32: 0.into(),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }
}

/// Splits a message into its header and its body.
///
/// # Errors
/// The first rule that the bytes break.
pub fn decode(message: &[u8]) -> Result<(Header, &[u8]), Violation> {
    let breach = |breach| Violation::new("frame", breach);
    let (wire, body) =
        Wire::ref_from_prefix(message).map_err(|_| breach(Breach::HeaderShort { len: message.len() }))?;
    if wire.magic != MAGIC {
        return Err(breach(Breach::Magic { magic: wire.magic.get() }));
    }
    let kind = Kind::from_byte(wire.kind).ok_or(breach(Breach::UnknownKind { kind: wire.kind }))?;
    if wire.reserved_16 != 0 || wire.reserved_32 != 0 {
        let value = wire.reserved_32.get() | u32::from(wire.reserved_16.get());
        return Err(breach(Breach::Reserved { value }));
    }
    let claimed = wire.body_len.get();
    if claimed > BODY_LEN_MAX {
        return Err(breach(Breach::BodyLong { len: claimed, max: BODY_LEN_MAX }));
    }
    if usize::try_from(claimed) != Ok(body.len()) {
        return Err(breach(Breach::BodyLength { claimed, found: body.len() }));
    }
    if wire.fd_count > FDS_MAX {
        return Err(breach(Breach::FdContract { found: wire.fd_count, expected: FDS_MAX }));
    }
    let header = Header {
        protocol: wire.protocol.get(),
        version: wire.version.get(),
        request_id: wire.request_id.get(),
        generation: wire.generation.get(),
        kind,
        fd_count: wire.fd_count,
        body_len: claimed,
    };
    Ok((header, body))
}

/// Decodes a body, which must have no trailing bytes.
///
/// # Errors
/// `Body` or `TrailingBytes`, at `place`.
pub fn decode_body<T: serde::de::DeserializeOwned>(place: &'static str, body: &[u8]) -> Result<T, Violation> {
    let (value, rest) = postcard::take_from_bytes(body).map_err(|_| Violation::new(place, Breach::Body))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Violation::new(place, Breach::TrailingBytes { len: rest.len() }))
    }
}

#[cfg(test)]
mod tests;
