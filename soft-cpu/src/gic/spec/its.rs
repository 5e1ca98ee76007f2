// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GITS: the interrupt translation service's registers, table descriptors, table entries and commands
//! (IHI 0069 §12.19, §5.2, §5.3).
//!
//! The entries of the device, interrupt and collection tables are this model's own format (the
//! architecture leaves them to the implementation): 64-bit little-endian words in which zero means
//! "not mapped", because guests hand over zeroed memory. They are part of the frozen machine: tables
//! travel with guest RAM in a migration.

use super::{Field, INTID_BITS, SHAREABILITY, sanitise_shareability};

/// GITS_CTLR.
pub const CTLR: u64 = 0x0000;
/// GITS_CTLR.Enabled.
pub const CTLR_ENABLED: Field = Field::bit(0);
/// GITS_CTLR.Quiescent, read-only: one whenever the ITS is disabled, since commands run inside accesses.
pub const CTLR_QUIESCENT: Field = Field::bit(31);
/// GITS_IIDR.
pub const IIDR: u64 = 0x0004;
/// GITS_TYPER, 64 bits.
pub const TYPER: u64 = 0x0008;
/// GITS_CBASER, 64 bits.
pub const CBASER: u64 = 0x0080;
/// GITS_CWRITER, 64 bits.
pub const CWRITER: u64 = 0x0088;
/// GITS_CREADR, 64 bits.
pub const CREADR: u64 = 0x0090;
/// GITS_BASER0, 64 bits: the device table.
pub const BASER_DEVICES: u64 = 0x0100;
/// GITS_BASER1, 64 bits: the collection table. BASER2..7 are not implemented.
pub const BASER_COLLECTIONS: u64 = 0x0108;
/// GITS_TRANSLATER, in the translation frame.
pub const TRANSLATER: u64 = 0x1_0040;

/// DeviceID bits: a PCI requester ID.
pub const DEVICE_ID_BITS: u32 = 16;
/// EventID bits: as many as there are INTID bits; more could not be mapped one to one.
pub const EVENT_ID_BITS: u32 = INTID_BITS;
/// Bytes of every table entry.
pub const ENTRY_LEN: u64 = 8;

const TYPER_PHYSICAL: Field = Field::bit(0);
const TYPER_ITT_ENTRY_SIZE: Field = Field::bits(7, 4);
const TYPER_ID_BITS: Field = Field::bits(12, 8);
const TYPER_DEV_BITS: Field = Field::bits(17, 13);

/// GITS_TYPER. PTA is 0: an RDbase is a processor number. HCC is 0: all collections are in memory. CIL is 0:
/// 16-bit collection numbers.
pub const TYPER_VALUE: u64 = TYPER_PHYSICAL.of(1)
    | TYPER_ITT_ENTRY_SIZE.of(ENTRY_LEN - 1)
    | TYPER_ID_BITS.of(EVENT_ID_BITS as u64 - 1)
    | TYPER_DEV_BITS.of(DEVICE_ID_BITS as u64 - 1);

const VALID: Field = Field::bit(63);
const INNER_CACHE: Field = Field::bits(61, 59);
const OUTER_CACHE: Field = Field::bits(55, 53);
const SIZE: Field = Field::bits(7, 0);
const ATTRIBUTES: u64 = INNER_CACHE.mask() | OUTER_CACHE.mask() | SHAREABILITY.mask();

/// GITS_CBASER: where the command queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cbaser(u64);

impl Cbaser {
    const ADDRESS: Field = Field::bits(51, 12);

    /// Keeps the implemented bits of a written value.
    pub const fn sanitise(value: u64) -> Self {
        let kept = VALID.mask() | Self::ADDRESS.mask() | SIZE.mask() | ATTRIBUTES;
        Self(sanitise_shareability(value & kept))
    }

    /// The register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The queue's address, when Valid is set.
    pub const fn address(self) -> Option<u64> {
        if VALID.is_set(self.0) { Some(self.0 & Self::ADDRESS.mask()) } else { None }
    }

    /// Bytes of the queue: at least 4 KiB, at most 1 MiB.
    pub const fn len(self) -> u64 {
        (SIZE.get(self.0) + 1) * 0x1000
    }
}

/// GITS_CREADR and GITS_CWRITER: the offset field.
const QUEUE_OFFSET: Field = Field::bits(19, 5);
/// GITS_CWRITER.Retry.
pub const CWRITER_RETRY: Field = Field::bit(0);
/// GITS_CREADR.Stalled.
pub const CREADR_STALLED: Field = Field::bit(0);

/// The byte offset that a written CREADR or CWRITER holds, if the queue has it.
pub const fn queue_offset(value: u64, queue: Cbaser) -> Option<u64> {
    let offset = value & QUEUE_OFFSET.mask();
    if offset < queue.len() { Some(offset) } else { None }
}

/// Which table a GITS_BASER describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Type 1; two levels are offered.
    Devices,
    /// Type 4; flat.
    Collections,
}

/// GITS_BASER<n>: where a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baser(u64);

impl Baser {
    const INDIRECT: Field = Field::bit(62);
    const TYPE: Field = Field::bits(58, 56);
    const ENTRY_SIZE: Field = Field::bits(52, 48);
    const ADDRESS: Field = Field::bits(47, 12);
    const ADDRESS_64K: Field = Field::bits(47, 16);
    const ADDRESS_64K_TOP: Field = Field::bits(15, 12);
    const PAGE_SIZE: Field = Field::bits(9, 8);
    const PAGE_SIZE_64K: u64 = 2;

