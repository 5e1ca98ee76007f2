// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random instructions, here and on `qemu-aarch64` (user mode), compared register by register.
//!
//! Skipped with a printed reason where that program is not installed. `BULKHEAD_FP_CASES` and `BULKHEAD_FP_SEED` make a
//! campaign longer or different; a failure prints the encoding, the inputs and both results.

use super::cases::{DATA, Kind, MEMORY, Random};
use super::machine::TestMachine;
use super::oracle::{self, setting};
use super::program::{self, GENERAL, Layout, SCRATCH};

/// Cases of a default run: some hundred per encoding class.
const CASES: usize = 12_000;

/// SDOT and UDOT, which the oracle's CPU does not have: `crypto_and_dot_product` holds them against their definition.
fn is_dot_product(word: u32) -> bool {
    word & 0x9fe0_fc00 == 0x0e80_9400 || word & 0x9fc0_f400 == 0x0f80_e000
}

fn random_state(random: &mut Random) -> TestMachine {
    let mut state = TestMachine { fpcr: random.fpcr(), fpsr: random.fpsr(), ..TestMachine::default() };
    let style = random.below(8);
    for v in &mut state.v {
        let style = if random.below(8) == 0 { random.below(8) } else { style };
        *v = random.register(style);
    }
    for x in &mut state.x[..GENERAL] {
        *x = random.integer(64);
    }
    state.nzcv = random.below(16) as u8;
    state
}

fn data_case(random: &mut Random) -> (u32, TestMachine) {
    loop {
        let (template, kind) = random.pick(DATA);
        let mut word = random.word(template);
        if kind == Kind::General {
            // X26-X30 belong to the harness.
            for field in [0, 5] {
                if (26..31).contains(&(word >> field & 31)) {
                    word ^= 16 << field;
                }
            }
        }
        // Beyond data processing "anything" also reaches encodings that are not ours, and the oracle's CPU has no dot
        // product.
        let ours = word >> 25 & 7 == 7 && !is_dot_product(word);
        // Most unallocated encodings are drawn again, or they would be two thirds of the cases.
        let wanted = random.below(8) == 0 || crate::fp::handler::<TestMachine>(word).is_some();
        if ours && wanted {
            return (word, random_state(random));
        }
    }
}

/// A load or store whose addresses stay in the window: the base is X0-X3, offsets are small.
fn memory_case(random: &mut Random, layout: &Layout, case: usize) -> (u32, TestMachine) {
    let mut state = random_state(random);
    state.memory_base = layout.scratch();
    state.pc = layout.instruction(case);
    for x in &mut state.x[..4] {
        *x = layout.scratch() + 300 + random.below(256);
    }
    let template = random.pick(MEMORY);
    let mut word = random.word(template);
    let scale = (word >> 23 & 1) << 2 | word >> 30;
    if word >> 27 & 7 == 0b011 && word >> 24 & 3 == 0 {
        let distance = (state.x[1] & !3).wrapping_sub(state.pc) >> 2;
        word = word & 0xff00_001f | (distance as u32 & 0x7ffff) << 5;
    } else {
        word = word & !(31 << 5) | (random.below(4) as u32) << 5;
        if word >> 24 & 0x3b == 0b11_1001 {
            // Unsigned offset: up to 240 bytes.
            let limit = 240 >> scale.min(4);
            word = word & !(0xfff << 10) | (random.below(limit + 1) as u32) << 10;
        } else if word >> 24 & 0x3b == 0b11_1000 && word >> 21 & 1 == 1 {
            word = word & !(31 << 16) | 20 << 16;
            state.x[20] = match word >> 13 & 3 {
                2 => random.next() << 32 | random.below(8),
                _ => random.below(16).wrapping_sub(8),
            };
        } else if word >> 27 & 7 == 0b101 {
            // Pair: at most 15 units either way.
            let offset = random.below(16).wrapping_sub(8) as u32 & 0x7f;
            word = word & !(0x7f << 15) | offset << 15;
        } else if word >> 23 & 1 == 1 && word >> 24 & 0xbe == 0b1100 && word >> 16 & 31 != 31 {
            word = word & !(31 << 16) | 21 << 16;
        }
    }
    (word, state)
}

