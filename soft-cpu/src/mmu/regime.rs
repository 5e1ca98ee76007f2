// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The translation regime in force: SCTLR_EL1, TCR_EL1, MAIR_EL1 and the TTBRs, unpacked once per change.
//!
//! Called by the system register writes and by restore; read by every walk and by alignment checks.

use super::Granule;
use crate::sysreg::SystemRegisters;

/// Physical address size in bits: what ID_AA64MMFR0_EL1.PARange says.
pub(crate) const PHYSICAL_BITS: u32 = 40;

/// SCTLR_EL1 bits that matter to memory accesses.
mod sctlr {
    pub const M: u64 = 1 << 0;
    pub const A: u64 = 1 << 1;
    pub const SA: u64 = 1 << 3;
    pub const SA0: u64 = 1 << 4;
    pub const WXN: u64 = 1 << 19;
}

/// One half of the address space.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Half {
    pub table: u64,
    /// TnSZ.
    pub size_offset: u32,
    pub granule: Granule,
    /// The top byte of addresses is ignored.
    pub top_byte_ignored: bool,
    /// EPDn: a miss faults instead of walking.
    pub walk_disabled: bool,
}

/// Translation as the registers have it now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Regime {
    pub enabled: bool,
    pub write_implies_no_execute: bool,
    pub low: Half,
    pub high: Half,
    pub asid: u16,
    /// Output addresses at or above this fault.
    pub output_bits: u32,
    pub mair: u64,
    sctlr: u64,
}

impl Regime {
    pub(crate) fn new(sys: &SystemRegisters) -> Regime {
        let tcr = sys.tcr;
        let asid_from_high = tcr >> 22 & 1 == 1;
        let ttbr = if asid_from_high { sys.ttbr1 } else { sys.ttbr0 };
        // Without TCR_EL1.AS the ASID has eight bits.
        let asid_mask = if tcr >> 36 & 1 == 1 { 0xffff } else { 0xff };
        Regime {
            enabled: sys.sctlr & sctlr::M != 0,
            write_implies_no_execute: sys.sctlr & sctlr::WXN != 0,
            low: Half {
                table: sys.ttbr0 & 0x0000_ffff_ffff_fffe,
                size_offset: (tcr & 0x3f) as u32,
                granule: Granule::from_tg0(tcr >> 14),
                top_byte_ignored: tcr >> 37 & 1 == 1,
                walk_disabled: tcr >> 7 & 1 == 1,
            },
            high: Half {
                table: sys.ttbr1 & 0x0000_ffff_ffff_fffe,
                size_offset: (tcr >> 16 & 0x3f) as u32,
                granule: Granule::from_tg1(tcr >> 30),
                top_byte_ignored: tcr >> 38 & 1 == 1,
                walk_disabled: tcr >> 23 & 1 == 1,
            },
            asid: (ttbr >> 48 & asid_mask) as u16,
            output_bits: match tcr >> 32 & 7 {
                0 => 32,
                1 => 36,
                _ => PHYSICAL_BITS,
            },
            mair: sys.mair,
            sctlr: sys.sctlr,
        }
    }

    /// Whether a misaligned stack pointer faults as the base of an access at `el`.
    pub(crate) fn stack_check(&self, el: u8) -> bool {
        self.sctlr & (if el == 0 { sctlr::SA0 } else { sctlr::SA }) != 0
    }

    /// Whether every unaligned access faults, on any memory.
    pub(crate) fn alignment_check(&self) -> bool {
        self.sctlr & sctlr::A != 0
    }

    /// Whether two regimes translate the same, but for ASID and table addresses.
    pub(crate) fn same_rules(&self, other: &Regime) -> bool {
        let rules = |regime: &Regime| Regime {
            low: Half { table: 0, ..regime.low },
            high: Half { table: 0, ..regime.high },
            asid: 0,
            sctlr: 0,
            ..*regime
        };
        rules(self) == rules(other)
    }

    /// The address that an instruction address stands for: tags are replaced by the sign.
    pub(crate) fn canonical_pc(&self, pc: u64) -> u64 {
        let half = if pc >> 55 & 1 == 1 { &self.high } else { &self.low };
        if half.top_byte_ignored { ((pc << 8) as i64 >> 8) as u64 } else { pc }
    }
}
