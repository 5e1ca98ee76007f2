// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions between formats, to and from integers, and to integral values.

use super::cases::Random;
use super::exact::{Signed, parts, round};
use crate::fp::float::convert::{Integer, convert, from_fixed, round_to_integral, to_fixed};
use crate::fp::float::{Env, Format, IOC, IXC, Rounding};

const MODES: [Rounding; 5] =
    [Rounding::TieEven, Rounding::Up, Rounding::Down, Rounding::Zero, Rounding::TieAway];

fn env(rounding: Rounding) -> Env {
    Env { rounding, flush: false, default_nan: false, alternative_half: false, flags: 0 }
}

fn integral(rounding: Rounding, value: f64) -> f64 {
    match rounding {
        Rounding::TieEven => value.round_ties_even(),
        Rounding::Up => value.ceil(),
        Rounding::Down => value.floor(),
        Rounding::Zero => value.trunc(),
        _ => value.round(),
    }
}

#[test]
fn every_half_survives_widening_and_narrowing() {
    for bits in 0..=0xffff {
        for wide in [Format::Single, Format::Double] {
            let mut env = env(Rounding::TieEven);
            let back = convert(&mut env, Format::Half, wide, bits);
            let back = convert(&mut env, wide, Format::Half, back);
            let nan = bits & 0x7fff > 0x7c00;
            let signalling = nan && bits & 0x200 == 0;
            assert_eq!(back, if nan { bits | 0x200 } else { bits });
            assert_eq!(env.flags, if signalling { IOC } else { 0 });
        }
    }
}

#[test]
fn every_half_has_the_value_of_its_definition() {
    for bits in 0..=0xffffu64 {
        let (significand, exponent) = parts(Format::Half, bits);
        let magnitude = significand as f64 * f64::powi(2.0, exponent);
        let value = if bits & 0x8000 != 0 { -magnitude } else { magnitude };
        let alternative = Env { alternative_half: true, ..env(Rounding::TieEven) };
        assert_eq!(
            convert(&mut alternative.clone(), Format::Half, Format::Double, bits),
            value.to_bits(),
            "alternative format, {bits:x}"
        );
        if bits & 0x7c00 != 0x7c00 {
            let result = convert(&mut env(Rounding::TieEven), Format::Half, Format::Double, bits);
            assert_eq!(result, value.to_bits(), "{bits:x}");
        }
    }
}

#[test]
fn narrowing_rounds_by_definition() {
    let mut random = Random(21);
    for _ in 0..40_000 {
        let bits = match random.below(3) {
            // Near the half-precision range.
            0 => (1023 - 30 + random.below(50)) << 52 | random.double() & (1 << 63 | ((1 << 52) - 1)),
            _ => random.double(),
        };
        if bits & 0x7ff << 52 == 0x7ff << 52 || bits << 1 == 0 {
            continue;
        }
        for to in [Format::Half, Format::Single] {
            for rounding in MODES.into_iter().chain([Rounding::Odd]) {
                let mut env = env(rounding);
                let result = convert(&mut env, Format::Double, to, bits);
                let expected = round(to, Signed::decode(Format::Double, bits), rounding, false);
                assert_eq!((result, env.flags), expected, "{bits:x} {to:?} {rounding:?}");
            }
        }
    }
}

#[test]
fn to_integer_agrees_with_rounding_and_clamping_on_the_host() {
    let mut random = Random(22);
    for _ in 0..60_000 {
        let bits = random.double();
        let value = f64::from_bits(bits);
        for rounding in MODES {
            let whole = integral(rounding, value);
            let cases = [
                (64, true, whole as i64 as u64),
                (64, false, whole as u64),
                (32, true, whole as i32 as u32 as u64),
                (32, false, u64::from(whole as u32)),
            ];
            for (width, signed, expected) in cases {
                let mut env = env(rounding);
                let result = to_fixed(&mut env, Format::Double, bits, Integer { bits: width, signed }, 0);
                assert_eq!(result, expected, "{value} {width} {signed} {rounding:?}");
                // 2^63 and 2^64 are numbers, so the bounds can be compared on the host.
                let limit = f64::powi(2.0, width as i32 - i32::from(signed));
                let fits = whole < limit && whole >= if signed { -limit } else { 0.0 };
                let flags = match (fits, whole == value) {
                    (false, _) => IOC,
                    (true, false) => IXC,
                    (true, true) => 0,
                };
                assert_eq!(env.flags, flags, "{value} {width} {signed} {rounding:?}");
            }
        }
    }
}

#[test]
fn fixed_point_is_scaled_by_a_power_of_two() {
    let mut random = Random(23);
    for _ in 0..20_000 {
        let point = 1 + random.below(32) as u32;
        let value = random.integer(32) as i32;
        let integer = Integer { bits: 32, signed: true };
        let mut env = env(Rounding::TieEven);
        let float = from_fixed(&mut env, Format::Double, value as u32 as u64, integer, point);
        assert_eq!(f64::from_bits(float), f64::from(value) / f64::powi(2.0, point as i32));
        let back = to_fixed(&mut env, Format::Double, float, integer, point);
        assert_eq!((back as u32 as i32, env.flags), (value, 0));
    }
}

#[test]
fn from_integer_agrees_with_the_host() {
    let mut random = Random(24);
    for _ in 0..60_000 {
        let value = random.integer(64) >> random.below(64);
        let run = |format, bits, signed| {
            from_fixed(&mut env(Rounding::TieEven), format, value, Integer { bits, signed }, 0)
        };
        assert_eq!(run(Format::Double, 64, true), (value as i64 as f64).to_bits());
        assert_eq!(run(Format::Double, 64, false), (value as f64).to_bits());
        assert_eq!(run(Format::Single, 64, true), u64::from((value as i64 as f32).to_bits()));
        assert_eq!(run(Format::Single, 64, false), u64::from((value as f32).to_bits()));
        assert_eq!(run(Format::Single, 32, true), u64::from((value as i32 as f32).to_bits()));
        assert_eq!(run(Format::Double, 32, false), f64::from(value as u32).to_bits());
    }
}

#[test]
fn round_to_integral_agrees_with_the_host() {
    let mut random = Random(25);
    for _ in 0..60_000 {
        let bits = random.double();
        let value = f64::from_bits(bits);
        if value.is_nan() {
            continue;
        }
        for rounding in MODES {
            for exact in [false, true] {
                let mut env = env(rounding);
                let result = round_to_integral(&mut env, Format::Double, bits, exact);
                let expected = integral(rounding, value);
                assert_eq!(result, expected.to_bits(), "{value} {rounding:?}");
                assert_eq!(env.flags, if exact && expected != value { IXC } else { 0 }, "{value}");
            }
        }
    }
}
