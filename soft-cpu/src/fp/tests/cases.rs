// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random instructions and operands: encodings drawn class by class from templates of the manual's tables, and register
//! contents biased to where arithmetic has corners.

/// A small generator (splitmix64): the same seed gives the same campaign anywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A floating-point encoding of `exponent_bits` and `fraction_bits`, often at an edge.
    fn float(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let ones = (1u64 << exponent_bits) - 1;
        let bias = ones >> 1;
        let exponent = match self.below(12) {
            0 => 0,
            1 => ones,
            2 => 1,
            3 => ones - 1,
            4 => bias + self.below(70),
            5 => fraction_bits as u64 + self.below(4),
            6 => self.next() & ones,
            _ => (bias + self.below(8)).wrapping_sub(4) & ones,
        };
        let mask = (1u64 << fraction_bits) - 1;
        let fraction = match self.below(8) {
            0 => 0,
            1 => mask,
            2 => 1 << self.below(fraction_bits.into()),
            3 => mask & !(1 << self.below(fraction_bits.into())),
            4 => mask << self.below(fraction_bits.into()) & mask,
            _ => self.next() & mask,
        };
        (self.below(2) << exponent_bits | exponent) << fraction_bits | fraction
    }

    pub fn half(&mut self) -> u64 {
        self.float(5, 10)
    }

    pub fn single(&mut self) -> u64 {
        self.float(8, 23)
    }

    pub fn double(&mut self) -> u64 {
        self.float(11, 52)
    }

    /// An integer lane, often at an edge.
    pub fn integer(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        mask & match self.below(8) {
            0 => 0,
            1 => mask,
            2 => 1 << (bits - 1),
            3 => (1 << (bits - 1)) - 1,
            4 => self.below(2 * u64::from(bits)),
            5 => self.below(2 * u64::from(bits)).wrapping_neg(),
            _ => self.next(),
        }
    }

    fn lanes(&mut self, bits: u32, mut lane: impl FnMut(&mut Self) -> u64) -> u128 {
        (0..128 / bits).fold(0, |v, index| v | u128::from(lane(self)) << (index * bits))
    }

    /// The contents of a vector register in a style; one style per case keeps lane widths matched more often.
    pub fn register(&mut self, style: u64) -> u128 {
        match style {
            0 => self.lanes(64, Self::double),
            1 => self.lanes(32, Self::single),
            2 => self.lanes(16, Self::half),
            3 => self.lanes(64, |r| r.integer(64)),
            4 => self.lanes(32, |r| r.integer(32)),
            5 => self.lanes(16, |r| r.integer(16)),
            6 => self.lanes(8, |r| r.integer(8)),
            _ => self.lanes(64, Self::next),
        }
    }

    /// FPCR with every combination of the controls, the common one most often.
    pub fn fpcr(&mut self) -> u32 {
        match self.below(3) {
            0 => 0,
            1 => (self.below(4) as u32) << 22,
            _ => (self.below(32) as u32) << 22,
        }
    }

    /// FPSR: clear, as left by computing code, or anything.
    pub fn fpsr(&mut self) -> u32 {
        match self.below(3) {
            0 => 0,
            1 => 0x10,
            _ => self.next() as u32 & 0x0800_009f,
        }
    }

    /// Fills the dots of a template.
    pub fn word(&mut self, template: &str) -> u32 {
        let mut bits = 0;
        let word = template.chars().filter(|c| *c != ' ').fold(0u32, |word, c| {
            bits += 1;
            word << 1 | if c == '.' { self.next() as u32 & 1 } else { u32::from(c == '1') }
        });
        assert_eq!(bits, 32, "{template}");
        word
    }
}

/// What a template's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Vector registers only.
    Vector,
    /// `Rd` and `Rn` may be general registers.
    General,
}

