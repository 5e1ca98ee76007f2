// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cryptographic instructions (C4.1: "Cryptographic AES", "Cryptographic three-register SHA", "Cryptographic
//! two-register SHA") and the 64-bit polynomial product: FEAT_AES, FEAT_PMULL, FEAT_SHA1, FEAT_SHA256.
//!
//! The transformations are those of FIPS 197 and FIPS 180-4; a vector holds an AES state column by column, or four
//! words with the first in its low end. Time depends on no data but through the tables' cache lines, as on any
//! table-driven AES.

use super::data::{Fields, with_operands};
use super::state::{Execute, Machine, handler};

/// "Cryptographic AES".
pub fn aes<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let known = !fields.u() && fields.bits(22, 2) == 0 && fields.bits(12, 5) >> 2 == 1;
    known.then_some(handler!(execute_aes))
}

/// "Cryptographic two-register SHA".
pub fn two_register_sha<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let known = !fields.u() && fields.bits(22, 2) == 0 && fields.bits(12, 5) < 3;
    known.then_some(handler!(execute_two_register_sha))
}

/// "Cryptographic three-register SHA".
pub fn three_register_sha<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let known = !fields.u() && fields.bits(22, 2) == 0 && fields.bits(12, 3) < 7;
    known.then_some(handler!(execute_three_register_sha))
}

fn execute_aes<M: Machine>(machine: &mut M, word: u32) {
    with_operands(machine, word, |_, d, n| {
        let state = |value: u128| value.to_le_bytes();
        let result = match Fields(word).bits(12, 2) {
            0b00 => shift_rows(state(d ^ n), 1).map(|byte| SBOX[usize::from(byte)]),
            0b01 => shift_rows(state(d ^ n), 3).map(|byte| INVERSE_SBOX[usize::from(byte)]),
            0b10 => mix_columns(state(n), [2, 3, 1, 1]),
            _ => mix_columns(state(n), [14, 11, 13, 9]),
        };
        u128::from_le_bytes(result)
    });
}

/// Moves row `r` by `r * steps` columns: one step left is ShiftRows, three are its inverse.
fn shift_rows(state: [u8; 16], steps: usize) -> [u8; 16] {
    std::array::from_fn(|at| {
        let (row, column) = (at % 4, at / 4);
        state[row + 4 * ((column + row * steps) % 4)]
    })
}

/// Multiplies each column by the circulant matrix with this first row.
fn mix_columns(state: [u8; 16], row: [u8; 4]) -> [u8; 16] {
    std::array::from_fn(|at| {
        let (r, column) = (at % 4, at / 4 * 4);
        (0..4).fold(0, |sum, k| sum ^ multiply(row[(4 + k - r) % 4], state[column + k]))
    })
}

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut factor, mut rest) = (0, a, b);
    while rest != 0 {
        if rest & 1 != 0 {
            product ^= factor;
        }
        factor = factor << 1 ^ if factor & 0x80 != 0 { 0x1b } else { 0 };
        rest >>= 1;
    }
    product
}

/// SubBytes and its inverse.
const SBOX: [u8; 256] = substitution(false);
const INVERSE_SBOX: [u8; 256] = substitution(true);

const fn substitution(inverse: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        let byte = value as u8;
        // The multiplicative inverse is the 254th power: the product of the powers 2, 4, ... 128.
        let (mut inverted, mut power, mut step) = (1, byte, 0);
        while step < 7 {
            power = multiply(power, power);
            inverted = multiply(inverted, power);
            step += 1;
        }
        let substituted = inverted
            ^ inverted.rotate_left(1)
            ^ inverted.rotate_left(2)
            ^ inverted.rotate_left(3)
            ^ inverted.rotate_left(4)
            ^ 0x63;
        if inverse {
            table[substituted as usize] = byte;
        } else {
            table[value] = substituted;
        }
        value += 1;
    }
    table
}

type Words = [u32; 4];

