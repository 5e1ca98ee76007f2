// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address newtypes: addresses of different address spaces cannot be added or compared.
//!
//! Arithmetic is checked, since any of these numbers may come from a guest or a peer, and an address that wraps around
//! could pass a bounds check. A [`GpaRange`] whose end overflows cannot be made, nor decoded from a message.

use core::fmt;

use serde::{Deserialize, Serialize};
pub use smmu_arch::StreamId;

/// The granule of the dirty log and of RAM regions, in bytes.
pub const PAGE_LEN: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `len` bytes above; `None` if it does not fit in 64 bits.
            #[must_use]
            pub const fn checked_add(self, len: u64) -> Option<Self> {
                match self.0.checked_add(len) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// The offset of this address from `base`, in bytes; `None` if it is below.
            #[must_use]
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// Whether this address is a multiple of `alignment`, which is a power of two.
            #[must_use]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & alignment.wrapping_sub(1) == 0
            }

            /// The start of the page that contains this address.
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
    /// A guest physical address.
    Gpa
}
address! {
    /// An I/O virtual address: what a device behind an SMMU puts on the bus, before stage 1.
    Iova
}
address! {
    /// An intermediate physical address: the output of stage 1. Equal to a [`Gpa`] where the guest owns stage 1.
    Ipa
}

impl From<Ipa> for Gpa {
    /// The output of the guest's stage 1 is the input of the host's stage 2: one address space under two names.
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
    /// `len` bytes from `start`; `None` if the end does not fit in 64 bits.
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

    /// The length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether the range is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first address behind the range; it does not overflow, see `new`.
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

    /// The bytes that are in both ranges, if any.
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
        Self::new(Gpa(start), len).ok_or("the end of a guest physical range overflows 64 bits")
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
