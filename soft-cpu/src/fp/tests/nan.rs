// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NaN rules, invalid operations, and the recorded values of the estimates.

use crate::fp::float::compare::{compare_flags, max, max_number, min_number};
use crate::fp::float::estimate::{
    reciprocal_estimate, reciprocal_exponent, reciprocal_root_estimate, reciprocal_root_step,
    reciprocal_step, unsigned_reciprocal, unsigned_reciprocal_root,
};
use crate::fp::float::{self, DZC, Env, Format, IOC, IXC, OFC, Rounding, UFC};

const QUIET_1: u64 = 0x7fc0_0001;
const QUIET_2: u64 = 0xffc0_0002;
const SIGNALLING_1: u64 = 0x7f80_0001;
const SIGNALLING_2: u64 = 0xff80_0002;
const ONE: u64 = 0x3f80_0000;
const INFINITY: u64 = 0x7f80_0000;
const DEFAULT: u64 = 0x7fc0_0000;
const S: Format = Format::Single;

fn env() -> Env {
    Env { rounding: Rounding::TieEven, flush: false, default_nan: false, alternative_half: false, flags: 0 }
}

/// Runs an operation; its result and flags.
fn run(f: impl FnOnce(&mut Env) -> u64) -> (u64, u32) {
    let mut env = env();
    let result = f(&mut env);
    (result, env.flags)
}

#[test]
fn a_signalling_operand_wins_and_becomes_quiet() {
    assert_eq!(run(|e| float::add(e, S, QUIET_1, SIGNALLING_2)), (0xffc0_0002, IOC));
    assert_eq!(run(|e| float::add(e, S, SIGNALLING_1, SIGNALLING_2)), (0x7fc0_0001, IOC));
    assert_eq!(run(|e| float::mul(e, S, ONE, SIGNALLING_2)), (0xffc0_0002, IOC));
    assert_eq!(run(|e| float::sqrt(e, S, SIGNALLING_1)), (0x7fc0_0001, IOC));
}

#[test]
fn the_first_quiet_operand_is_the_result_without_flags() {
    assert_eq!(run(|e| float::add(e, S, QUIET_2, QUIET_1)), (QUIET_2, 0));
    assert_eq!(run(|e| float::sub(e, S, ONE, QUIET_2)), (QUIET_2, 0));
    assert_eq!(run(|e| float::div(e, S, QUIET_1, QUIET_2)), (QUIET_1, 0));
}

#[test]
fn fused_multiply_add_looks_at_the_addend_first() {
    assert_eq!(run(|e| float::mul_add(e, S, QUIET_2, QUIET_1, ONE)), (QUIET_2, 0));
    assert_eq!(run(|e| float::mul_add(e, S, QUIET_2, SIGNALLING_1, ONE)), (QUIET_1, IOC));
    // Zero times infinity is invalid even if the addend is a quiet NaN.
    assert_eq!(run(|e| float::mul_add(e, S, QUIET_2, 0, INFINITY)), (DEFAULT, IOC));
}

#[test]
fn default_nan_mode_replaces_every_nan() {
    let mut env = Env { default_nan: true, ..env() };
    assert_eq!(float::add(&mut env, S, QUIET_2, ONE), DEFAULT);
    assert_eq!(env.flags, 0);
    assert_eq!(float::add(&mut env, S, SIGNALLING_2, ONE), DEFAULT);
    assert_eq!(env.flags, IOC);
}

#[test]
fn invalid_operations_give_the_positive_default_nan() {
    assert_eq!(run(|e| float::sub(e, S, INFINITY, INFINITY)), (DEFAULT, IOC));
    assert_eq!(run(|e| float::mul(e, S, INFINITY, 0)), (DEFAULT, IOC));
    assert_eq!(run(|e| float::div(e, S, 0, 0)), (DEFAULT, IOC));
    assert_eq!(run(|e| float::div(e, S, INFINITY, INFINITY)), (DEFAULT, IOC));
    assert_eq!(run(|e| float::sqrt(e, S, 0xbf80_0000)), (DEFAULT, IOC));
    assert_eq!(run(|e| float::mul_extended(e, S, INFINITY, 0x8000_0000)), (0xc000_0000, 0));
    assert_eq!(run(|e| float::div(e, S, ONE, 0x8000_0000)), (0xff80_0000, DZC));
}

#[test]
fn zero_sums_have_the_sign_of_the_rounding_direction() {
    let mut down = Env { rounding: Rounding::Down, ..env() };
    assert_eq!(float::sub(&mut down, S, ONE, ONE), 0x8000_0000);
    assert_eq!(float::add(&mut down, S, 0, 0), 0);
    assert_eq!(float::add(&mut down, S, 0, 0x8000_0000), 0x8000_0000);
    assert_eq!(run(|e| float::sub(e, S, ONE, ONE)), (0, 0));
    assert_eq!(run(|e| float::add(e, S, 0x8000_0000, 0x8000_0000)), (0x8000_0000, 0));
}

