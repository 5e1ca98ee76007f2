// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The values of the identification registers.
//!
//! This is the model that a guest sees and that a migration keeps, so it never depends on the host. A feature is
//! named here exactly when it is implemented.

use super::name;
use crate::debug::{BREAKPOINT_COUNT, CONTEXT_AWARE_COUNT, WATCHPOINT_COUNT};
use crate::fp;

/// Armv8.0 plus what ISAR0, ISAR1 and PFR0 say. No implementer owns the number; no erratum of a real core applies.
const MIDR: u64 = 0x000f_0bd0;
/// EL0 and EL1 in AArch64, GIC system registers, RAS (ESB, and no error record); not speculating, so neither Spectre v2
/// nor Meltdown (CSV2, CSV3).
const PFR0: u64 = 0x1100_0000_1100_0011;
const PFR0_NO_FP: u64 = 0x00ff_0000;
/// Armv8 debug (version 6) with the breakpoints and watchpoints of `debug.rs`, PMUv3 (1).
const DFR0: u64 = 6
    | 1 << 8
    | (BREAKPOINT_COUNT as u64 - 1) << 12
    | (WATCHPOINT_COUNT as u64 - 1) << 20
    | (CONTEXT_AWARE_COUNT as u64 - 1) << 28;
/// AES with the polynomial product, SHA-1, SHA-256, CRC32, atomics, dot product.
const ISAR0: u64 = 0x0000_1000_0021_1120;
/// LDAPR (LRCPC).
const ISAR1: u64 = 0x0010_0000;
/// 40-bit physical addresses, 16-bit ASIDs, all granules.
const MMFR0: u64 = 0x0010_0022;
/// Lines and exclusive granule of 64 bytes; data caches need no cleaning for code to be fetched (IDC),
/// the instruction cache needs its invalidation (no DIC).
const CTR: u64 = 0x9444_c004;
/// DC ZVA zeroes 64 bytes.
const DCZID: u64 = 4;
/// One level of separate instruction and data cache.
const CLIDR: u64 = 0x0100_0003;
/// 32 KiB, four ways, lines of 64 bytes.
const CCSIDR: u64 = 0x000f_e01a;

/// The value of an identification register; `None` if it is none.
pub(super) fn read(register: u16, vcpu: usize) -> Option<u64> {
    Some(match register {
        name::MIDR_EL1 => MIDR,
        name::MPIDR_EL1 => mpidr(vcpu),
        name::REVIDR_EL1 | name::AIDR_EL1 => 0,
        name::ID_AA64PFR0_EL1 if fp::IMPLEMENTED => PFR0,
        name::ID_AA64PFR0_EL1 => PFR0 | PFR0_NO_FP,
        name::ID_AA64DFR0_EL1 => DFR0,
        name::ID_AA64ISAR0_EL1 => ISAR0,
        name::ID_AA64ISAR1_EL1 => ISAR1,
        name::ID_AA64MMFR0_EL1 => MMFR0,
        name::CTR_EL0 => CTR,
        name::DCZID_EL0 => DCZID,
        name::CLIDR_EL1 => CLIDR,
        name::CCSIDR_EL1 => CCSIDR,
        _ if name::is_identification(register) => 0,
        _ => return None,
    })
}

/// What a guest can tell of its CPUs by their registers, but for their affinities.
pub fn identification() -> impl Iterator<Item = (&'static str, u64)> {
    let registers = [
        ("MIDR_EL1", name::MIDR_EL1),
        ("ID_AA64PFR0_EL1", name::ID_AA64PFR0_EL1),
        ("ID_AA64DFR0_EL1", name::ID_AA64DFR0_EL1),
        ("ID_AA64ISAR0_EL1", name::ID_AA64ISAR0_EL1),
        ("ID_AA64ISAR1_EL1", name::ID_AA64ISAR1_EL1),
        ("ID_AA64MMFR0_EL1", name::ID_AA64MMFR0_EL1),
        ("CTR_EL0", name::CTR_EL0),
        ("DCZID_EL0", name::DCZID_EL0),
    ];
    registers.into_iter().filter_map(|(name, register)| Some((name, read(register, 0)?)))
}

/// Affinity: sixteen CPUs per Aff1, as SGI target lists want it.
pub(crate) const fn mpidr(vcpu: usize) -> u64 {
    1 << 31 | (vcpu as u64 >> 4 & 0xff) << 8 | vcpu as u64 & 0xf
}

/// The CPU of an affinity, as PSCI has it.
pub(crate) const fn vcpu_of(affinity: u64) -> Option<usize> {
    if affinity & !0xff0f != 0 {
        return None;
    }
    Some((affinity >> 8 << 4 | affinity & 0xf) as usize)
}