    /// Keeps the implemented bits of a written value; Type and Entry_Size are ours, a reserved
    /// page size is 64 KiB, and a collection table is never indirect.
    pub const fn sanitise(kind: TableKind, value: u64) -> Self {
        let (table_type, indirect) = match kind {
            TableKind::Devices => (1, Self::INDIRECT.mask()),
            TableKind::Collections => (4, 0),
        };
        let kept = VALID.mask()
            | indirect
            | Self::ADDRESS.mask()
            | Self::PAGE_SIZE.mask()
            | SIZE.mask()
            | ATTRIBUTES;
        let mut register = sanitise_shareability(value & kept);
        if Self::PAGE_SIZE.get(register) > Self::PAGE_SIZE_64K {
            register = Self::PAGE_SIZE.with(register, Self::PAGE_SIZE_64K);
        }
        register = Self::TYPE.with(register, table_type);
        Self(Self::ENTRY_SIZE.with(register, ENTRY_LEN - 1))
    }

    /// At reset. The largest page is what a guest finds that tries no other, as on hosts that have it only.
    pub const fn at_reset(kind: TableKind) -> Self {
        Self::sanitise(kind, Self::PAGE_SIZE.of(Self::PAGE_SIZE_64K))
    }

    /// The register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True when the guest has provided the table.
    pub const fn is_valid(self) -> bool {
        VALID.is_set(self.0)
    }

    /// True for a two-level table.
    pub const fn is_indirect(self) -> bool {
        Self::INDIRECT.is_set(self.0)
    }

    /// Bytes of a page of this table.
    pub const fn page_len(self) -> u64 {
        0x1000 << (2 * Self::PAGE_SIZE.get(self.0))
    }

    /// Bytes of the table (of its first level when it is indirect).
    pub const fn len(self) -> u64 {
        (SIZE.get(self.0) + 1) * self.page_len()
    }

    /// The table's address. With 64 KiB pages bits 15:12 hold address bits 51:48.
    pub const fn address(self) -> u64 {
        if Self::PAGE_SIZE.get(self.0) == Self::PAGE_SIZE_64K {
            (self.0 & Self::ADDRESS_64K.mask()) | (Self::ADDRESS_64K_TOP.get(self.0) << 48)
        } else {
            self.0 & Self::ADDRESS.mask()
        }
    }
}

const _: () = assert!(Baser::sanitise(TableKind::Devices, u64::MAX).page_len() == 0x1_0000);

/// Level-one entry of an indirect device table: the second-level page's address, if valid.
pub const fn level1_address(entry: u64, page_len: u64) -> Option<u64> {
    const ADDRESS: Field = Field::bits(51, 12);
    if VALID.is_set(entry) { Some(entry & ADDRESS.mask() & !(page_len - 1)) } else { None }
}

/// Device table entry: where a device's interrupt translation table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Address of the ITT, a multiple of 256.
    pub itt: u64,
    /// EventIDs that the ITT has, as a number of bits: 1..=32.
    pub event_bits: u64,
}

impl DeviceEntry {
    const ITT: Field = Field::bits(51, 8);
    const SIZE: Field = Field::bits(4, 0);

    /// The word in guest memory.
    pub const fn encode(self) -> u64 {
        VALID.of(1) | (self.itt & Self::ITT.mask()) | Self::SIZE.of(self.event_bits - 1)
    }

    /// The entry, unless the device is not mapped.
    pub const fn decode(word: u64) -> Option<Self> {
        if !VALID.is_set(word) {
            return None;
        }
        Some(Self { itt: word & Self::ITT.mask(), event_bits: Self::SIZE.get(word) + 1 })
    }
}

/// Interrupt translation entry: where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventEntry {
    /// The LPI; a value read from memory may be out of range and is checked at use.
    pub intid: u32,
    /// The collection whose redistributor receives it.
    pub collection: u16,
}

impl EventEntry {
    const INTID: Field = Field::bits(31, 0);
    const COLLECTION: Field = Field::bits(47, 32);

    /// The word in guest memory.
    pub const fn encode(self) -> u64 {
        VALID.of(1) | Self::INTID.of(self.intid as u64) | Self::COLLECTION.of(self.collection as u64)
    }

    /// The entry, unless the event is not mapped.
    pub const fn decode(word: u64) -> Option<Self> {
        if !VALID.is_set(word) {
            return None;
        }
        Some(Self { intid: super::low32(word), collection: super::field::low16(Self::COLLECTION.get(word)) })
    }
}

/// Collection table entry: the processor number of its redistributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionEntry {
    /// Index of the vCPU; a value read from memory may be out of range and is checked at use.
    pub vcpu: u16,
}

impl CollectionEntry {
    const VCPU: Field = Field::bits(15, 0);

    /// The word in guest memory.
    pub const fn encode(self) -> u64 {
        VALID.of(1) | Self::VCPU.of(self.vcpu as u64)
    }

    /// The entry, unless the collection is not mapped.
    pub const fn decode(word: u64) -> Option<Self> {
        if VALID.is_set(word) { Some(Self { vcpu: super::field::low16(Self::VCPU.get(word)) }) } else { None }
    }
}
