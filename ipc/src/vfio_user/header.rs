// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The 16 bytes that every message begins with, and the commands' numbers.
//!
//! [`Header::decode`] is pure. The size is held against [`MESSAGE_LEN_MAX`](super::MESSAGE_LEN_MAX) here, before
//! anything waits for that many bytes. Specification: "Header".

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{MESSAGE_LEN_MAX, Malformed, wire};

/// The length of a header on the wire.
pub const HEADER_LEN: usize = 16;

/// A command's number. Open: a peer may know more of them, which is no violation but `ENOTSUP`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

macro_rules! commands {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal;)+) => {
        impl Command {
            $($(#[doc = $doc])+ pub const $name: Self = Self($number);)+

            /// The specification's name, without its prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    _ => "unknown command",
                }
            }
        }
    };
}

commands! {
    /// Proposes a version and capabilities: the first message, client to server.
    VERSION = 1;
    /// Declares a DMA window.
    DMA_MAP = 2;
    /// Takes a DMA window back.
    DMA_UNMAP = 3;
    /// Asks how many regions and interrupts there are.
    DEVICE_GET_INFO = 4;
    /// Asks what a region is.
    DEVICE_GET_REGION_INFO = 5;
    /// Asks for fds that stand for parts of a region.
    DEVICE_GET_REGION_IO_FDS = 6;
    /// Asks what an interrupt index is.
    DEVICE_GET_IRQ_INFO = 7;
    /// Connects, masks or triggers interrupts.
    DEVICE_SET_IRQS = 8;
    /// Reads from a region.
    REGION_READ = 9;
    /// Writes to a region.
    REGION_WRITE = 10;
    /// Reads the client's memory, server to client.
    DMA_READ = 11;
    /// Writes the client's memory, server to client.
    DMA_WRITE = 12;
    /// Puts the device into its state after power-on.
    DEVICE_RESET = 13;
    /// Dirty page logging of protocol 0.0; replaced by device features.
    DIRTY_PAGES = 14;
    /// Several small region writes at once.
    REGION_WRITE_MULTI = 15;
    /// Gets, sets or probes a device feature.
    DEVICE_FEATURE = 16;
    /// Reads migration data.
    MIG_DATA_READ = 17;
    /// Writes migration data.
    MIG_DATA_WRITE = 18;
}

impl core::fmt::Debug for Command {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks, and waits for a reply.
    Command,
    /// Asks, and wants no reply, not even of failure.
    Posted,
    /// Answers: it is done.
    Reply,
    /// Answers: it failed, with an error number, which may be 0. There is no body.
    Failure(u32),
}

/// A header that passed every check which needs no knowledge of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by who asks, echoed by who answers. The two directions have nothing to do with each other.
    pub id: u16,
    /// What is asked or was asked.
    pub command: Command,
    /// Whether it asks or answers.
    pub kind: Kind,
    /// How many bytes follow.
    pub body_len: usize,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Wire {
    id: U16,
    command: U16,
    size: U32,
    flags: U32,
    error: U32,
}

const _: () = assert!(size_of::<Wire>() == HEADER_LEN);

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

impl Header {
    /// Takes a header apart. Flag bits that no version has given a meaning are let be: they may get one.
    ///
    /// # Errors
    /// If the size is below the header's own or above every message's, or the type does not exist: the stream
    /// cannot be followed any further.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let wire: Wire = wire::whole("header", bytes)?;
        let size = wire.size.get();
        let body_len = usize::try_from(size).ok().filter(|size| *size <= MESSAGE_LEN_MAX);
        let body_len = body_len.and_then(|size| size.checked_sub(HEADER_LEN));
        let body_len = body_len.ok_or(Malformed::new("header", "the message size is out of range", size))?;
        let flags = wire.flags.get();
        let kind = match (flags & TYPE_MASK, flags & NO_REPLY != 0, flags & ERROR != 0) {
            (TYPE_COMMAND, false, _) => Kind::Command,
            (TYPE_COMMAND, true, _) => Kind::Posted,
            (TYPE_REPLY, _, false) => Kind::Reply,
            (TYPE_REPLY, _, true) => Kind::Failure(wire.error.get()),
            _ => return Err(Malformed::new("header", "the message type does not exist", flags)),
        };
        Ok(Self { id: wire.id.get(), command: Command(wire.command.get()), kind, body_len })
    }

    /// The header as it travels.
    ///
    /// # Errors
    /// If the body is longer than any message's.
    pub fn encode(&self) -> Result<[u8; HEADER_LEN], Malformed> {
        let size = self.body_len.checked_add(HEADER_LEN).filter(|size| *size <= MESSAGE_LEN_MAX);
        let size = size.and_then(|size| u32::try_from(size).ok());
        let long = Malformed::new("header", "the body is longer than a message may be", self.body_len);
        let (flags, error) = match self.kind {
            Kind::Command => (TYPE_COMMAND, 0),
            Kind::Posted => (TYPE_COMMAND | NO_REPLY, 0),
            Kind::Reply => (TYPE_REPLY, 0),
            Kind::Failure(errno) => (TYPE_REPLY | ERROR, errno),
        };
        let wire = Wire {
            id: self.id.into(),
            command: self.command.0.into(),
            size: size.ok_or(long)?.into(),
            flags: flags.into(),
            error: error.into(),
        };
        Ok(zerocopy::transmute!(wire))
    }
}
