// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which registers make up the state of KVM's GICv3 and ITS, in the order of saving and restoring.
//!
//! The orders are part of the saved state's version 1 and never change. Restoring in this order lets KVM accept each
//! write (Linux, Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic-its.rst): registers that KVM reads when
//! an interrupt becomes enabled or pending come before that; the distributor is enabled before anything is pending.

use machine::layout::{SPI_BASE, SPI_COUNT};

/// Shared peripheral interrupts end before this INTID.
const INTIDS_END: u32 = SPI_BASE + SPI_COUNT;

/// The words of registers from `base` on that hold `bits` for each INTID from `first` to `end`.
fn bank(base: u32, bits: u32, first: u32, end: u32) -> impl Iterator<Item = u32> {
    let per_word = 32 / bits;
    (first / per_word..end / per_word).map(move |word| base + 4 * word)
}

/// Offsets of the distributor's words (GICv3 §12.9).
pub fn distributor() -> Vec<u32> {
    const GICD_CTLR: u32 = 0x0000;
    const GICD_IIDR: u32 = 0x0008;
    let spis = |base, bits| bank(base, bits, SPI_BASE, INTIDS_END);
    // GICD_IIDR selects KVM's revision of the other registers; then GICD_CTLR, since KVM queues no interrupt while
    // the distributor is disabled.
    let mut offsets = vec![GICD_IIDR, GICD_CTLR];
    offsets.extend(spis(GICD_IGROUPR, 1));
    offsets.extend((SPI_BASE..INTIDS_END).flat_map(|intid| [0x6000 + 8 * intid, 0x6004 + 8 * intid]));
    offsets.extend(spis(GICD_IPRIORITYR, 8));
    offsets.extend(spis(GICD_ICFGR, 2));
    offsets.extend(spis(GICD_ISENABLER, 1));
    offsets.extend(spis(GICD_ISPENDR, 1));
    offsets.extend(spis(GICD_ISACTIVER, 1));
    offsets
}

const GICD_IGROUPR: u32 = 0x0080;
const GICD_ISENABLER: u32 = 0x0100;
const GICD_ISPENDR: u32 = 0x0200;
const GICD_ISACTIVER: u32 = 0x0300;
const GICD_IPRIORITYR: u32 = 0x0400;
const GICD_ICFGR: u32 = 0x0c00;

/// First INTIDs of the words of input levels.
pub fn level_words() -> impl Iterator<Item = u32> {
    (SPI_BASE..INTIDS_END).step_by(32)
}

/// Offsets of a redistributor's words, RD_base then SGI_base (GICv3 §12.10, §12.11).
pub fn redistributor() -> Vec<u32> {
    const GICR_CTLR: u32 = 0x0000;
    const GICR_WAKER: u32 = 0x0014;
    const GICR_PROPBASER: u32 = 0x0070;
    const GICR_PENDBASER: u32 = 0x0078;
    const SGI_BASE: u32 = 0x1_0000;
    let private = |base, bits| bank(SGI_BASE + base, bits, 0, SPI_BASE);
    let mut offsets = vec![GICR_WAKER];
    offsets.extend([GICR_PROPBASER, GICR_PROPBASER + 4, GICR_PENDBASER, GICR_PENDBASER + 4]);
    offsets.extend(private(GICD_IGROUPR, 1));
    offsets.extend(private(GICD_IPRIORITYR, 8));
    offsets.extend(private(GICD_ICFGR, 2));
    offsets.extend(private(GICD_ISENABLER, 1));
    offsets.extend(private(GICD_ISPENDR, 1));
    offsets.extend(private(GICD_ISACTIVER, 1));
    // With EnableLPIs set the tables' addresses are read-only.
    offsets.push(GICR_CTLR);
    offsets
}