#[test]
fn comparison_flags_and_signalling() {
    let flags = |a, b, all| run(|e| compare_flags(e, S, a, b, all).into());
    assert_eq!(flags(ONE, ONE, false), (0b0110, 0));
    assert_eq!(flags(0, 0x8000_0000, true), (0b0110, 0));
    assert_eq!(flags(0xff80_0000, ONE, false), (0b1000, 0));
    assert_eq!(flags(ONE, 1, false), (0b0010, 0));
    assert_eq!(flags(QUIET_1, ONE, false), (0b0011, 0));
    assert_eq!(flags(QUIET_1, ONE, true), (0b0011, IOC));
    assert_eq!(flags(ONE, SIGNALLING_1, false), (0b0011, IOC));
}

#[test]
fn maximum_number_prefers_the_number() {
    assert_eq!(run(|e| max_number(e, S, QUIET_1, ONE)), (ONE, 0));
    assert_eq!(run(|e| min_number(e, S, ONE, QUIET_1)), (ONE, 0));
    assert_eq!(run(|e| max_number(e, S, QUIET_1, QUIET_2)), (QUIET_1, 0));
    assert_eq!(run(|e| max_number(e, S, ONE, SIGNALLING_1)), (QUIET_1, IOC));
    assert_eq!(run(|e| max(e, S, ONE, QUIET_1)), (QUIET_1, 0));
    assert_eq!(run(|e| max(e, S, 0x8000_0000, 0)), (0, 0));
}

#[test]
fn estimates_of_known_operands() {
    // 511/512, the estimate of 1 by the pseudocode's table-free definition.
    assert_eq!(run(|e| reciprocal_estimate(e, S, ONE)), (0x3f7f_8000, 0));
    assert_eq!(run(|e| reciprocal_root_estimate(e, S, ONE)), (0x3f7f_8000, 0));
    assert_eq!(run(|e| reciprocal_estimate(e, S, 0x8000_0000)), (0xff80_0000, DZC));
    assert_eq!(run(|e| reciprocal_estimate(e, S, 0xff80_0000)), (0x8000_0000, 0));
    assert_eq!(run(|e| reciprocal_estimate(e, S, 0x001f_ffff)), (INFINITY, OFC | IXC));
    assert_eq!(run(|e| reciprocal_root_estimate(e, S, 0xbf80_0000)), (DEFAULT, IOC));
    assert_eq!(run(|e| reciprocal_root_estimate(e, S, INFINITY)), (0, 0));
    let mut flushing = Env { flush: true, ..env() };
    assert_eq!(reciprocal_estimate(&mut flushing, S, 0xff00_0000), 0x8000_0000);
    assert_eq!(flushing.flags, UFC);
    assert_eq!(unsigned_reciprocal(0x8000_0000), 0xff80_0000);
    assert_eq!(unsigned_reciprocal(0x7fff_ffff), u32::MAX);
    assert_eq!(unsigned_reciprocal_root(0x4000_0000), 0xff80_0000);
    assert_eq!(run(|e| reciprocal_exponent(e, S, ONE)), (0x4000_0000, 0));
    assert_eq!(run(|e| reciprocal_exponent(e, S, 0x8000_0000)), (0xff00_0000, 0));
}

/// The estimates promise a relative error below 2^-8.
#[test]
fn estimates_are_within_their_error_bound() {
    for step in 0..4096u64 {
        let bits = 0x3f80_0000 + step * 0x1000;
        let value = f64::from(f32::from_bits(bits as u32));
        let reciprocal = f32::from_bits(run(|e| reciprocal_estimate(e, S, bits)).0 as u32);
        let root = f32::from_bits(run(|e| reciprocal_root_estimate(e, S, bits)).0 as u32);
        assert!((f64::from(reciprocal) * value - 1.0).abs() < 1.0 / 256.0, "1 / {value}");
        assert!((f64::from(root) * value.sqrt() - 1.0).abs() < 1.0 / 256.0, "1 / sqrt {value}");
    }
}

#[test]
fn newton_steps_treat_zero_times_infinity_as_zero() {
    assert_eq!(run(|e| reciprocal_step(e, S, 0, INFINITY)), (0x4000_0000, 0));
    assert_eq!(run(|e| reciprocal_root_step(e, S, INFINITY, 0)), (0x3fc0_0000, 0));
    assert_eq!(run(|e| reciprocal_step(e, S, ONE, ONE)), (ONE, 0));
    assert_eq!(run(|e| reciprocal_root_step(e, S, ONE, ONE)), (ONE, 0));
    // The first operand is negated before NaNs are looked at.
    assert_eq!(run(|e| reciprocal_step(e, S, QUIET_1, ONE)), (0xffc0_0001, 0));
}
