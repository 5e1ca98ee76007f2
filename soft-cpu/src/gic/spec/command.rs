// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ITS commands (IHI 0069 §5.3): 32 bytes, four little-endian words.
//!
//! Decoding is total: an unknown number stays representable as `Unknown`. Operands are as the guest wrote them; ranges
//! are checked when the command is executed.

use super::{Field, low32};

/// Bytes of a command.
pub const LEN: usize = 32;

const OPCODE: Field = Field::bits(7, 0);
const DEVICE: Field = Field::bits(63, 32);
const EVENT: Field = Field::bits(31, 0);
const INTID: Field = Field::bits(63, 32);
const EVENT_SIZE: Field = Field::bits(4, 0);
const ITT: Field = Field::bits(51, 8);
const VALID: Field = Field::bit(63);
const COLLECTION: Field = Field::bits(15, 0);
const RDBASE: Field = Field::bits(50, 16);

/// A device's event: what an MSI carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// DeviceID.
    pub device: u32,
    /// EventID.
    pub event: u32,
}

/// A decoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move an event to another collection.
    Movi(Event, u16),
    /// Make an event's LPI pending.
    Int(Event),
    /// Clear an event's pending LPI.
    Clear(Event),
    /// Wait for a redistributor: nothing to wait for here.
    Sync,
    /// Map a device to its ITT of `event_bits` EventID bits.
    MapDevice {
        /// DeviceID.
        device: u32,
        /// EventID bits.
        event_bits: u64,
        /// Address of the ITT.
        itt: u64,
    },
    /// MAPD with V clear.
    UnmapDevice {
        /// DeviceID.
        device: u32,
    },
    /// Map a collection to a redistributor, or unmap it.
    Mapc {
        /// Collection number.
        collection: u16,
        /// RDbase (a processor number) when V is set.
        target: Option<u64>,
    },
    /// Map an event to an LPI and a collection (also MAPI, whose LPI is the EventID).
    Mapti {
        /// DeviceID and EventID.
        event: Event,
        /// The LPI.
        intid: u32,
        /// Collection number.
        collection: u16,
    },
    /// Read an event's LPI configuration again.
    Inv(Event),
    /// Read all LPI configuration of a collection again.
    Invall(u16),
    /// Move all pending LPIs from one redistributor to another.
    Movall {
        /// RDbase1.
        from: u64,
        /// RDbase2.
        to: u64,
    },
    /// Unmap an event and clear its pending LPI.
    Discard(Event),
    /// Not a command of GICv3.
    Unknown(u8),
}

impl Command {
    /// Decodes four words.
    pub fn decode(qw: [u64; 4]) -> Self {
        let [qw0, qw1, qw2, qw3] = qw;
        let event = Event { device: low32(DEVICE.get(qw0)), event: low32(EVENT.get(qw1)) };
        let collection = super::field::low16(COLLECTION.get(qw2));
        match super::field::low8(OPCODE.get(qw0)) {
            0x01 => Self::Movi(event, collection),
            0x03 => Self::Int(event),
            0x04 => Self::Clear(event),
            0x05 => Self::Sync,
            0x08 if VALID.is_set(qw2) => Self::MapDevice {
                device: event.device,
                event_bits: EVENT_SIZE.get(qw1) + 1,
                itt: qw2 & ITT.mask(),
            },
            0x08 => Self::UnmapDevice { device: event.device },
            0x09 => Self::Mapc { collection, target: VALID.is_set(qw2).then_some(RDBASE.get(qw2)) },
            0x0a => Self::Mapti { event, intid: low32(INTID.get(qw1)), collection },
            0x0b => Self::Mapti { event, intid: event.event, collection },
            0x0c => Self::Inv(event),
            0x0d => Self::Invall(collection),
            0x0e => Self::Movall { from: RDBASE.get(qw2), to: RDBASE.get(qw3) },
            0x0f => Self::Discard(event),
            other => Self::Unknown(other),
        }
    }

    /// Decodes the 32 bytes of a queue slot.
    pub fn from_bytes(bytes: &[u8; LEN]) -> Self {
        let mut qw = [0; 4];
        for (word, chunk) in qw.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        Self::decode(qw)
    }
}
