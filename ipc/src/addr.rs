// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Addresses as types: a number of one space never adds to, or compares with, a number of another.
//!
//! Arithmetic is checked: every number here may have come from a guest or from a peer, and an address
//! that wraps is how a bounds check is passed by what it should refuse. A [`GpaRange`] cannot exist if its
//! end overflows, also when it was decoded from a message.

use core::fmt;

use serde::{Deserialize, Serialize};
pub use smmu_arch::StreamId;

/// The granule of guest memory bookkeeping (dirty log, RAM regions), in bytes.
pub const PAGE_LEN: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// This address moved up by `len` bytes, unless that leaves the 64-bit space.
            #[must_use]
            pub const fn checked_add(self, len: u64) -> Option<Self> {
                match self.0.checked_add(len) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// How many bytes this address lies above `base`, if it does.
            #[must_use]
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// Whether this address is a multiple of `alignment`, which is a power of two.
            #[must_use]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & alignment.wrapping_sub(1) == 0
            }

            /// The first byte of the page this address lies in.
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_LEN - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// A guest physical address: what the guest believes its memory and devices to be at.
    Gpa
}
address! {
    /// An address as a device behind an SMMU emits it, before stage 1.
    Iova
}
address! {
    /// An intermediate physical address: the output of stage 1. Equal to a [`Gpa`] where the guest owns stage 1.
    Ipa
}

impl From<Ipa> for Gpa {
    /// The host's stage 2 starts where the guest's stage 1 ends: the two names are one space.
    fn from(ipa: Ipa) -> Self {
        Self(ipa.0)
    }
}

/// A PCI function: bus in bits 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bdf(pub u16);

impl Bdf {
    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The device number, below 32.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_be_bytes()[1] >> 3
    }

    /// The function number, below 8.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_be_bytes()[1] & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bdf({self})")
    }
}

/// A range of guest physical addresses whose end does not overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct GpaRange {
    start: Gpa,
    len: u64,
}

impl GpaRange {
    /// `len` bytes from `start`, unless the end leaves the 64-bit space.
    #[must_use]
    pub const fn new(start: Gpa, len: u64) -> Option<Self> {
        match start.0.checked_add(len) {
            Some(_) => Some(Self { start, len }),
            None => None,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> Gpa {
        self.start
    }

    /// The number of bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether no byte is in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first address behind the range; `new` has proved that it exists.
    #[must_use]
    pub const fn end(self) -> Gpa {
        Gpa(self.start.0.wrapping_add(self.len))
    }

    /// Whether the byte at `gpa` is in the range.
    #[must_use]
    pub const fn contains(self, gpa: Gpa) -> bool {
        gpa.0 >= self.start.0 && gpa.0 < self.end().0
    }

    /// Whether every byte of `other` is in this range; an empty range is inside where it starts inside or at the end.
    #[must_use]
    pub const fn contains_range(self, other: Self) -> bool {
        other.start.0 >= self.start.0 && other.end().0 <= self.end().0
    }

    /// The bytes that both ranges have, if there are any.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        let len = end.checked_offset_from(start)?;
        if len == 0 { None } else { Self::new(start, len) }
    }
}

impl TryFrom<(u64, u64)> for GpaRange {
    type Error = &'static str;

    fn try_from((start, len): (u64, u64)) -> Result<Self, Self::Error> {
        Self::new(Gpa(start), len).ok_or("a guest physical range runs over the end of the address space")
    }
}

impl From<GpaRange> for (u64, u64) {
    fn from(range: GpaRange) -> Self {
        (range.start.0, range.len)
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end())
    }
}

#[cfg(test)]
mod tests;
