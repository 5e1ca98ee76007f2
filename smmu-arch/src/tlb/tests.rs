// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOTLB removes what an invalidation names, keeps the rest where it may, and stays within its capacity.

use super::Iotlb;
use crate::command::{AddressRange, TranslationInvalidation};
use crate::model::Granule;
use crate::translate::walk::Leaf;
use proptest::prelude::*;

fn leaf(bits: u32, global: bool, output: u64) -> Leaf {
    Leaf {
        output,
        bits,
        level: 3,
        granule: Granule::Size4K,
        global,
        unprivileged: true,
        read_only: false,
        uxn: true,
        pxn: true,
    }
}

fn range(first: u64, last: u64) -> AddressRange {
    AddressRange { first, last, granule: None, level: None, leaf: false }
}

/// An entry as the tests write them: few addresses and spaces, so that they meet.
fn any_entry() -> impl Strategy<Value = (u16, u64, u32, bool)> {
    let address = (any::<bool>(), 0u64..1 << 24).prop_map(|(high, low)| if high { !low } else { low });
    (0u16..3, address, proptest::sample::select(vec![12, 14, 16, 21]), any::<bool>())
}

proptest! {
    /// Against a list: what an invalidation names is gone, what it does not touch is still there.
    #[test]
    fn invalidation_removes_its_scope_and_no_more(
        entries in proptest::collection::vec(any_entry(), 0..40),
        kind in 0u8..4,
        asid in 0u16..3,
        start in any_entry(),
        len in 1u64..1 << 22,
    ) {
        let mut iotlb = Iotlb::new(1000);
        let mut list: Vec<(u16, u64, u32, bool)> = Vec::new();
        for (asid, address, bits, global) in entries {
            // One size per place: overlapping entries would be a guest's mistake.
            let overlaps = list.iter().any(|(_, other, other_bits, _)| {
                let bits = bits.max(*other_bits);
                address >> bits == other >> bits
            });
            if !overlaps {
                iotlb.insert(asid, address, leaf(bits, global, address >> bits << bits));
                list.push((asid, address, bits, global));
            }
        }
        prop_assert_eq!(iotlb.len(), list.len());
        let first = start.1 & !0xfff;
        let last = first.saturating_add(len - 1);
        let invalidation = match kind {
            0 => TranslationInvalidation::All,
            1 => TranslationInvalidation::Asid(asid),
            2 => TranslationInvalidation::Addresses(range(first, last), Some(asid)),
            _ => TranslationInvalidation::Addresses(range(first, last), None),
        };
        iotlb.invalidate(&invalidation);
        for (entry_asid, address, bits, global) in list {
            let (lowest, highest) = (address >> bits << bits, address >> bits << bits | ((1 << bits) - 1));
            let overlap = lowest <= last && first <= highest;
            let doomed = match kind {
                0 => true,
                1 => !global && entry_asid == asid,
                2 => overlap && (global || entry_asid == asid),
                _ => overlap,
            };
            prop_assert_eq!(iotlb.lookup(entry_asid, address).is_none(), doomed);
        }
    }

    #[test]
    fn capacity_is_never_exceeded(entries in proptest::collection::vec(any_entry(), 0..200), drop in any::<u8>()) {
        let mut iotlb = Iotlb::new(8);
        for (asid, address, bits, global) in entries {
            iotlb.insert(asid, address, leaf(bits, global, 0));
            prop_assert!(iotlb.lookup(asid, address).is_some(), "what was just inserted is found");
            if address & 0xff == u64::from(drop) {
                iotlb.invalidate(&TranslationInvalidation::Asid(asid));
            }
            prop_assert!(iotlb.len() <= 8);
            prop_assert!(iotlb.order.len() <= 17, "stale keys pile up");
        }
    }
}

#[test]
fn global_entries_match_every_space_and_others_only_their_own() {
    let mut iotlb = Iotlb::new(8);
    iotlb.insert(1, 0x1000, leaf(12, false, 0xa000));
    iotlb.insert(1, 0x2000, leaf(12, true, 0xb000));
    assert!(iotlb.lookup(1, 0x1fff).is_some() && iotlb.lookup(2, 0x1fff).is_none());
    assert!(iotlb.lookup(2, 0x2000).is_some());
    assert!(iotlb.lookup(1, 0x3000).is_none());
}

#[test]
fn the_top_byte_does_not_tell_entries_apart() {
    let mut iotlb = Iotlb::new(8);
    iotlb.insert(1, 0x00ff_8000_0000_1000, leaf(12, false, 0xa000));
    assert!(iotlb.lookup(1, 0xabff_8000_0000_1000).is_some());
    let here =
        TranslationInvalidation::Addresses(range(0xffff_8000_0000_1000, 0xffff_8000_0000_1fff), Some(1));
    iotlb.invalidate(&here);
    assert!(iotlb.is_empty());
}
