// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A register field as a constant: its place, and the four things one does with it.
//!
//! Registers are handled as `u64` whatever their width, so one type serves all of them.

/// Bits `lsb..=msb` of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    lsb: u32,
    width: u32,
}

impl Field {
    /// The field from `msb` down to `lsb`, as the manual writes it.
    pub const fn bits(msb: u32, lsb: u32) -> Self {
        assert!(msb < 64 && lsb <= msb, "a field lies within 64 bits");
        Self { lsb, width: msb - lsb + 1 }
    }

    /// A field of one bit.
    pub const fn bit(at: u32) -> Self {
        Self::bits(at, at)
    }

    /// Ones where the field is.
    pub const fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.width)) << self.lsb
    }

    /// The field's value in `register`.
    pub const fn get(self, register: u64) -> u64 {
        (register & self.mask()) >> self.lsb
    }

    /// True when any bit of the field is set in `register`.
    pub const fn is_set(self, register: u64) -> bool {
        register & self.mask() != 0
    }

    /// A register that holds `value` in this field and zeros elsewhere; excess bits are dropped.
    pub const fn of(self, value: u64) -> u64 {
        (value << self.lsb) & self.mask()
    }

    /// `register` with this field replaced.
    pub const fn with(self, register: u64, value: u64) -> u64 {
        (register & !self.mask()) | self.of(value)
    }
}

/// The low word of a 64-bit value: what a 32-bit register keeps of a wider write.
#[expect(clippy::cast_possible_truncation, reason = "keeping the low half is the purpose")]
pub const fn low32(value: u64) -> u32 {
    value as u32
}

/// The low half-word of a value.
#[expect(clippy::cast_possible_truncation, reason = "keeping the low half-word is the purpose")]
pub const fn low16(value: u64) -> u16 {
    value as u16
}

/// The low byte of a value.
#[expect(clippy::cast_possible_truncation, reason = "keeping the low byte is the purpose")]
pub const fn low8(value: u64) -> u8 {
    value as u8
}

/// Moves 16 one-bit settings to the upper bits of 16 two-bit fields (the layout of ICFGR).
pub const fn spread_to_odd(bits: u32) -> u32 {
    let mut spread = bits & 0xffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff;
    spread = (spread | (spread << 4)) & 0x0f0f_0f0f;
    spread = (spread | (spread << 2)) & 0x3333_3333;
    spread = (spread | (spread << 1)) & 0x5555_5555;
    spread << 1
}

/// The inverse of [`spread_to_odd`]; even bits are ignored.
pub const fn gather_odd(bits: u32) -> u32 {
    let mut packed = (bits >> 1) & 0x5555_5555;
    packed = (packed | (packed >> 1)) & 0x3333_3333;
    packed = (packed | (packed >> 2)) & 0x0f0f_0f0f;
    packed = (packed | (packed >> 4)) & 0x00ff_00ff;
    (packed | (packed >> 8)) & 0xffff
}
