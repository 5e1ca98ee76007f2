// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ICC_*_EL1: the CPU interface's system registers (IHI 0069 §12.2).
//!
//! Registers are named by the encoding that the whole crate uses:
//! `op0 << 14 | op1 << 11 | CRn << 7 | CRm << 3 | op2`.

use super::Field;

const fn sysreg(crn: u16, crm: u16, op2: u16) -> u16 {
    (3 << 14) | (crn << 7) | (crm << 3) | op2
}

/// ICC_PMR_EL1.
pub const PMR: u16 = sysreg(4, 6, 0);
/// ICC_IAR0_EL1.
pub const IAR0: u16 = sysreg(12, 8, 0);
/// ICC_EOIR0_EL1.
pub const EOIR0: u16 = sysreg(12, 8, 1);
/// ICC_HPPIR0_EL1.
pub const HPPIR0: u16 = sysreg(12, 8, 2);
/// ICC_BPR0_EL1.
pub const BPR0: u16 = sysreg(12, 8, 3);
/// ICC_AP0R0_EL1; AP0R1..3 do not exist with five priority bits.
pub const AP0R0: u16 = sysreg(12, 8, 4);
/// ICC_AP1R0_EL1; AP1R1..3 do not exist with five priority bits.
pub const AP1R0: u16 = sysreg(12, 9, 0);
/// ICC_DIR_EL1.
pub const DIR: u16 = sysreg(12, 11, 1);
/// ICC_RPR_EL1.
pub const RPR: u16 = sysreg(12, 11, 3);
/// ICC_SGI1R_EL1.
pub const SGI1R: u16 = sysreg(12, 11, 5);
/// ICC_ASGI1R_EL1: the other security state's SGIs; there is none.
pub const ASGI1R: u16 = sysreg(12, 11, 6);
/// ICC_SGI0R_EL1.
pub const SGI0R: u16 = sysreg(12, 11, 7);
/// ICC_IAR1_EL1.
pub const IAR1: u16 = sysreg(12, 12, 0);
/// ICC_EOIR1_EL1.
pub const EOIR1: u16 = sysreg(12, 12, 1);
/// ICC_HPPIR1_EL1.
pub const HPPIR1: u16 = sysreg(12, 12, 2);
/// ICC_BPR1_EL1.
pub const BPR1: u16 = sysreg(12, 12, 3);
/// ICC_CTLR_EL1.
pub const CTLR: u16 = sysreg(12, 12, 4);
/// ICC_SRE_EL1.
pub const SRE: u16 = sysreg(12, 12, 5);
/// ICC_IGRPEN0_EL1.
pub const IGRPEN0: u16 = sysreg(12, 12, 6);
/// ICC_IGRPEN1_EL1.
pub const IGRPEN1: u16 = sysreg(12, 12, 7);

/// ICC_SRE_EL1 reads SRE, DFB and DIB as one and ignores writes: there is no memory-mapped interface.
pub const SRE_VALUE: u64 = 0b111;

/// ICC_IGRPEN<n>_EL1.Enable.
pub const IGRPEN_ENABLE: Field = Field::bit(0);
/// INTID in IAR, EOIR, HPPIR and DIR.
pub const INTID: Field = Field::bits(23, 0);
/// ICC_BPR<n>_EL1.BinaryPoint.
pub const BPR_POINT: Field = Field::bits(2, 0);

/// ICC_CTLR_EL1.CBPR: group 1 uses BPR0.
pub const CTLR_CBPR: Field = Field::bit(0);
/// ICC_CTLR_EL1.EOImode: EOIR drops the priority only, DIR deactivates.
pub const CTLR_EOI_MODE: Field = Field::bit(1);
const CTLR_PRI_BITS: Field = Field::bits(10, 8);
const CTLR_A3V: Field = Field::bit(15);

/// The read-only part of ICC_CTLR_EL1: five priority bits, 16-bit INTIDs, Aff3 valid, no SEIs, no range
/// selector.
pub const CTLR_FIXED: u64 = CTLR_PRI_BITS.of(crate::gic::priority::PRIORITY_BITS as u64 - 1) | CTLR_A3V.of(1);

const SGIR_TARGETS: Field = Field::bits(15, 0);
const SGIR_AFF1: Field = Field::bits(23, 16);
const SGIR_INTID: Field = Field::bits(27, 24);
const SGIR_AFF2: Field = Field::bits(39, 32);
const SGIR_IRM: Field = Field::bit(40);
const SGIR_RS: Field = Field::bits(47, 44);
const SGIR_AFF3: Field = Field::bits(55, 48);

/// A request for software-generated interrupts, decoded from ICC_SGI<n>R_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiRequest {
    /// 0..=15.
    pub intid: u32,
    /// IRM: every vCPU but the sender.
    pub all_others: bool,
    /// Aff3.Aff2.Aff1 of the targets, Aff0 zero.
    pub cluster: u32,
    /// Bit n is Aff0 = 16 * RS + n.
    pub targets: u64,
    /// RS, the range selector.
    pub range: u32,
}

impl SgiRequest {
    /// Decodes what the guest wrote.
    pub const fn decode(value: u64) -> Self {
        let cluster =
            (SGIR_AFF3.get(value) << 24) | (SGIR_AFF2.get(value) << 16) | (SGIR_AFF1.get(value) << 8);
        Self {
            intid: super::low32(SGIR_INTID.get(value)),
            all_others: SGIR_IRM.is_set(value),
            cluster: super::low32(cluster),
            targets: SGIR_TARGETS.get(value),
            range: super::low32(SGIR_RS.get(value)),
        }
    }

    /// True when the vCPU of that affinity is on the list (the list itself, IRM aside).
    pub const fn names(self, affinity: u32) -> bool {
        let aff0 = affinity & 0xff;
        affinity & !0xff == self.cluster && aff0 / 16 == self.range && self.targets & (1 << (aff0 % 16)) != 0
    }
}
