// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOTLB: translations kept until an invalidation, a flush, or room is needed. IHI 0070 §3.17, §4.4.
//!
//! An entry is keyed by its size, its place and its address space; global entries have none and match
//! every ASID. An invalidation removes at least what the command names: the hints that would spare
//! entries (granule, level, leaf) are not used, and there are no cached table descriptors for Leaf to
//! spare. Capacity is fixed; the oldest entry goes first. Addresses are compared by bits 55:0 with the
//! rest taken as their sign (§4.4.2 lets TBI apply): the input range is checked before any lookup.

use crate::command::{AddressRange, TranslationInvalidation};
use crate::translate::walk::Leaf;
use std::collections::{HashMap, VecDeque};

/// log2 of the largest block (1 GiB) is 30; sizes are indexed directly.
const SIZES: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    bits: u32,
    /// Sign-extended address shifted down by `bits`.
    page: u64,
    /// `None` for global.
    asid: Option<u16>,
}

/// Cached translations.
#[derive(Clone, Debug)]
pub struct Iotlb {
    entries: HashMap<Key, Leaf>,
    /// Keys in the order they came; one that is no longer in `entries` is skipped.
    order: VecDeque<Key>,
    /// How many entries there are of each size.
    counts: [usize; SIZES],
    capacity: usize,
}

/// Bits 63:56 taken from bit 55.
fn normal(address: u64) -> u64 {
    let low = address & (u64::MAX >> 8);
    if low >> 55 == 1 { low | !(u64::MAX >> 8) } else { low }
}

impl Iotlb {
    /// An empty one for up to `capacity` translations.
    pub fn new(capacity: usize) -> Iotlb {
        let capacity = capacity.max(1);
        Iotlb { entries: HashMap::new(), order: VecDeque::new(), counts: [0; SIZES], capacity }
    }

    /// How many translations it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The translation of an address in an address space.
    pub fn lookup(&self, asid: u16, address: u64) -> Option<&Leaf> {
        let address = normal(address);
        self.sizes().find_map(|bits| {
            let key = |asid| Key { bits, page: address >> bits, asid };
            self.entries.get(&key(Some(asid))).or_else(|| self.entries.get(&key(None)))
        })
    }

    /// Keeps a translation that a walk for `address` found.
    pub fn insert(&mut self, asid: u16, address: u64, leaf: Leaf) {
        let asid = if leaf.global { None } else { Some(asid) };
        let key = Key { bits: leaf.bits, page: normal(address) >> leaf.bits, asid };
        while self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            match self.order.pop_front() {
                Some(oldest) => self.remove(&oldest),
                None => return,
            }
        }
        // Removed keys stay behind in `order`: drop them before they outnumber the entries.
        if self.order.len() >= self.capacity.saturating_mul(2) {
            let entries = &self.entries;
            self.order.retain(|key| entries.contains_key(key));
        }
        if self.entries.insert(key, leaf).is_none() {
            self.order.push_back(key);
            if let Some(count) = self.count(leaf.bits) {
                *count += 1;
            }
        }
    }

    /// Removes everything.
    pub fn flush(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.counts = [0; SIZES];
    }

    /// Removes at least what an invalidation names.
    pub fn invalidate(&mut self, invalidation: &TranslationInvalidation) {
        match *invalidation {
            TranslationInvalidation::All => self.flush(),
            TranslationInvalidation::Asid(asid) => self.remove_if(|key| key.asid == Some(asid)),
            TranslationInvalidation::Addresses(range, asid) => self.invalidate_range(range, asid),
        }
    }

    fn invalidate_range(&mut self, range: AddressRange, asid: Option<u16>) {
        let first = normal(range.first);
        let last = first.saturating_add(range.last - range.first);
        if let Some(asid) = asid {
            // Few enough pages to look each of them up?
            let pages = |bits: u32| (last >> bits) - (first >> bits);
            let probes =
                self.sizes().fold(0u64, |sum, bits| sum.saturating_add(pages(bits)).saturating_add(1));
            if probes <= self.entries.len() as u64 {
                // By value: what is removed changes the counts, and a list of the sizes costs more than the look.
                let counts = self.counts;
                for (bits, _) in (0u32..).zip(counts).filter(|(_, count)| *count != 0) {
                    for page in (first >> bits)..=(last >> bits) {
                        self.remove(&Key { bits, page, asid: Some(asid) });
                        self.remove(&Key { bits, page, asid: None });
                    }
                }
                return;
            }
        }
        self.remove_if(|key| {
            let lowest = key.page << key.bits;
            let highest = lowest | ((1 << key.bits) - 1);
            let space = asid.is_none() || key.asid.is_none() || key.asid == asid;
            space && lowest <= last && first <= highest
        });
    }

    fn remove_if(&mut self, condition: impl Fn(&Key) -> bool) {
        let doomed: Vec<Key> = self.entries.keys().filter(|key| condition(key)).copied().collect();
        doomed.iter().for_each(|key| self.remove(key));
    }

    fn remove(&mut self, key: &Key) {
        if self.entries.remove(key).is_some()
            && let Some(count) = self.count(key.bits)
        {
            *count -= 1;
        }
    }

    fn count(&mut self, bits: u32) -> Option<&mut usize> {
        self.counts.get_mut(usize::try_from(bits).ok()?)
    }

    /// The sizes there are entries of, smallest first.
    fn sizes(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.counts).filter(|(_, count)| **count != 0).map(|(bits, _)| bits)
    }
}

#[cfg(test)]
mod tests;