/// The ICC registers of a CPU with `priority_bits`, as KVM encodes their names (op0, op1, CRn, CRm, op2).
pub fn cpu_interface(priority_bits: u32) -> Vec<u64> {
    const fn icc(crn: u64, crm: u64, op2: u64) -> u64 {
        3 << 14 | crn << 7 | crm << 3 | op2
    }
    const ICC_SRE_EL1: u64 = icc(12, 12, 5);
    const ICC_PMR_EL1: u64 = icc(4, 6, 0);
    const ICC_BPR0_EL1: u64 = icc(12, 8, 3);
    const ICC_BPR1_EL1: u64 = icc(12, 12, 3);
    const ICC_IGRPEN0_EL1: u64 = icc(12, 12, 6);
    const ICC_IGRPEN1_EL1: u64 = icc(12, 12, 7);
    // Active priorities take one register for each 32 of 2^(priority bits - 1) preemption levels (GICv3 §12.2.2).
    let active: u64 = match priority_bits {
        ..=5 => 1,
        6 => 2,
        7.. => 4,
    };
    let mut names = vec![
        ICC_SRE_EL1,
        ICC_CTLR_EL1,
        ICC_PMR_EL1,
        ICC_BPR0_EL1,
        ICC_BPR1_EL1,
        ICC_IGRPEN0_EL1,
        ICC_IGRPEN1_EL1,
    ];
    names.extend((0..active).map(|index| icc(12, 8, 4 + index)));
    names.extend((0..active).map(|index| icc(12, 9, index)));
    names
}

/// ICC_CTLR_EL1, as KVM encodes its name.
pub const ICC_CTLR_EL1: u64 = 3 << 14 | 12 << 7 | 12 << 3 | 4;

/// Number of priority bits in ICC_CTLR_EL1 (PRIbits + 1).
pub fn priority_bits(icc_ctlr: u64) -> u32 {
    u32::try_from(icc_ctlr >> 8 & 7).unwrap_or(0) + 1
}

/// Offsets of the ITS's registers (GICv3 §12.18): GITS_IIDR (KVM's table format); the command queue, where a write of
/// CBASER clears CREADR and CWRITER; the tables' addresses; and GITS_CTLR after the tables are restored.
pub fn its() -> impl Iterator<Item = u64> {
    const GITS_IIDR: u64 = 0x4;
    const GITS_CBASER: u64 = 0x80;
    const GITS_CWRITER: u64 = 0x88;
    const GITS_CREADR: u64 = 0x90;
    let tables = (0..8).map(|index| 0x100 + 8 * index);
    [GITS_IIDR, GITS_CBASER, GITS_CREADR, GITS_CWRITER].into_iter().chain(tables).chain([GITS_CTLR])
}

/// GITS_CTLR.
pub const GITS_CTLR: u64 = 0x0;

/// The affinity of a vCPU as KVM's attributes carry it, in bits 63:32.
pub fn affinity(vcpu: u32) -> u64 {
    u64::from(machine::fdt::mpidr_affinity(vcpu)) << 32
}

/// Sizes in a register's id (KVM_REG_SIZE_MASK).
pub fn size_of_id(id: u64) -> usize {
    1 << (id >> 52 & 0xf)
}

/// KVM_REG_ARM_TIMER_CNT and KVM_REG_ARM_PTIMER_CNT: the guest's counters, one time for all vCPUs.
pub const COUNTERS: [u64; 2] = [VIRTUAL_COUNTER, system_register(3, 3, 14, 0, 1)];
/// KVM_REG_ARM_TIMER_CNT.
pub const VIRTUAL_COUNTER: u64 = system_register(3, 3, 14, 3, 2);

/// KVM's id of a 64-bit system register.
const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    ARM64_U64 | 0x0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// KVM_REG_ARM64 | KVM_REG_SIZE_U64.
const ARM64_U64: u64 = 0x6030_0000_0000_0000;

/// KVM's ids of core registers, by their place in `struct kvm_regs`.
pub mod core {
    /// The first general register.
    pub const X0: u64 = super::ARM64_U64 | 0x0010_0000;
    /// PC.
    pub const PC: u64 = X0 | 0x40;
}

#[cfg(test)]
mod tests;