/// Compares one case; the differences in words.
fn differences(word: u32, input: &TestMachine, ours: &TestMachine, theirs: &TestMachine) -> Vec<String> {
    let mut found = Vec::new();
    for number in 0..32 {
        if ours.v[number] != theirs.v[number] {
            found.push(format!("v{number}: ours {:032x} theirs {:032x}", ours.v[number], theirs.v[number]));
        }
    }
    for number in 0..GENERAL {
        if ours.x[number] != theirs.x[number] {
            found.push(format!("x{number}: ours {:x} theirs {:x}", ours.x[number], theirs.x[number]));
        }
    }
    if ours.fpsr != theirs.fpsr {
        found.push(format!("fpsr: ours {:x} theirs {:x} before {:x}", ours.fpsr, theirs.fpsr, input.fpsr));
    }
    if ours.nzcv != theirs.nzcv {
        found.push(format!("nzcv: ours {:x} theirs {:x}", ours.nzcv, theirs.nzcv));
    }
    if ours.memory != theirs.memory {
        found.push("memory differs".to_string());
    }
    if !found.is_empty() {
        for field in [0, 5, 10, 16] {
            let number = (word >> field & 31) as usize;
            let x = input.x.get(number).copied().unwrap_or(0);
            found.push(format!("  input v{number} = {:032x} x{number} = {x:x}", input.v[number]));
        }
        found.push(format!("  fpcr {:x}", input.fpcr));
    }
    found
}

fn campaign(
    name: &str,
    with_memory: bool,
    mut make: impl FnMut(&mut Random, &Layout, usize) -> (u32, TestMachine),
) {
    let Some(oracle) = oracle::find() else { return };
    let count = setting("BULKHEAD_FP_CASES", CASES as u64) as usize;
    // Literal loads reach one megabyte, and the window comes before the code.
    let count = if with_memory { count.min(80_000) } else { count };
    let seed = setting("BULKHEAD_FP_SEED", 1);
    let layout = Layout::new(count, with_memory);
    let mut random = Random(seed);
    let (words, mut inputs): (Vec<_>, Vec<_>) =
        (0..count).map(|case| make(&mut random, &layout, case)).unzip();
    if with_memory {
        inputs[0].memory = (0..SCRATCH).map(|_| random.next() as u8).collect();
    }
    let image = program::build(&layout, &words, &inputs);
    let output = oracle::run(&oracle, &image, &format!("fp-{name}"));
    let records = program::records(&layout, &output);
    assert_eq!(records.len(), count, "one record for each case");
    let mut memory = inputs[0].memory.clone();
    let (mut defined, mut failures) = (0, Vec::new());
    for ((word, input), record) in words.iter().zip(&inputs).zip(&records) {
        let mut ours = TestMachine { memory, ..input.clone() };
        let ran = ours.run(*word);
        defined += usize::from(ran);
        if ran == record.undefined {
            failures.push(format!("{word:08x}: unallocated here: {}, there: {}", !ran, record.undefined));
        } else {
            for line in differences(*word, input, &ours, &record.state) {
                failures.push(format!("{word:08x}: {line}"));
            }
        }
        // Both go on from the same memory, so that one difference is reported once.
        memory = record.state.memory.clone();
    }
    println!("{name}: {count} cases, seed {seed}, {defined} of them allocated");
    assert!(defined > count / 4, "most templates should give allocated encodings");
    for line in failures.iter().take(setting("BULKHEAD_FP_SHOWN", 60) as usize) {
        eprintln!("{line}");
    }
    assert!(failures.is_empty(), "{} lines of differences", failures.len());
}

#[test]
fn data_processing_agrees_with_another_implementation() {
    campaign("data", false, |random, _, _| data_case(random));
}

#[test]
fn loads_and_stores_agree_with_another_implementation() {
    campaign("memory", true, memory_case);
}
