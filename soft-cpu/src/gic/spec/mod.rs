// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Register layouts of the GICv3 architecture (Arm IHI 0069), types and constants only.
//!
//! One file per register frame. Names are the manual's. No algorithm lives here, and no mask or
//! shift lives elsewhere in the module: handlers go through [`Field`] and the functions of these files.
//! What is advertised (identification registers) is also fixed here, because it is part of the
//! machine's frozen shape: a change is a new machine version.

pub mod access;
pub mod command;
pub mod dist;
pub mod field;
pub mod icc;
pub mod its;
pub mod redist;

pub use field::{Field, low32};

/// First INTID that is private to a vCPU and wired (PPIs are 16..=31; SGIs are 0..=15).
pub const PPI_FIRST: u32 = 16;
/// First shared peripheral interrupt.
pub const SPI_FIRST: u32 = 32;
/// One past the last SPI: 1020..=1023 are special INTIDs (IHI 0069 §2.2.1).
pub const SPI_END: u32 = 1020;
/// "No interrupt": returned by IAR and HPPIR when nothing can be acknowledged.
pub const INTID_SPURIOUS: u32 = 1023;
/// First LPI.
pub const LPI_FIRST: u32 = 8192;
/// INTID bits of this model (GICD_TYPER.IDbits + 1): LPIs are 8192..=65535.
pub const INTID_BITS: u32 = 16;
/// One past the last LPI.
pub const LPI_END: u32 = 1 << INTID_BITS;

/// GICD_IIDR, GICR_IIDR and GITS_IIDR. Product 'B', implementer field as other software models have it;
/// matches no erratum entry of known guests.
pub const IIDR: u32 = 0x4200_043b;

/// Offset of the identification registers in every 64 KiB control frame.
const ID_FIRST: u64 = 0xffd0;
/// Identification registers PIDR4..7, PIDR0..3, CIDR0..3. PIDR2.ArchRev (bits 7:4) is 3: GICv3.
const ID_VALUES: [u32; 12] = [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// Value of the identification register at `offset`, if there is one there.
pub fn id_register(offset: u64) -> Option<u32> {
    let index = offset.checked_sub(ID_FIRST)? / 4;
    ID_VALUES.get(usize::try_from(index).ok()?).copied()
}

/// The bit of `intid` in its 32-bit register.
pub const fn bit_of(intid: u32) -> u32 {
    1 << (intid % 32)
}

/// Shareability, which the table registers of redistributors and ITS have at the same place.
const SHAREABILITY: Field = Field::bits(11, 10);
const SHAREABILITY_INNER: u64 = 1;
const SHAREABILITY_RESERVED: u64 = 3;

/// `register` with the reserved shareability kept as inner shareable.
const fn sanitise_shareability(register: u64) -> u64 {
    if SHAREABILITY.get(register) == SHAREABILITY_RESERVED {
        SHAREABILITY.with(register, SHAREABILITY_INNER)
    } else {
        register
    }
}
