// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICD: the distributor's registers (IHI 0069 §12.9), and the per-interrupt register blocks whose
//! layout the redistributor's SGI frame shares (§12.11).

use super::{Field, INTID_BITS, SPI_FIRST};

/// GICD_CTLR.
pub const CTLR: u64 = 0x0000;
/// GICD_CTLR.EnableGrp0.
pub const CTLR_ENABLE_GRP0: Field = Field::bit(0);
/// GICD_CTLR.EnableGrp1.
pub const CTLR_ENABLE_GRP1: Field = Field::bit(1);
/// GICD_CTLR.ARE: affinity routing; always one here, legacy operation does not exist.
pub const CTLR_ARE: Field = Field::bit(4);
/// GICD_CTLR.DS: a single security state; always one here. RWP (bit 31) reads as zero: writes are done at
/// once.
pub const CTLR_DS: Field = Field::bit(6);

/// GICD_TYPER.
pub const TYPER: u64 = 0x0004;
const TYPER_IT_LINES: Field = Field::bits(4, 0);
const TYPER_MBIS: Field = Field::bit(16);
const TYPER_LPIS: Field = Field::bit(17);
const TYPER_ID_BITS: Field = Field::bits(23, 19);
const TYPER_A3V: Field = Field::bit(24);
const TYPER_NO1N: Field = Field::bit(25);
/// INTID bits when there are no LPIs: 1023 is the largest INTID.
const INTID_BITS_WITHOUT_LPI: u32 = 10;

/// GICD_TYPER for a distributor with `spi_words` registers of 32 SPIs.
///
/// No1N: "1 of N" routing is not offered, so GICD_IROUTER.IRM is RES0. MBIS: the message-based SPI
/// registers exist. num_LPIs is 0: IDbits says how many there are.
pub const fn typer(spi_words: u32, lpis: bool) -> u64 {
    let id_bits = if lpis { INTID_BITS } else { INTID_BITS_WITHOUT_LPI };
    TYPER_IT_LINES.of(spi_words as u64)
        | TYPER_MBIS.of(1)
        | TYPER_LPIS.of(lpis as u64)
        | TYPER_ID_BITS.of(id_bits as u64 - 1)
        | TYPER_A3V.of(1)
        | TYPER_NO1N.of(1)
}

/// GICD_IIDR.
pub const IIDR: u64 = 0x0008;
/// GICD_SETSPI_NSR: write an INTID to raise a message-based SPI.
pub const SETSPI_NSR: u64 = 0x0040;
/// GICD_CLRSPI_NSR: write an INTID to lower it.
pub const CLRSPI_NSR: u64 = 0x0048;
/// The INTID field of both.
pub const SPI_NSR_INTID: Field = Field::bits(12, 0);

/// GICD_IROUTER<n>, 64 bits for each INTID from 32.
const IROUTER: u64 = 0x6000;
const IROUTER_END: u64 = 0x7fe0;
/// The affinity fields of IROUTER: Aff3 [39:32], Aff2..Aff0 [23:0]. IRM (bit 31) is RES0, see No1N.
pub const IROUTER_AFFINITY: u64 = 0x0000_00ff_00ff_ffff;

/// INTID of the GICD_IROUTER at `offset`.
pub fn irouter_intid(offset: u64) -> Option<u32> {
    if !(IROUTER..IROUTER_END).contains(&offset) {
        return None;
    }
    let intid = u32::try_from((offset - IROUTER) / 8).ok()?;
    (intid >= SPI_FIRST).then_some(intid)
}

/// A one-bit-per-interrupt register block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitBlock {
    /// IGROUPR.
    Group,
    /// ISENABLER.
    SetEnable,
    /// ICENABLER.
    ClearEnable,
    /// ISPENDR.
    SetPending,
    /// ICPENDR.
    ClearPending,
    /// ISACTIVER.
    SetActive,
    /// ICACTIVER.
    ClearActive,
}

/// A register of the per-interrupt blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BankRegister {
    /// Bits for INTIDs `32 * word ..`.
    Bits(BitBlock, u32),
    /// IPRIORITYR byte of an INTID.
    Priority(u32),
    /// ICFGR: two bits for each INTID from `16 * index`.
    Config(u32),
}

/// The per-interrupt register at `offset` (same offsets in GICD and in the SGI frame).
pub fn bank_register(offset: u64) -> Option<BankRegister> {
    let index = |base: u64, len: u64| u32::try_from((offset - base) / len).ok();
    let bits = |block, base| Some(BankRegister::Bits(block, index(base, 4)?));
    match offset {
        0x0080..=0x00ff => bits(BitBlock::Group, 0x0080),
        0x0100..=0x017f => bits(BitBlock::SetEnable, 0x0100),
        0x0180..=0x01ff => bits(BitBlock::ClearEnable, 0x0180),
        0x0200..=0x027f => bits(BitBlock::SetPending, 0x0200),
        0x0280..=0x02ff => bits(BitBlock::ClearPending, 0x0280),
        0x0300..=0x037f => bits(BitBlock::SetActive, 0x0300),
        0x0380..=0x03ff => bits(BitBlock::ClearActive, 0x0380),
        0x0400..=0x07fb => Some(BankRegister::Priority(index(0x0400, 1)?)),
        0x0c00..=0x0cff => Some(BankRegister::Config(index(0x0c00, 4)?)),
        _ => None,
    }
}
