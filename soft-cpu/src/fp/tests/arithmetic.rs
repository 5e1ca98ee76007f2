// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scalar arithmetic against exact numbers (every rounding mode, every flag) and against the host.

use super::cases::Random;
use super::exact::{Fixed, Signed, parts, round};
use crate::fp::float::{self, Env, Format, IDC, IXC, Rounding, compare};

const FORMATS: [Format; 2] = [Format::Single, Format::Double];
const MODES: [Rounding; 6] =
    [Rounding::TieEven, Rounding::Up, Rounding::Down, Rounding::Zero, Rounding::TieAway, Rounding::Odd];

fn env(rounding: Rounding, flags: u32) -> Env {
    Env { rounding, flush: false, default_nan: false, alternative_half: false, flags }
}

fn number(random: &mut Random, format: Format) -> u64 {
    loop {
        let bits = if format == Format::Single { random.single() } else { random.double() };
        if bits & format.infinity(false) != format.infinity(false) {
            return bits;
        }
    }
}

fn is_denormal(format: Format, bits: u64) -> bool {
    bits & format.infinity(false) == 0 && bits & format.fraction_mask() != 0
}

/// Runs `check` on many triples of finite numbers, often related to each other.
fn triples(seed: u64, count: u32, mut check: impl FnMut(Format, Rounding, [u64; 3])) {
    let mut random = Random(seed);
    for _ in 0..count {
        let format = random.pick(&FORMATS);
        let rounding = random.pick(&MODES);
        let mut values = [0; 3].map(|_| number(&mut random, format));
        match random.below(6) {
            // Cancellation: the third is close to the product, or equal to the first but for the sign.
            0 => {
                let mut env = env(Rounding::TieEven, 0);
                let product = float::mul(&mut env, format, values[0], values[1]) ^ format.sign_bit();
                if product & format.infinity(false) != format.infinity(false) {
                    values[2] = product;
                }
            }
            1 => values[1] = values[0] ^ random.next() & (format.sign_bit() | 3),
            _ => {}
        }
        check(format, rounding, values);
    }
}

fn expect(format: Format, rounding: Rounding, value: Signed, ours: (u64, u32), what: &str) {
    if value.magnitude != Fixed::ZERO {
        let theirs = round(format, value, rounding, false);
        assert_eq!(ours, theirs, "{what} {format:?} {rounding:?}: ours {:x} exact {:x}", ours.0, theirs.0);
    }
}

#[test]
fn sum_is_the_exact_sum_rounded_once() {
    triples(1, 20_000, |format, rounding, [a, b, _]| {
        let mut env = env(rounding, 0);
        let result = float::add(&mut env, format, a, b);
        let exact = Signed::decode(format, a).plus(Signed::decode(format, b));
        expect(format, rounding, exact, (result, env.flags), &format!("{a:x} + {b:x}"));
    });
}

#[test]
fn product_is_the_exact_product_rounded_once() {
    triples(2, 20_000, |format, rounding, [a, b, _]| {
        let mut env = env(rounding, 0);
        let result = float::mul(&mut env, format, a, b);
        expect(
            format,
            rounding,
            Signed::product(format, a, b),
            (result, env.flags),
            &format!("{a:x} * {b:x}"),
        );
    });
}

#[test]
fn fused_multiply_add_is_rounded_once() {
    triples(3, 30_000, |format, rounding, [a, b, c]| {
        let mut env = env(rounding, 0);
        let result = float::mul_add(&mut env, format, c, a, b);
        let exact = Signed::product(format, a, b).plus(Signed::decode(format, c));
        expect(format, rounding, exact, (result, env.flags), &format!("{a:x} * {b:x} + {c:x}"));
    });
}

#[test]
fn quotient_brackets_the_dividend() {
    triples(4, 20_000, |format, _, [a, b, _]| {
        let (a, b) = (a & !format.sign_bit(), b & !format.sign_bit());
        let mut down = env(Rounding::Down, 0);
        let low = float::div(&mut down, format, a, b);
        let mut up = env(Rounding::Up, 0);
        let high = float::div(&mut up, format, a, b);
        if parts(format, b).0 == 0 || high >= format.infinity(false) || is_denormal(format, low) || low == 0 {
            return;
        }
        let (dividend, low_product) = (Fixed::decode(format, a), Signed::product(format, low, b).magnitude);
        let high_product = Signed::product(format, high, b).magnitude;
        assert!(low_product <= dividend && dividend <= high_product, "{a:x} / {b:x} = {low:x} {high:x}");
        let exact = low_product == dividend;
        assert_eq!(high - low, u64::from(!exact), "{a:x} / {b:x}");
        assert_eq!((down.flags, up.flags), if exact { (0, 0) } else { (IXC, IXC) }, "{a:x} / {b:x}");
    });
}

