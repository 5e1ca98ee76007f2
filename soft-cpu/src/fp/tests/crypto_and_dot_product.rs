// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cryptographic instructions as programs use them, against the examples of FIPS 197 and FIPS 180-4; products and
//! dot products against their definitions.

use super::cases::Random;
use super::machine::TestMachine;

const fn registers(word: u32, d: u32, n: u32, m: u32) -> u32 {
    word | m << 16 | n << 5 | d
}

fn run(machine: &mut TestMachine, word: u32) {
    assert!(machine.run(word), "{word:#x} is allocated");
}

/// Two registers: `word` with Vd = 0 and Vn = 1.
fn apply(word: u32, d: u128, n: u128) -> u128 {
    let mut machine = TestMachine::default();
    (machine.v[0], machine.v[1]) = (d, n);
    run(&mut machine, registers(word, 0, 1, 0));
    machine.v[0]
}

/// Three registers: Vd = 0, Vn = 1, Vm = 2.
fn apply_three(word: u32, d: u128, n: u128, m: u128) -> u128 {
    let mut machine = TestMachine::default();
    (machine.v[0], machine.v[1], machine.v[2]) = (d, n, m);
    run(&mut machine, registers(word, 0, 1, 2));
    machine.v[0]
}

const AESE: u32 = 0x4e28_4800;
const AESD: u32 = 0x4e28_5800;
const AESMC: u32 = 0x4e28_6800;
const AESIMC: u32 = 0x4e28_7800;

/// The round keys of FIPS 197 appendix A.1, by AESE's own substitution.
fn expand_key(key: [u8; 16]) -> Vec<u128> {
    let mut words: Vec<[u8; 4]> = key.chunks(4).map(|word| word.try_into().unwrap()).collect();
    let mut constant = 1u8;
    for index in 4..44 {
        let mut word = words[index - 1];
        if index % 4 == 0 {
            word.rotate_left(1);
            // The same word in all columns: rows stay where they are.
            let state = u128::from(u32::from_le_bytes(word)) * 0x1_0000_0001_0000_0001_0000_0001;
            word = (apply(AESE, state, 0) as u32).to_le_bytes();
            word[0] ^= constant;
            constant = constant << 1 ^ if constant & 0x80 != 0 { 0x1b } else { 0 };
        }
        words.push(std::array::from_fn(|at| words[index - 4][at] ^ word[at]));
    }
    words.chunks(4).map(|key| u128::from_le_bytes(key.concat().try_into().unwrap())).collect()
}

/// FIPS 197 appendix B: input, key, output.
const PLAIN: u128 = u128::from_be_bytes(*b"\x32\x43\xf6\xa8\x88\x5a\x30\x8d\x31\x31\x98\xa2\xe0\x37\x07\x34");
const KEY: [u8; 16] = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
const CIPHER: u128 =
    u128::from_be_bytes(*b"\x39\x25\x84\x1d\x02\xdc\x09\xfb\xdc\x11\x85\x97\x19\x6a\x0b\x32");

#[test]
fn aes_encrypts_and_decrypts_the_example_of_the_standard() {
    let keys = expand_key(KEY);
    let mut state = PLAIN.swap_bytes();
    for (round, key) in keys[..10].iter().enumerate() {
        state = apply(AESE, state, *key);
        if round < 9 {
            state = apply(AESMC, 0, state);
        }
    }
    state ^= keys[10];
    assert_eq!(state, CIPHER.swap_bytes());
    // The equivalent inverse cipher: the middle keys are transformed.
    for round in (1..=10).rev() {
        let key = if round == 10 { keys[10] } else { apply(AESIMC, 0, keys[round]) };
        state = apply(AESD, state, key);
        if round > 1 {
            state = apply(AESIMC, 0, state);
        }
    }
    assert_eq!(state ^ keys[0], PLAIN.swap_bytes());
}

/// The one block of "abc" as four vectors of big-endian words.
fn block_of_abc() -> [u128; 4] {
    let mut block = [0u8; 64];
    block[..4].copy_from_slice(b"abc\x80");
    block[63] = 24;
    let word = |at: usize| u32::from_be_bytes(block[at..at + 4].try_into().unwrap());
    std::array::from_fn(|v| vector(std::array::from_fn(|w| word(16 * v + 4 * w))))
}

fn vector(words: [u32; 4]) -> u128 {
    words.iter().rev().fold(0, |value, word| value << 32 | u128::from(*word))
}

fn words(value: u128) -> [u32; 4] {
    std::array::from_fn(|at| (value >> (32 * at)) as u32)
}

fn sum(a: u128, b: u128) -> u128 {
    let (a, b) = (words(a), words(b));
    vector(std::array::from_fn(|at| a[at].wrapping_add(b[at])))
}

