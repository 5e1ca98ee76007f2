// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mutations are reproducible, bounded, and reach what they should.

use std::collections::HashSet;

use super::{LEN_MAX, Random, mutate};

#[test]
fn mutations_of_equal_seeds_are_equal() {
    let series = |seed| {
        let mut random = Random::new(seed);
        (0..100).map(|_| mutate(&mut random, b"some input", b"another")).collect::<Vec<_>>()
    };
    assert_eq!(series(7), series(7));
    assert_ne!(series(7), series(8));
}

#[test]
fn mutations_stay_within_the_length_limit() {
    let mut random = Random::new(1);
    let mut input = Vec::new();
    for _ in 0..20_000 {
        let next = mutate(&mut random, &input, &[0xaa; LEN_MAX]);
        assert!(next.len() <= LEN_MAX);
        if next.len() > input.len() {
            input = next;
        }
    }
    assert!(input.len() > LEN_MAX / 2, "inputs never grow: {}", input.len());
}

#[test]
fn mutations_vary_and_start_from_nothing_too() {
    let mut random = Random::new(1);
    let distinct: HashSet<Vec<u8>> =
        (0..1000).map(|_| mutate(&mut random, b"0123456789abcdef", b"")).collect();
    assert!(distinct.len() > 800, "{} of 1000 differ", distinct.len());
    assert!((0..100).any(|_| !mutate(&mut random, b"", b"").is_empty()));
}
