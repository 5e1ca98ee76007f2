// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The layout of guest RAM: guest physical ranges, and their offsets in the RAM memory object.
//!
//! A [`RamLayout`] is checked when it is made and when it is decoded: regions are page-aligned, not empty,
//! in ascending order, and do not overlap in guest physical space nor in the file. The order is part of the contract:
//! it numbers the words of the dirty log.

use serde::{Deserialize, Serialize};

use crate::addr::{Gpa, GpaRange, PAGE_LEN};

/// The most regions a machine has; `bulkhead-virt-1` has one.
pub const REGIONS_MAX: usize = 8;

/// The most RAM in all, in bytes: 1 TiB, the IPA space of the machine.
pub const RAM_LEN_MAX: u64 = 1 << 40;

/// One piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamRegion {
    /// Where the guest sees it.
    pub gpa: Gpa,
    /// Its size in bytes.
    pub len: u64,
    /// Its offset in the RAM memory object.
    pub file_offset: u64,
}

/// A checked layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<RamRegion>", into = "Vec<RamRegion>")]
pub struct RamLayout {
    regions: Vec<RamRegion>,
}

impl RamLayout {
    /// Checks `regions`.
    ///
    /// # Errors
    /// A sentence that names the broken rule.
    pub fn new(regions: Vec<RamRegion>) -> Result<Self, &'static str> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err("a RAM layout has between 1 and 8 regions");
        }
        let mut gpa_free = 0;
        let mut file_free = 0;
        let mut total: u64 = 0;
        for region in &regions {
            let aligned = |n: u64| n.is_multiple_of(PAGE_LEN);
            if !aligned(region.gpa.0) || !aligned(region.len) || !aligned(region.file_offset) {
                return Err("a RAM region is not page-aligned");
            }
            if region.len == 0 {
                return Err("a RAM region is empty");
            }
            if region.gpa.0 < gpa_free || region.file_offset < file_free {
                return Err("RAM regions overlap or are out of order");
            }
            gpa_free = region.gpa.0.checked_add(region.len).ok_or("a RAM region's addresses overflow")?;
            file_free =
                region.file_offset.checked_add(region.len).ok_or("a RAM region's file offsets overflow")?;
            total = total.saturating_add(region.len);
        }
        if total > RAM_LEN_MAX || file_free > RAM_LEN_MAX {
            return Err("a guest has at most 1 TiB of RAM");
        }
        Ok(Self { regions })
    }

    /// The regions, in the order that numbers the dirty log.
    #[must_use]
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// The least length of the RAM memory object, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        // `new` proved that the sums do not overflow and rise.
        self.regions.last().map_or(0, |last| last.file_offset.saturating_add(last.len))
    }

    /// How many bytes of RAM the guest has.
    #[must_use]
    pub fn ram_len(&self) -> u64 {
        self.regions.iter().map(|region| region.len).sum()
    }
}

impl RamRegion {
    /// The guest physical range. Only regions of a [`RamLayout`] are known to have one.
    #[must_use]
    pub const fn range(&self) -> Option<GpaRange> {
        GpaRange::new(self.gpa, self.len)
    }
}

impl TryFrom<Vec<RamRegion>> for RamLayout {
    type Error = &'static str;

    fn try_from(regions: Vec<RamRegion>) -> Result<Self, Self::Error> {
        Self::new(regions)
    }
}

impl From<RamLayout> for Vec<RamRegion> {
    fn from(layout: RamLayout) -> Self {
        layout.regions
    }
}

#[cfg(test)]
mod tests;
