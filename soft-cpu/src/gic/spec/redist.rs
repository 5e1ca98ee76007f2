// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICR: the redistributor's RD_base and SGI_base frames (IHI 0069 §12.11, §12.12), and the LPI
//! configuration table entry (§5.1.1).

use super::{Field, SHAREABILITY, sanitise_shareability};

/// Bytes of one redistributor: RD_base and SGI_base frames of 64 KiB each (no virtual LPIs).
pub const STRIDE: u64 = 0x2_0000;
/// Offset of the SGI_base frame.
pub const SGI_BASE: u64 = 0x1_0000;

/// GICR_CTLR.
pub const CTLR: u64 = 0x0000;
/// GICR_CTLR.EnableLPIs.
pub const CTLR_ENABLE_LPIS: Field = Field::bit(0);
/// GICR_CTLR.CES: EnableLPIs can be cleared again.
pub const CTLR_CES: Field = Field::bit(1);
/// GICR_CTLR.IR: INVLPIR and INVALLR exist.
pub const CTLR_IR: Field = Field::bit(2);

/// GICR_IIDR.
pub const IIDR: u64 = 0x0004;
/// GICR_TYPER, 64 bits.
pub const TYPER: u64 = 0x0008;
const TYPER_PLPIS: Field = Field::bit(0);
const TYPER_LAST: Field = Field::bit(4);
const TYPER_PROCESSOR_NUMBER: Field = Field::bits(23, 8);
const TYPER_AFFINITY: Field = Field::bits(63, 32);

/// GICR_TYPER of redistributor `number`. CommonLPIAff is 0: all share one LPI configuration table.
pub const fn typer(number: u64, affinity: u32, last: bool, lpis: bool) -> u64 {
    TYPER_PLPIS.of(lpis as u64)
        | TYPER_LAST.of(last as u64)
        | TYPER_PROCESSOR_NUMBER.of(number)
        | TYPER_AFFINITY.of(affinity as u64)
}

/// GICR_WAKER.
pub const WAKER: u64 = 0x0014;
/// GICR_WAKER.ProcessorSleep: nothing is forwarded to the CPU interface.
pub const WAKER_PROCESSOR_SLEEP: Field = Field::bit(1);
/// GICR_WAKER.ChildrenAsleep, read-only: follows ProcessorSleep at once.
pub const WAKER_CHILDREN_ASLEEP: Field = Field::bit(2);

/// GICR_PROPBASER, 64 bits: the LPI configuration table.
pub const PROPBASER: u64 = 0x0070;
/// GICR_PENDBASER, 64 bits: this redistributor's LPI pending table.
pub const PENDBASER: u64 = 0x0078;
/// GICR_INVLPIR, 64 bits, write only.
pub const INVLPIR: u64 = 0x00a0;
/// The INTID field of INVLPIR.
pub const INVLPIR_INTID: Field = Field::bits(31, 0);
/// GICR_INVALLR, 64 bits, write only.
pub const INVALLR: u64 = 0x00b0;
/// GICR_SYNCR: Busy reads as zero, invalidations are done at once.
pub const SYNCR: u64 = 0x00c0;

const PROPBASER_ID_BITS: Field = Field::bits(4, 0);
const PROPBASER_ADDRESS: Field = Field::bits(51, 12);
const PENDBASER_ADDRESS: Field = Field::bits(51, 16);
const PENDBASER_PTZ: Field = Field::bit(62);
const INNER_CACHE: Field = Field::bits(9, 7);
const OUTER_CACHE: Field = Field::bits(58, 56);
const ATTRIBUTES: u64 = INNER_CACHE.mask() | SHAREABILITY.mask() | OUTER_CACHE.mask();

/// The bits of GICR_PROPBASER that are kept.
pub const fn sanitise_propbaser(value: u64) -> u64 {
    sanitise_shareability(value & (PROPBASER_ID_BITS.mask() | PROPBASER_ADDRESS.mask() | ATTRIBUTES))
}

/// The bits of GICR_PENDBASER that are kept, PTZ among them although it reads as zero.
pub const fn sanitise_pendbaser(value: u64) -> u64 {
    sanitise_shareability(value & (PENDBASER_PTZ.mask() | PENDBASER_ADDRESS.mask() | ATTRIBUTES))
}

/// Base of the LPI configuration table.
pub const fn propbaser_address(register: u64) -> u64 {
    register & PROPBASER_ADDRESS.mask()
}

/// INTID bits that the configuration table covers, not yet bounded by what the model has.
pub const fn propbaser_id_bits(register: u64) -> u64 {
    PROPBASER_ID_BITS.get(register) + 1
}

/// Base of the LPI pending table.
pub const fn pendbaser_address(register: u64) -> u64 {
    register & PENDBASER_ADDRESS.mask()
}

/// PTZ: the guest says that the pending table is all zeros.
pub const fn pendbaser_is_zeroed(register: u64) -> bool {
    PENDBASER_PTZ.is_set(register)
}

/// What a read of GICR_PENDBASER returns.
pub const fn pendbaser_visible(register: u64) -> u64 {
    register & !PENDBASER_PTZ.mask()
}

/// LPI configuration byte: priority in [7:2].
pub const LPI_CONFIG_PRIORITY: Field = Field::bits(7, 2);
/// LPI configuration byte: enable.
pub const LPI_CONFIG_ENABLE: Field = Field::bit(0);
