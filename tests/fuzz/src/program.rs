// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An input as a program: bytes and numbers taken one by one, zeros when they have run out.
//!
//! The drivers read their operations with it, so that any bytes are a program and a shortened input still is one.

/// What is left of the input.
#[derive(Debug)]
pub struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, &[][..]), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    /// The next `count` bytes, at most 8, as a number; the highest comes first.
    pub fn fixed(&mut self, count: u8) -> u64 {
        (0..count).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// A number of up to 8 bytes. The first byte says how many follow, and half of the time means few: small numbers
    /// are those that mean something.
    pub fn number(&mut self) -> u64 {
        let len = self.byte() % 16;
        self.fixed(if len > 8 { len % 4 } else { len })
    }

    /// Whether all of it was taken.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