/// Data-processing classes (DDI 0487, C4.1), in the order of the manual.
pub const DATA: &[(&str, Kind)] = &[
    ("01001110 00101000 01..10.. ........", Kind::Vector), // AES
    ("01011110 000..... 0...00.. ........", Kind::Vector), // three-register SHA
    ("01011110 00101000 00..10.. ........", Kind::Vector), // two-register SHA
    ("0.001110 111..... 111000.. ........", Kind::Vector), // PMULL of doublewords
    ("0.001110 ..0..... 0...00.. ........", Kind::Vector), // table lookup
    ("0.001110 ..0..... 0...10.. ........", Kind::Vector), // permute
    ("0.101110 ..0..... 0....0.. ........", Kind::Vector), // extract
    ("0..01110 000..... 0....1.. ........", Kind::General), // copy
    ("01.11110 000..... 0....1.. ........", Kind::Vector), // scalar copy
    ("0..01110 ..1..... .....1.. ........", Kind::Vector), // three same
    ("0..01110 ..1..... 11...1.. ........", Kind::Vector), // three same, floating point
    ("01.11110 ..1..... .....1.. ........", Kind::Vector), // scalar three same
    ("01.11110 ..1..... 11...1.. ........", Kind::Vector), // scalar three same, floating point
    ("0..01110 ..10000. ....10.. ........", Kind::Vector), // two-register miscellaneous
    ("0..01110 ..100001 1...10.. ........", Kind::Vector), // the same, conversions
    ("01.11110 ..10000. ....10.. ........", Kind::Vector), // scalar two-register miscellaneous
    ("01.11110 ..100001 1...10.. ........", Kind::Vector), // the same, conversions
    ("0..01110 ..11000. ....10.. ........", Kind::Vector), // across lanes
    ("01111110 ..11000. ....10.. ........", Kind::Vector), // scalar pairwise
    ("01.11110 ..11000. ....10.. ........", Kind::Vector), // scalar pairwise
    ("0..01110 ..1..... ....00.. ........", Kind::Vector), // three different
    ("01.11110 ..1..... ....00.. ........", Kind::Vector), // scalar three different
    ("0..01111 00000... ....01.. ........", Kind::Vector), // modified immediate
    ("0..01111 0....... .....1.. ........", Kind::Vector), // shift by immediate
    ("0..01111 0....... 111..1.. ........", Kind::Vector), // shift by immediate, conversions
    ("01.11111 0....... .....1.. ........", Kind::Vector), // scalar shift by immediate
    ("01.11111 0....... 111..1.. ........", Kind::Vector), // the same, conversions
    ("0..01111 ........ .....0.. ........", Kind::Vector), // by element
    ("0..01111 1....... ..01.0.. ........", Kind::Vector), // by element, floating point
    ("01.11111 ........ .....0.. ........", Kind::Vector), // scalar by element
    (".0011110 .00..... ........ ........", Kind::General), // to and from fixed point
    (".0011110 .0.00.1. ........ ........", Kind::General), // to and from fixed point, mostly valid
    (".0011110 0.1..... 000000.. ........", Kind::General), // to and from integer
    (".0011110 ..1..11. 000000.. ........", Kind::General), // moves to and from general registers
    ("00011110 ..1..... .10000.. ........", Kind::Vector), // one source
    ("00011110 0.10.... .10000.. ........", Kind::Vector), // one source, mostly valid
    ("00011110 ..10001. .10000.. ........", Kind::Vector), // one source, between formats
    ("00011110 0.1..... 001000.. .....000", Kind::Vector), // compare
    ("00011110 ..1..... ...10000 000.....", Kind::Vector), // immediate
    ("00011110 ..1..... ....01.. ........", Kind::Vector), // conditional compare
    ("00011110 0.1..... ....10.. ........", Kind::Vector), // two sources
    ("00011110 ..1..... ....11.. ........", Kind::Vector), // conditional select
    ("00011111 0....... ........ ........", Kind::Vector), // three sources
    ("...1111. ........ ........ ........", Kind::General), // anything
    ("0..01110 ........ ........ ........", Kind::General), // any vector
    (".0.11110 ........ ........ ........", Kind::General), // any scalar
];

/// Loads and stores; base register and offsets are replaced by the caller.
pub const MEMORY: &[&str] = &[
    "..011100 ........ ........ ........", // literal
    "..10110. ........ ........ ........", // pairs
    "..111100 ..0..... ........ ........", // unscaled, post- and pre-indexed
    "..111100 ..1..... ....10.. ........", // register offset
    "..111101 ........ ........ ........", // unsigned offset
    "0.001100 0.000000 ........ ........", // multiple structures
    "0.001100 1.0..... ........ ........", // multiple structures, post-indexed
    "0.001101 0..00000 ........ ........", // single structure
    "0.001101 0..00000 11.0.... ........", // single structure to all lanes
    "0.001101 1....... ........ ........", // single structure, post-indexed
];
