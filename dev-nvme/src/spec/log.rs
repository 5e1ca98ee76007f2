// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Log pages, NVMe 1.4 section 5.14.1.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Log page identifiers.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod page {
    pub const ERROR: u8 = 0x01;
    pub const SMART: u8 = 0x02;
    pub const FIRMWARE_SLOT: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const COMMANDS_EFFECTS: u8 = 0x05;
}

/// An entry of the Error Information log.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ErrorEntry {
    /// Counts errors over the controller's life; 0 for an entry that is none.
    pub error_count: U64,
    /// Which queue.
    pub sqid: U16,
    /// Which command.
    pub cid: U16,
    /// Its status field.
    pub status: U16,
    /// Where in the command; all ones for "not said".
    pub parameter_location: U16,
    /// The first block concerned.
    pub lba: U64,
    /// The namespace concerned.
    pub nsid: U32,
    reserved: [u8; 36],
}

const _: () = assert!(size_of::<ErrorEntry>() == 64);

impl ErrorEntry {
    /// An entry about a command.
    #[must_use]
    pub fn new(error_count: u64, sqid: u16, cid: u16, status: u16, nsid: u32, lba: u64) -> Self {
        Self {
            error_count: error_count.into(),
            sqid: sqid.into(),
            cid: cid.into(),
            status: status.into(),
            parameter_location: u16::MAX.into(),
            lba: lba.into(),
            nsid: nsid.into(),
            reserved: [0; 36],
        }
    }
}

/// SMART / Health Information.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct Smart {
    /// Bit 1: a temperature is beyond its threshold.
    pub critical_warning: u8,
    /// In kelvins.
    pub temperature: U16,
    /// In percent.
    pub available_spare: u8,
    /// In percent.
    pub spare_threshold: u8,
    /// In percent.
    pub percentage_used: u8,
    reserved_6: [u8; 26],
    /// In thousands of 512 bytes, rounded up.
    pub data_units_read: U128,
    /// In thousands of 512 bytes, rounded up.
    pub data_units_written: U128,
    /// Read commands.
    pub host_reads: U128,
    /// Write commands.
    pub host_writes: U128,
    /// In minutes.
    pub busy_minutes: U128,
    /// Starts of the process.
    pub power_cycles: U128,
    /// In hours.
    pub power_on_hours: U128,
    /// Ends without a shutdown notification.
    pub unsafe_shutdowns: U128,
    /// Errors of the image.
    pub media_errors: U128,
    /// Entries ever made in the error log.
    pub error_entries: U128,
    reserved_192: [u8; 8],
    /// In kelvins; 0 is not implemented.
    pub sensors: [U16; 8],
    reserved_216: [u8; 296],
}

const _: () = assert!(size_of::<Smart>() == 512);

/// Firmware Slot Information.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct FirmwareSlots {
    /// The slot that runs.
    pub active: u8,
    reserved_1: [u8; 7],
    /// Revision in each slot.
    pub revisions: [[u8; 8]; 7],
    reserved_64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlots>() == 512);

/// Commands Supported and Effects.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct CommandEffects {
    /// By admin opcode.
    pub admin: [U32; 256],
    /// By I/O opcode.
    pub io: [U32; 256],
    reserved: [u8; 2048],
}

const _: () = assert!(size_of::<CommandEffects>() == 4096);

/// The command is supported.
pub const EFFECT_SUPPORTED: u32 = 1 << 0;
/// It changes the content of blocks.
pub const EFFECT_BLOCKS: u32 = 1 << 1;

/// A page of zeros to fill in.
#[must_use]
pub fn zeroed<T: FromZeros>() -> T {
    T::new_zeroed()
}