#[test]
fn root_brackets_the_radicand() {
    triples(5, 20_000, |format, _, [a, _, _]| {
        let a = a & !format.sign_bit();
        let mut down = env(Rounding::Zero, 0);
        let low = float::sqrt(&mut down, format, a);
        let mut up = env(Rounding::Up, 0);
        let high = float::sqrt(&mut up, format, a);
        let radicand = Fixed::decode(format, a);
        let (low_square, high_square) =
            (Signed::product(format, low, low).magnitude, Signed::product(format, high, high).magnitude);
        assert!(low_square <= radicand && radicand <= high_square, "root of {a:x} = {low:x} {high:x}");
        assert_eq!(high - low, u64::from(low_square != radicand), "root of {a:x}");
        assert_eq!(down.flags == 0, low_square == radicand, "root of {a:x}");
    });
}

/// The host rounds to nearest even: all five operations must agree with it, from both the integer path (IXC clear) and
/// the short cut (IXC set), on any operands but NaNs.
#[test]
fn nearest_even_agrees_with_the_host() {
    triples(6, 60_000, |format, _, [a, b, c]| {
        for flags in [0, IXC] {
            let run = |f: fn(&mut Env, Format, [u64; 3]) -> u64| {
                f(&mut env(Rounding::TieEven, flags), format, [a, b, c])
            };
            let ours = [
                run(|env, format, [a, b, _]| float::add(env, format, a, b)),
                run(|env, format, [a, b, _]| float::sub(env, format, a, b)),
                run(|env, format, [a, b, _]| float::mul(env, format, a, b)),
                run(|env, format, [a, b, _]| float::div(env, format, a, b)),
                run(|env, format, [a, _, _]| float::sqrt(env, format, a)),
                run(|env, format, [a, b, c]| float::mul_add(env, format, c, a, b)),
            ];
            let theirs = if format == Format::Single {
                let [a, b, c] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
                [a + b, a - b, a * b, a / b, a.sqrt(), a.mul_add(b, c)]
                    .map(|value| u64::from(value.to_bits()))
            } else {
                let [a, b, c] = [a, b, c].map(f64::from_bits);
                [a + b, a - b, a * b, a / b, a.sqrt(), a.mul_add(b, c)].map(f64::to_bits)
            };
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                let nan = theirs & !format.sign_bit() > format.infinity(false);
                // The host's default NaN is negative on some architectures.
                let theirs = if nan { format.default_nan() } else { theirs };
                assert_eq!(ours, theirs, "{format:?} {a:x} {b:x} {c:x}: {ours:x} {theirs:x}");
            }
        }
    });
}

/// The short cut may not change what flags are left.
#[test]
fn short_cut_leaves_the_flags_of_the_integer_path() {
    type Operation = fn(&mut Env, Format, [u64; 3]) -> u64;
    let operations: [Operation; 6] = [
        |env, format, [a, b, _]| float::add(env, format, a, b),
        |env, format, [a, b, _]| float::sub(env, format, a, b),
        |env, format, [a, b, _]| float::mul(env, format, a, b),
        |env, format, [a, b, _]| float::div(env, format, a, b),
        |env, format, [a, _, _]| float::sqrt(env, format, a),
        |env, format, [a, b, c]| float::mul_add(env, format, c, a, b),
    ];
    triples(7, 40_000, |format, _, values| {
        for flush in [false, true] {
            for operation in operations {
                let mut slow = Env { flush, ..env(Rounding::TieEven, 0) };
                let mut quick = Env { flush, ..env(Rounding::TieEven, IXC) };
                let slow_result = operation(&mut slow, format, values);
                assert_eq!(slow_result, operation(&mut quick, format, values), "{values:x?}");
                assert_eq!(slow.flags | IXC, quick.flags, "{values:x?}");
            }
        }
    });
}

#[test]
fn flushed_operands_count_as_zeros_and_are_reported() {
    triples(8, 20_000, |format, rounding, [a, b, _]| {
        let zeroed = |bits| if is_denormal(format, bits) { bits & format.sign_bit() } else { bits };
        let mut plain = env(rounding, 0);
        let mut flushing = Env { flush: true, ..plain };
        let result = float::mul(&mut flushing, format, a, b);
        let expected = float::mul(&mut plain, format, zeroed(a), zeroed(b));
        let denormal_input = is_denormal(format, a) || is_denormal(format, b);
        assert_eq!(flushing.flags & IDC != 0, denormal_input, "{a:x} * {b:x}");
        if !is_denormal(format, expected) && plain.flags == 0 {
            assert_eq!(result, expected, "{a:x} * {b:x}");
        }
    });
}

#[test]
fn comparisons_agree_with_the_host() {
    triples(9, 30_000, |format, _, [a, b, _]| {
        let host = |bits: u64| match format {
            Format::Single => f64::from(f32::from_bits(bits as u32)),
            _ => f64::from_bits(bits),
        };
        let (x, y) = (host(a), host(b));
        let mut env = env(Rounding::TieEven, 0);
        assert_eq!(compare::compare(&mut env, format, a, b, true), x.partial_cmp(&y), "{a:x} {b:x}");
        let (max, min) = (compare::max(&mut env, format, a, b), compare::min(&mut env, format, a, b));
        if x != y {
            assert_eq!((host(max), host(min)), (x.max(y), x.min(y)), "{a:x} {b:x}");
        } else {
            assert_eq!((max, min), if x == 0.0 { (a & b, a | b) } else { (a, a) }, "{a:x} {b:x}");
        }
        assert_eq!(env.flags, 0);
    });
}
