// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changing inputs: a fixed random source and the usual small damages.
//!
//! Invariant: the result depends on the seed alone, and is never longer than `LEN_MAX`.

/// The longest input: some hundred operations of the targets that take programs.
pub const LEN_MAX: usize = 4096;

/// Numbers that sit at the edges of fields.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// A xorshift generator: quick, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; 0 is replaced, for it would stay 0.
    pub fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x2545_f491_4f6c_dd1d } else { seed })
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.number().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[3]
    }
}

/// A new input made from `input`, with parts of `other` perhaps.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(5) {
        damage(random, &mut bytes, other);
    }
    bytes.truncate(LEN_MAX);
    bytes
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len());
    match random.below(9) {
        0 => {
            let bit = 1 << random.below(8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
        1 => {
            let value = random.byte();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        2 => write_edge(random, bytes, at),
        3 => bytes.truncate(at),
        4 => {
            let len = random.below(16);
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let fresh: Vec<u8> = (0..random.below(16)).map(|_| random.byte()).collect();
            bytes.splice(at..at, fresh);
        }
        6 => {
            let len = random.below(32).min(bytes.len() - at);
            let copy: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
            let to = random.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        7 => {
            let from = random.below(other.len());
            let copy: Vec<u8> = other.iter().skip(from).take(random.below(64)).copied().collect();
            bytes.splice(at..at, copy);
        }
        _ => bytes.extend((0..random.below(64)).map(|_| random.byte())),
    }
}

/// Writes a number from the edges, of 1, 2, 4 or 8 bytes, over what is there.
fn write_edge(random: &mut Random, bytes: &mut [u8], at: usize) {
    let len = 1 << random.below(4);
    let edge = EDGES.get(random.below(EDGES.len())).copied().unwrap_or(0);
    for (byte, value) in bytes.iter_mut().skip(at).take(len).zip(edge.to_le_bytes()) {
        *byte = value;
    }
}

#[cfg(test)]
mod tests;