#[test]
fn sha1_of_abc_is_that_of_the_standard() {
    const OPERATIONS: [u32; 4] = [0x5e00_0000, 0x5e00_1000, 0x5e00_2000, 0x5e00_1000]; // SHA1C, P, M, P
    const CONSTANTS: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];
    let start = vector([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]);
    let (mut abcd, mut e) = (start, 0xc3d2_e1f0u128);
    let mut schedule = block_of_abc();
    for four in 0..20 {
        let input = sum(schedule[0], vector([CONSTANTS[four / 5]; 4]));
        let next_e = apply(0x5e28_0800, 0, abcd); // SHA1H
        abcd = apply_three(OPERATIONS[four / 5], abcd, e, input);
        e = next_e;
        // SHA1SU0 and SHA1SU1 make the four words sixteen further on.
        let first = apply_three(0x5e00_3000, schedule[0], schedule[1], schedule[2]);
        let next = apply(0x5e28_1800, first, schedule[3]);
        schedule = [schedule[1], schedule[2], schedule[3], next];
    }
    let digest = words(sum(abcd, start));
    assert_eq!(digest, [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c]);
    assert_eq!((e as u32).wrapping_add(0xc3d2_e1f0), 0x9cd0_d89d);
}

/// The first 32 bits of the fractions of the cube roots of the first primes (FIPS 180-4, 4.2.2).
fn sha256_constants() -> Vec<u32> {
    let is_prime = |n: &u128| (2..*n).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2u128..)
        .filter(is_prime)
        .take(64)
        .map(|prime| {
            // The cube root times 2^32, by bisection in integers.
            let (mut low, mut high) = (0u128, 1u128 << 36);
            while high - low > 1 {
                let middle = (low + high) / 2;
                // middle^3 <= prime * 2^96, without overflow: compare in 2^-32 steps of the square.
                let square = middle * middle;
                let fits =
                    square / (1 << 32) * middle + square % (1 << 32) * middle / (1 << 32) <= prime << 64;
                if fits { low = middle } else { high = middle }
            }
            low as u32
        })
        .collect()
}

#[test]
fn sha256_of_abc_is_that_of_the_standard() {
    let constants = sha256_constants();
    assert_eq!((constants[0], constants[63]), (0x428a_2f98, 0xc671_78f2));
    let start = [
        vector([0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a]),
        vector([0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19]),
    ];
    let [mut abcd, mut efgh] = start;
    let mut schedule = block_of_abc();
    for four in 0..16 {
        let input = sum(schedule[0], vector(constants[4 * four..4 * four + 4].try_into().unwrap()));
        let before = abcd;
        abcd = apply_three(0x5e00_4000, abcd, efgh, input); // SHA256H
        efgh = apply_three(0x5e00_5000, efgh, before, input); // SHA256H2
        let first = apply(0x5e28_2800, schedule[0], schedule[1]); // SHA256SU0
        let next = apply_three(0x5e00_6000, first, schedule[2], schedule[3]); // SHA256SU1
        schedule = [schedule[1], schedule[2], schedule[3], next];
    }
    assert_eq!(words(sum(abcd, start[0])), [0xba78_16bf, 0x8f01_cfea, 0x4141_40de, 0x5dae_2223]);
    assert_eq!(words(sum(efgh, start[1])), [0xb003_61a3, 0x9617_7a9c, 0xb410_ff61, 0xf200_15ad]);
}

#[test]
fn polynomial_product_of_doublewords_is_long_multiplication_without_carries() {
    let mut random = Random(7);
    for _ in 0..200 {
        let (n, m) = (u128::from(random.next()) << 64 | u128::from(random.next()), u128::from(random.next()));
        let naive = |n: u64, m: u64| {
            (0..64).fold(
                0u128,
                |product, bit| {
                    if n >> bit & 1 == 1 { product ^ u128::from(m) << bit } else { product }
                },
            )
        };
        assert_eq!(apply_three(0x0ee0_e000, 0, n, m), naive(n as u64, m as u64), "PMULL");
        assert_eq!(apply_three(0x4ee0_e000, 0, n, m << 64), naive((n >> 64) as u64, m as u64), "PMULL2");
    }
}

#[test]
fn dot_products_are_sums_of_four_byte_products() {
    let mut random = Random(11);
    for case in 0..400 {
        let mut register = || u128::from(random.next()) << 64 | u128::from(random.next());
        let (d, n, m) = (register(), register(), register());
        let (unsigned, full, index) = (case & 1, case >> 1 & 1, case >> 2 & 3);
        let dot = |n: u32, m: u32| {
            (0..4).fold(0u32, |sum, at| {
                let [n, m] = [n, m].map(|word| (word >> (8 * at)) as u8);
                let product = if unsigned == 1 {
                    u32::from(n) * u32::from(m)
                } else {
                    (i32::from(n as i8) * i32::from(m as i8)) as u32
                };
                sum.wrapping_add(product)
            })
        };
        let expected =
            |with: [u32; 4]| {
                let (d, n) = (words(d), words(n));
                let lanes = if full == 1 { 4 } else { 2 };
                vector(std::array::from_fn(|at| {
                    if at < lanes { d[at].wrapping_add(dot(n[at], with[at])) } else { 0 }
                }))
            };
        let form = full << 30 | unsigned << 29;
        assert_eq!(apply_three(0x0e80_9400 | form, d, n, m), expected(words(m)), "vector, {form:#x}");
        let word = 0x0f80_e000 | form | (index & 1) << 21 | (index >> 1) << 11;
        let element = words(m)[index as usize];
        assert_eq!(apply_three(word, d, n, m), expected([element; 4]), "element {index}, {form:#x}");
    }
}