fn words(value: u128) -> Words {
    std::array::from_fn(|index| (value >> (32 * index)) as u32)
}

fn vector(words: Words) -> u128 {
    words.iter().rev().fold(0, |value, word| value << 32 | u128::from(*word))
}

const fn choose(x: u32, y: u32, z: u32) -> u32 {
    (y ^ z) & x ^ z
}

const fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

const fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y | (x | y) & z
}

fn execute_two_register_sha<M: Machine>(machine: &mut M, word: u32) {
    with_operands(machine, word, |_, d, n| match Fields(word).bits(12, 5) {
        0 => u128::from((n as u32).rotate_left(30)),
        1 => {
            let t = words(d ^ n >> 32);
            let [a, b, c, e] = t.map(|word| word.rotate_left(1));
            vector([a, b, c, e ^ t[0].rotate_left(2)])
        }
        _ => {
            let (old, t) = (words(d), words(d >> 32 | n << 96));
            let sigma = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
            vector(std::array::from_fn(|e| old[e].wrapping_add(sigma(t[e]))))
        }
    });
}

fn execute_three_register_sha<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let m = machine.v(fields.rm());
    with_operands(machine, word, |_, d, n| match fields.bits(12, 3) {
        0b000 => sha1_rounds(d, n, m, choose),
        0b001 => sha1_rounds(d, n, m, parity),
        0b010 => sha1_rounds(d, n, m, majority),
        0b011 => (d >> 64 | n << 64) ^ d ^ m,
        0b100 => sha256_rounds(d, n, m).0,
        0b101 => sha256_rounds(n, d, m).1,
        _ => sha256_schedule(d, n, m),
    });
}

/// Four rounds of SHA-1: SHA1C, SHA1P, SHA1M.
fn sha1_rounds(d: u128, n: u128, m: u128, f: fn(u32, u32, u32) -> u32) -> u128 {
    let (mut x, mut y) = (words(d), n as u32);
    for schedule in words(m) {
        let [a, b, c, e] = x;
        let sum = y.wrapping_add(a.rotate_left(5)).wrapping_add(f(b, c, e)).wrapping_add(schedule);
        x = [sum, a, b.rotate_left(30), c];
        y = e;
    }
    vector(x)
}

/// Four rounds of SHA-256 on the state `x` (a to d) and `y` (e to h).
fn sha256_rounds(x: u128, y: u128, m: u128) -> (u128, u128) {
    let (mut x, mut y) = (words(x), words(y));
    for schedule in words(m) {
        let sigma1 = y[0].rotate_right(6) ^ y[0].rotate_right(11) ^ y[0].rotate_right(25);
        let sigma0 = x[0].rotate_right(2) ^ x[0].rotate_right(13) ^ x[0].rotate_right(22);
        let t = y[3].wrapping_add(sigma1).wrapping_add(choose(y[0], y[1], y[2])).wrapping_add(schedule);
        let first = t.wrapping_add(sigma0).wrapping_add(majority(x[0], x[1], x[2]));
        let fifth = t.wrapping_add(x[3]);
        x = [first, x[0], x[1], x[2]];
        y = [fifth, y[0], y[1], y[2]];
    }
    (vector(x), vector(y))
}

/// SHA256SU1.
fn sha256_schedule(d: u128, n: u128, m: u128) -> u128 {
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let (old, t0, m) = (words(d), words(n >> 32 | m << 96), words(m));
    let sum = |e: usize, from: u32| sigma(from).wrapping_add(old[e]).wrapping_add(t0[e]);
    let (first, second) = (sum(0, m[2]), sum(1, m[3]));
    vector([first, second, sum(2, first), sum(3, second)])
}

/// Carry-less product of two 64-bit values (PMULL, PMULL2 of doublewords).
pub fn polynomial_wide(n: u64, m: u64) -> u128 {
    (0..64).filter(|bit| m >> bit & 1 != 0).fold(0, |product, bit| product ^ u128::from(n) << bit)
}
