// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's memory map as KVM memory slots: planned as data, and checked before any ioctl.
//!
//! RAM has dirty logging on request. A register page is read-only: reads cause no exit, a write is an MMIO exit.
//! Windows of devices' memory come after these, while the guest runs: [`super::window_slots`].

use machine::layout::IPA_BITS;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Guest RAM.
    Ram,
    /// A device's register page: the guest's stores are MMIO exits.
    ReadOnly,
}

/// A range of guest physical memory that KVM maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// KVM's number for it.
    pub number: u32,
    /// First guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it holds.
    pub kind: Kind,
}

/// Why regions cannot be the guest's memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemslotError {
    /// Not aligned to the host's pages.
    #[error("memory of {len:#x} bytes at {gpa:#x} is not made of the host's pages of {page_len:#x} bytes")]
    Alignment {
        /// First guest physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// The host's page size in bytes.
        page_len: u64,
    },
    /// Two regions overlap.
    #[error("memory at {second:#x} overlaps that at {first:#x}")]
    Overlap {
        /// Where one begins.
        first: u64,
        /// Where the other does.
        second: u64,
    },
    /// Beyond the guest's physical addresses.
    #[error("memory of {len:#x} bytes at {gpa:#x} ends beyond the machine's {IPA_BITS}-bit addresses")]
    Beyond {
        /// First guest physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// Numbers regions, each a kind, an address and a length, in the order given.
pub fn plan(
    regions: impl IntoIterator<Item = (Kind, u64, u64)>,
    page_len: u64,
) -> Result<Vec<Slot>, MemslotError> {
    let mut slots: Vec<Slot> = Vec::new();
    for (number, (kind, gpa, len)) in (0..).zip(regions) {
        if len == 0 || !gpa.is_multiple_of(page_len) || !len.is_multiple_of(page_len) {
            return Err(MemslotError::Alignment { gpa, len, page_len });
        }
        let end = gpa.checked_add(len).filter(|end| *end <= 1 << IPA_BITS);
        let end = end.ok_or(MemslotError::Beyond { gpa, len })?;
        if let Some(other) = slots.iter().find(|slot| gpa < slot.gpa + slot.len && slot.gpa < end) {
            return Err(MemslotError::Overlap { first: other.gpa, second: gpa });
        }
        slots.push(Slot { number, gpa, len, kind });
    }
    Ok(slots)
}

/// The runs of set bits of a bitmap: first bit and length of each.
pub fn runs(bitmap: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, word) in (0_u64..).zip(bitmap) {
        let mut left = *word;
        while left != 0 {
            let first = left.trailing_zeros();
            let len = (left >> first).trailing_ones();
            left &= (u64::MAX << first).checked_shl(len).unwrap_or(0);
            let first = index * 64 + u64::from(first);
            match runs.last_mut() {
                Some((start, run)) if *start + *run == first => *run += u64::from(len),
                _ => runs.push((first, len.into())),
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::layout::{RAM_BASE, SMMU0};

    const PAGE: u64 = 0x1000;

    #[test]
    fn plan_numbers_regions_in_order_and_keeps_their_kind() {
        let regions = [(Kind::Ram, RAM_BASE, 1 << 30), (Kind::ReadOnly, SMMU0.base, SMMU0.len)];
        let slots = plan(regions, PAGE).unwrap();
        assert_eq!(slots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((slots[1].kind, slots[1].gpa, slots[1].len), (Kind::ReadOnly, SMMU0.base, SMMU0.len));
    }

    #[test]
    fn plan_refuses_what_kvm_or_the_machine_cannot_have() {
        let refuse = |regions: &[(Kind, u64, u64)], page| plan(regions.iter().copied(), page).unwrap_err();
        let ram = (Kind::Ram, RAM_BASE, 0x20_0000);
        assert!(matches!(refuse(&[(Kind::Ram, RAM_BASE, 0)], PAGE), MemslotError::Alignment { .. }));
        assert!(matches!(refuse(&[(Kind::Ram, RAM_BASE, 0x1000)], 0x1_0000), MemslotError::Alignment { .. }));
        assert!(matches!(refuse(&[(Kind::Ram, RAM_BASE + 1, 0x1000)], PAGE), MemslotError::Alignment { .. }));
        for start in [RAM_BASE - 0x1000, RAM_BASE, RAM_BASE + 0x1f_f000] {
            let overlap = MemslotError::Overlap { first: RAM_BASE, second: start };
            assert_eq!(refuse(&[ram, (Kind::ReadOnly, start, 0x2000)], PAGE), overlap);
        }
        assert!(plan([ram, (Kind::ReadOnly, RAM_BASE + 0x20_0000, 0x1000)], PAGE).is_ok());
        assert!(matches!(
            refuse(&[(Kind::Ram, (1 << 40) - PAGE, 0x2000)], PAGE),
            MemslotError::Beyond { .. }
        ));
        assert!(matches!(refuse(&[(Kind::Ram, u64::MAX - 0xfff, PAGE)], PAGE), MemslotError::Beyond { .. }));
    }

    #[test]
    fn runs_are_the_set_bits_and_nothing_else() {
        assert_eq!(runs(&[0, 0]), []);
        assert_eq!(runs(&[u64::MAX, 1, 1 << 63]), [(0, 65), (191, 1)]);
        // A pattern with every neighbourhood of bits, against counting one by one.
        let bitmap: Vec<u64> = (1..40_u64).map(|seed| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let mut bits = std::collections::BTreeSet::new();
        for (first, len) in runs(&bitmap) {
            assert!(bits.last().is_none_or(|last| last + 1 < first), "runs touch at {first}");
            bits.extend(first..first + len);
        }
        let expected = (0..bitmap.len() as u64 * 64)
            .filter(|bit| bitmap[usize::try_from(bit / 64).unwrap()] >> (bit % 64) & 1 != 0);
        assert!(bits.into_iter().eq(expected));
    }
}
