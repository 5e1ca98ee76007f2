// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Integer SIMD on the stand-in machine, against references on plain integers: one row per instruction, every element
//! size that it has, random lanes with many corners, result and FPSR.QC.

use super::cases::Random;
use super::machine::TestMachine;

const QC: u32 = 1 << 27;

/// A value before it is put into a lane: kept modulo the lane, or clamped to it with QC.
enum Out {
    Wrapped(i128),
    Signed(i128),
    Unsigned(i128),
}
use Out::{Signed, Unsigned, Wrapped};

impl Out {
    fn lane(self, bits: u32) -> (u64, bool) {
        let mask = (1i128 << bits) - 1;
        let (value, low, high) = match self {
            Wrapped(value) => (value, i128::MIN, i128::MAX),
            Signed(value) => (value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            Unsigned(value) => (value, 0, mask),
        };
        ((value.clamp(low, high) & mask) as u64, value < low || value > high)
    }
}

fn lane(register: u128, bits: u32, index: u32, signed: bool) -> i128 {
    let value = (register >> (bits * index)) as i128 & ((1i128 << bits) - 1);
    if signed && value >> (bits - 1) != 0 { value - (1 << bits) } else { value }
}

fn truth(value: bool) -> Out {
    Wrapped(if value { -1 } else { 0 })
}

/// Shift by a signed byte, in exact arithmetic.
fn shifted(value: i128, amount: i128, rounding: bool) -> i128 {
    let amount = amount as i8;
    if amount >= 0 {
        // A shift of 64 and more takes every bit out of the lane; keep the sign for clamping.
        return if amount > 63 { value.signum() << 100 } else { value << amount };
    }
    let down = u32::from(amount.unsigned_abs());
    let scaled = if rounding { value + (1i128 << down.min(100) >> 1) } else { value };
    scaled >> down.min(100)
}

/// Reference of a lane: old destination, operands, lane width.
type Reference = fn(i128, i128, i128, u32) -> Out;

/// Vector form's word for B lanes of V0, V1, V2; element sizes by log2; whether lanes are read as signed.
type Row = (&'static str, u32, &'static [u32], bool, Reference);

const ALL: &[u32] = &[0, 1, 2, 3];
const NARROW: &[u32] = &[0, 1, 2];
const MIDDLE: &[u32] = &[1, 2];

const THREE_SAME: &[Row] = &[
    ("shadd", 0x0e22_0420, NARROW, true, |_, n, m, _| Wrapped((n + m) >> 1)),
    ("uhadd", 0x2e22_0420, NARROW, false, |_, n, m, _| Wrapped((n + m) >> 1)),
    ("sqadd", 0x0e22_0c20, ALL, true, |_, n, m, _| Signed(n + m)),
    ("uqadd", 0x2e22_0c20, ALL, false, |_, n, m, _| Unsigned(n + m)),
    ("srhadd", 0x0e22_1420, NARROW, true, |_, n, m, _| Wrapped((n + m + 1) >> 1)),
    ("urhadd", 0x2e22_1420, NARROW, false, |_, n, m, _| Wrapped((n + m + 1) >> 1)),
    ("shsub", 0x0e22_2420, NARROW, true, |_, n, m, _| Wrapped((n - m) >> 1)),
    ("uhsub", 0x2e22_2420, NARROW, false, |_, n, m, _| Wrapped((n - m) >> 1)),
    ("sqsub", 0x0e22_2c20, ALL, true, |_, n, m, _| Signed(n - m)),
    ("uqsub", 0x2e22_2c20, ALL, false, |_, n, m, _| Unsigned(n - m)),
    ("cmgt", 0x0e22_3420, ALL, true, |_, n, m, _| truth(n > m)),
    ("cmhi", 0x2e22_3420, ALL, false, |_, n, m, _| truth(n > m)),
    ("cmge", 0x0e22_3c20, ALL, true, |_, n, m, _| truth(n >= m)),
    ("cmhs", 0x2e22_3c20, ALL, false, |_, n, m, _| truth(n >= m)),
    ("sshl", 0x0e22_4420, ALL, true, |_, n, m, _| Wrapped(shifted(n, m, false))),
    ("ushl", 0x2e22_4420, ALL, false, |_, n, m, _| Wrapped(shifted(n, m, false))),
    ("sqshl", 0x0e22_4c20, ALL, true, |_, n, m, _| Signed(shifted(n, m, false))),
    ("uqshl", 0x2e22_4c20, ALL, false, |_, n, m, _| Unsigned(shifted(n, m, false))),
    ("srshl", 0x0e22_5420, ALL, true, |_, n, m, _| Wrapped(shifted(n, m, true))),
    ("urshl", 0x2e22_5420, ALL, false, |_, n, m, _| Wrapped(shifted(n, m, true))),
    ("sqrshl", 0x0e22_5c20, ALL, true, |_, n, m, _| Signed(shifted(n, m, true))),
    ("uqrshl", 0x2e22_5c20, ALL, false, |_, n, m, _| Unsigned(shifted(n, m, true))),
    ("smax", 0x0e22_6420, NARROW, true, |_, n, m, _| Wrapped(n.max(m))),
    ("umax", 0x2e22_6420, NARROW, false, |_, n, m, _| Wrapped(n.max(m))),
    ("smin", 0x0e22_6c20, NARROW, true, |_, n, m, _| Wrapped(n.min(m))),
    ("umin", 0x2e22_6c20, NARROW, false, |_, n, m, _| Wrapped(n.min(m))),
    ("sabd", 0x0e22_7420, NARROW, true, |_, n, m, _| Wrapped((n - m).abs())),
    ("uabd", 0x2e22_7420, NARROW, false, |_, n, m, _| Wrapped((n - m).abs())),
    ("saba", 0x0e22_7c20, NARROW, true, |d, n, m, _| Wrapped(d + (n - m).abs())),
    ("uaba", 0x2e22_7c20, NARROW, false, |d, n, m, _| Wrapped(d + (n - m).abs())),
    ("add", 0x0e22_8420, ALL, false, |_, n, m, _| Wrapped(n + m)),
    ("sub", 0x2e22_8420, ALL, false, |_, n, m, _| Wrapped(n - m)),
    ("cmtst", 0x0e22_8c20, ALL, false, |_, n, m, _| truth(n & m != 0)),
    ("cmeq", 0x2e22_8c20, ALL, false, |_, n, m, _| truth(n == m)),
    ("mla", 0x0e22_9420, NARROW, false, |d, n, m, _| Wrapped(d + n * m)),
    ("mls", 0x2e22_9420, NARROW, false, |d, n, m, _| Wrapped(d - n * m)),
    ("mul", 0x0e22_9c20, NARROW, false, |_, n, m, _| Wrapped(n * m)),
    ("sqdmulh", 0x0e22_b420, MIDDLE, true, |_, n, m, bits| Signed((2 * n * m) >> bits)),
    ("sqrdmulh", 0x2e22_b420, MIDDLE, true, |_, n, m, bits| Signed((2 * n * m + (1 << (bits - 1))) >> bits)),
];

/// Two-register forms; `m` is the old destination's lane, read the other way round (for SUQADD and USQADD).
const ONE_OPERAND: &[Row] = &[
    ("cls", 0x0e20_4820, NARROW, true, |_, n, _, bits| {
        Wrapped(
            (0..bits as i128 - 1)
                .take_while(|at| n >> (bits as i128 - 2 - at) & 1 == i128::from(n < 0))
                .count() as i128,
        )
    }),
    ("clz", 0x2e20_4820, NARROW, false, |_, n, _, bits| {
        Wrapped((0..bits).take_while(|at| n >> (bits - 1 - at) & 1 == 0).count() as i128)
    }),
    ("cnt", 0x0e20_5820, &[0], false, |_, n, _, _| {
        Wrapped((0..8).filter(|bit| n >> bit & 1 == 1).count() as i128)
    }),
    ("not", 0x2e20_5820, &[0], false, |_, n, _, _| Wrapped(!n)),
    ("sqabs", 0x0e20_7820, ALL, true, |_, n, _, _| Signed(n.abs())),
    ("sqneg", 0x2e20_7820, ALL, true, |_, n, _, _| Signed(-n)),
    ("cmgt", 0x0e20_8820, ALL, true, |_, n, _, _| truth(n > 0)),
    ("cmge", 0x2e20_8820, ALL, true, |_, n, _, _| truth(n >= 0)),
    ("cmeq", 0x0e20_9820, ALL, true, |_, n, _, _| truth(n == 0)),
    ("cmle", 0x2e20_9820, ALL, true, |_, n, _, _| truth(n <= 0)),
    ("cmlt", 0x0e20_a820, ALL, true, |_, n, _, _| truth(n < 0)),
    ("abs", 0x0e20_b820, ALL, true, |_, n, _, _| Wrapped(n.abs())),
    ("neg", 0x2e20_b820, ALL, true, |_, n, _, _| Wrapped(-n)),
    ("suqadd", 0x0e20_3820, ALL, true, |d, n, _, bits| Signed(d + (n & ((1 << bits) - 1)))),
    ("usqadd", 0x2e20_3820, ALL, false, |d, n, _, bits| {
        Unsigned(d + if n >> (bits - 1) != 0 { n - (1 << bits) } else { n })
    }),
];

fn check(row: &Row, vector: bool, size: u32, random: &mut Random) {
    let (name, base, _, signed, reference) = *row;
    let bits = 8 << size;
    let q = size == 3 || random.below(2) == 0;
    let word = base | size << 22 | if vector { u32::from(q) << 30 } else { 1 << 30 | 1 << 28 };
    let width = match (vector, q) {
        (false, _) => bits,
        (true, true) => 128,
        (true, false) => 64,
    };
    let mut machine = TestMachine::default();
    for v in &mut machine.v[..3] {
        *v = random.register(6 - u64::from(size));
    }
    let [d, n, m] = [machine.v[0], machine.v[1], machine.v[2]];
    let (mut expected, mut saturated) = (0u128, false);
    for index in 0..width / bits {
        let at = |register| lane(register, bits, index, signed);
        let (value, clamped) = reference(at(d), at(n), at(m), bits).lane(bits);
        expected |= u128::from(value) << (bits * index);
        saturated |= clamped;
    }
    assert!(machine.run(word), "{name} {word:08x} is allocated");
    assert_eq!(machine.v[0], expected, "{name} {word:08x} of {d:032x} {n:032x} {m:032x}");
    assert_eq!(machine.fpsr, if saturated { QC } else { 0 }, "{name} {word:08x} of {n:032x} {m:032x}");
}

#[test]
fn three_same_agrees_with_plain_integers() {
    let mut random = Random(31);
    for row in THREE_SAME {
        for size in row.2 {
            for _ in 0..200 {
                check(row, true, *size, &mut random);
            }
        }
    }
}

#[test]
fn scalar_three_same_agrees_with_plain_integers() {
    let mut random = Random(32);
    let any_size = ["sqadd", "uqadd", "sqsub", "uqsub", "sqshl", "uqshl", "sqrshl", "uqrshl"];
    for row in THREE_SAME.iter().filter(|row| !["shadd", "mla"].contains(&row.0)) {
        let sizes: &[u32] = match row.0 {
            name if any_size.contains(&name) => ALL,
            "sqdmulh" | "sqrdmulh" => MIDDLE,
            _ if row.2.contains(&3) => &[3],
            _ => &[],
        };
        for size in sizes {
            for _ in 0..100 {
                check(row, false, *size, &mut random);
            }
        }
    }
}

#[test]
fn two_register_operations_agree_with_plain_integers() {
    let mut random = Random(33);
    for row in ONE_OPERAND {
        for size in row.2 {
            for _ in 0..200 {
                check(row, true, *size, &mut random);
            }
        }
    }
}

/// Long, wide and narrowing forms: the lower half and the upper half ("2") of the narrow operands.
#[test]
fn widening_and_narrowing_agree_with_plain_integers() {
    type Wide = fn(i128, i128, i128) -> i128;
    let rows: &[(u32, Wide)] = &[
        (0b0000, |_, n, m| n + m),
        (0b0010, |_, n, m| n - m),
        (0b0101, |d, n, m| d + (n - m).abs()),
        (0b0111, |_, n, m| (n - m).abs()),
        (0b1000, |d, n, m| d + n * m),
        (0b1010, |d, n, m| d - n * m),
        (0b1100, |_, n, m| n * m),
    ];
    let mut random = Random(34);
    for round in 0..300u32 {
        for (opcode, reference) in rows {
            let (size, u, q) = (round % 3, round / 3 % 2, round / 6 % 2);
            let word = 0x0e22_0020 | q << 30 | u << 29 | size << 22 | opcode << 12;
            let mut machine = TestMachine::default();
            for v in &mut machine.v[..3] {
                *v = random.register(6 - u64::from(size));
            }
            let [d, n, m] = [machine.v[0], machine.v[1], machine.v[2]];
            let bits = 8 << size;
            let count = 64 / bits;
            let expected = (0..count).fold(0u128, |result, index| {
                let narrow = |register| lane(register, bits, index + q * count, u == 0);
                let value = reference(lane(d, 2 * bits, index, false), narrow(n), narrow(m));
                result | (value as u128 & ((1 << (2 * bits)) - 1)) << (2 * bits * index)
            });
            assert!(machine.run(word));
            assert_eq!(machine.v[0], expected, "{word:08x} of {d:032x} {n:032x} {m:032x}");
        }
        // ADDHN keeps the other half of the destination in its "2" form only.
        let (size, q) = (round % 3, round / 3 % 2);
        let word = 0x0e22_4020 | q << 30 | size << 22;
        let mut machine = TestMachine::default();
        for v in &mut machine.v[..3] {
            *v = random.register(7);
        }
        let [d, n, m] = [machine.v[0], machine.v[1], machine.v[2]];
        let bits = 8 << size;
        let high = (0..64 / bits).fold(0u128, |result, index| {
            let sum = lane(n, 2 * bits, index, false) + lane(m, 2 * bits, index, false);
            result | ((sum >> bits) as u128 & ((1 << bits) - 1)) << (bits * index)
        });
        assert!(machine.run(word));
        let expected = if q == 1 { high << 64 | d & u128::from(u64::MAX) } else { high };
        assert_eq!(machine.v[0], expected, "{word:08x}");
    }
}

/// Immediate shifts of every size and amount.
#[test]
fn immediate_shifts_agree_with_plain_integers() {
    let mut random = Random(35);
    for size in 0..4u32 {
        let bits = 8u32 << size;
        for amount in 0..bits {
            for unsigned in [0u32, 1] {
                let mut machine = TestMachine::default();
                let (d, n) = (random.register(6 - u64::from(size)), random.register(6 - u64::from(size)));
                let field = |value: u32| 0x4f00_0020 | unsigned << 29 | value << 16;
                let right = bits - amount;
                let rows: [(u32, u32, Reference); 5] = [
                    (field(bits + amount) | 0b01010 << 11, 0, |_, n, m, _| Wrapped(n << m)),
                    (field(2 * bits - right) | 1 << 10, 1, |_, n, m, _| Wrapped(n >> m)),
                    (field(2 * bits - right) | 0b00010 << 11, 1, |d, n, m, _| Wrapped(d + (n >> m))),
                    (field(2 * bits - right) | 0b00100 << 11, 1, |_, n, m, _| {
                        Wrapped((n + (1 << (m - 1))) >> m)
                    }),
                    (field(bits + amount) | 0b01110 << 11, 0, |_, n, m, _| Signed(n << m)),
                ];
                for (index, (word, is_right, reference)) in rows.into_iter().enumerate() {
                    // SLI and UQSHL have references of their own in the differential test.
                    if unsigned == 1 && (index == 0 || index == 4) {
                        continue;
                    }
                    machine.v[0] = d;
                    machine.v[1] = n;
                    machine.fpsr = 0;
                    let by = if is_right == 1 { right } else { amount };
                    let (mut expected, mut saturated) = (0u128, false);
                    for index in 0..128 / bits {
                        let at = |register| lane(register, bits, index, unsigned == 0);
                        let (value, clamped) = reference(at(d), at(n), by.into(), bits).lane(bits);
                        expected |= u128::from(value) << (bits * index);
                        saturated |= clamped;
                    }
                    assert!(machine.run(word | 1 << 10), "{word:08x}");
                    assert_eq!(machine.v[0], expected, "{word:08x} of {d:032x} {n:032x}");
                    assert_eq!(machine.fpsr, if saturated { QC } else { 0 }, "{word:08x} of {n:032x}");
                }
            }
        }
    }
}
