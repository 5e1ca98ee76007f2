// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Elements of vector registers: element sizes, shapes, and the loops over lanes that every SIMD class shares.
//!
//! A register is a `u128`, lane 0 in the low bits. A lane value travels as a `u64`, zero-extended. Lanes outside a
//! shape are neither computed (they must not set flags) nor kept (the result is zero there), which is exactly how a
//! write of a 64-bit or scalar result clears the rest of the register.

/// Width of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// 8 bits.
    B,
    /// 16 bits.
    H,
    /// 32 bits.
    S,
    /// 64 bits.
    D,
}

impl Size {
    /// From a two-bit `size` field.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::B,
            1 => Self::H,
            2 => Self::S,
            _ => Self::D,
        }
    }

    /// From the position of the lowest set bit of `imm5`, as the copy instructions encode it.
    pub const fn from_lowest_bit(imm5: u32) -> Option<Self> {
        match imm5.trailing_zeros() {
            n @ 0..4 => Some(Self::from_bits(n)),
            _ => None,
        }
    }

    /// Bits in an element.
    pub const fn bits(self) -> u32 {
        8 << self as u32
    }

    /// Bytes in an element.
    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    /// All ones in an element.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The element of twice the width; 64 bits have none here.
    pub const fn doubled(self) -> Option<Self> {
        match self {
            Self::B => Some(Self::H),
            Self::H => Some(Self::S),
            Self::S => Some(Self::D),
            Self::D => None,
        }
    }

    /// Sign-extends a lane.
    pub const fn signed(self, value: u64) -> i64 {
        let unused = 64 - self.bits();
        (value << unused) as i64 >> unused
    }
}

/// How much of a register an operation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Element width.
    pub size: Size,
    /// Bits covered: one element, 64 or 128.
    pub width: u32,
}

impl Shape {
    /// A vector of 64 or, with `q`, 128 bits.
    pub const fn vector(size: Size, q: bool) -> Self {
        Self { size, width: if q { 128 } else { 64 } }
    }

    /// One element.
    pub const fn scalar(size: Size) -> Self {
        Self { size, width: size.bits() }
    }

    /// Number of elements.
    pub const fn count(self) -> u32 {
        self.width >> (3 + self.size as u32)
    }

    /// All ones over the covered bits.
    pub const fn mask(self) -> u128 {
        u128::MAX >> (128 - self.width)
    }
}

/// Lane `index` of a register; 0 beyond its end.
#[inline]
pub const fn lane(register: u128, size: Size, index: u32) -> u64 {
    let at = index << (3 + size as u32);
    let half = match at / 64 {
        0 => register as u64,
        1 => (register >> 64) as u64,
        _ => 0,
    };
    half >> (at % 64) & size.mask()
}

/// A register with lane `index` replaced; unchanged if there is no such lane.
#[inline]
pub const fn with_lane(register: u128, size: Size, index: u32, value: u64) -> u128 {
    match index << (3 + size as u32) {
        at @ 0..128 => {
            let mask = (size.mask() as u128) << at;
            register & !mask | ((value as u128) << at) & mask
        }
        _ => register,
    }
}

/// Every lane of the shape the same value.
pub fn splat(shape: Shape, value: u64) -> u128 {
    map(shape, 0, |_| value)
}

/// A register built from a function of the lane number.
#[inline]
pub fn build(shape: Shape, mut f: impl FnMut(u32) -> u64) -> u128 {
    // Two words rather than one of 128 bits, whose shifts by a variable amount are slow.
    let mut halves = [0u64; 2];
    let bits = shape.size.bits();
    let mut at = 0;
    for index in 0..shape.count() {
        let value = (f(index) & shape.size.mask()) << (at % 64);
        let [low, high] = &mut halves;
        *(if at < 64 { low } else { high }) |= value;
        at += bits;
    }
    let [low, high] = halves;
    u128::from(high) << 64 | u128::from(low)
}

/// Lane by lane: `f(n)`.
#[inline]
pub fn map(shape: Shape, n: u128, mut f: impl FnMut(u64) -> u64) -> u128 {
    map3(shape, 0, n, 0, |_, n, _| f(n))
}

/// Lane by lane: `f(n, m)`.
#[inline]
pub fn map2(shape: Shape, n: u128, m: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
    map3(shape, 0, n, m, |_, n, m| f(n, m))
}

/// Lane by lane, sign-extended: `f(n, m)`.
#[inline]
pub fn map2_signed(shape: Shape, n: u128, m: u128, mut f: impl FnMut(i64, i64) -> i64) -> u128 {
    let size = shape.size;
    map2(shape, n, m, |n, m| f(size.signed(n), size.signed(m)) as u64)
}

/// Lane by lane: `f(d, n, m)`. The element width is a constant inside each loop, so that simple functions stay cheap.
#[inline]
pub fn map3(shape: Shape, d: u128, n: u128, m: u128, mut f: impl FnMut(u64, u64, u64) -> u64) -> u128 {
    if shape.width < 64 {
        let mask = shape.size.mask();
        return u128::from(f(d as u64 & mask, n as u64 & mask, m as u64 & mask) & mask);
    }
    let mut half = |d: u64, n: u64, m: u64| match shape.size {
        Size::B => map_half::<8>(d, n, m, &mut f),
        Size::H => map_half::<16>(d, n, m, &mut f),
        Size::S => map_half::<32>(d, n, m, &mut f),
        Size::D => f(d, n, m),
    };
    let low = half(d as u64, n as u64, m as u64);
    let high =
        if shape.width == 128 { half((d >> 64) as u64, (n >> 64) as u64, (m >> 64) as u64) } else { 0 };
    u128::from(high) << 64 | u128::from(low)
}

#[inline(always)]
fn map_half<const BITS: u32>(d: u64, n: u64, m: u64, f: &mut impl FnMut(u64, u64, u64) -> u64) -> u64 {
    let mask = u64::MAX >> (64 - BITS);
    (0..64 / BITS).fold(0, |result, index| {
        let at = index * BITS;
        result | (f(d >> at & mask, n >> at & mask, m >> at & mask) & mask) << at
    })
}

/// Neighbouring lanes combined, over the concatenation `m:n`, as the pairwise instructions do.
#[inline]
pub fn pairwise(shape: Shape, n: u128, m: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
    let (size, half) = (shape.size, shape.width / 2);
    let mut combine = |register: u128| {
        let (mut result, mut at) = (0, 0);
        while at < half {
            let pair = register >> (2 * at);
            result |= (f(pair as u64 & size.mask(), (pair >> size.bits()) as u64 & size.mask())
                & size.mask())
                << at;
            at += size.bits();
        }
        result
    };
    let low = combine(n);
    u128::from(low) | u128::from(combine(m)) << half
}

/// All ones in a lane, or zero: the result of a comparison.
pub const fn truth(value: bool) -> u64 {
    if value { u64::MAX } else { 0 }
}
