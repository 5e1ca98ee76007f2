// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random integer instructions, here and on `qemu-aarch64` (user mode), compared register by register.
//!
//! Skipped with a printed reason where that program is not installed. `BULKHEAD_ISA_CASES` and
//! `BULKHEAD_ISA_SEED` make a campaign longer or different.

use super::machine::Guest;
use crate::cpu::Flags;
use crate::fp::tests::machine::TestMachine;
use crate::fp::tests::oracle::{self, setting};
use crate::fp::tests::program::{self, GENERAL, Layout};

const CASES: u64 = 20_000;

/// Fixed bits and free bits of the data processing classes.
const CLASSES: &[(u32, u32)] = &[
    (0x1100_0000, 0xe07f_ffff), // add, sub immediate
    (0x1200_0000, 0xe07f_ffff), // logical immediate
    (0x1280_0000, 0xe07f_ffff), // move wide
    (0x1300_0000, 0xe07f_ffff), // bitfield
    (0x1380_0000, 0x807f_ffff), // extract
    (0x0a00_0000, 0xe0ff_ffff), // logical shifted
    (0x0b00_0000, 0xe0df_ffff), // add, sub shifted
    (0x0b20_0000, 0xe01f_ffff), // add, sub extended
    (0x1a00_0000, 0xe01f_03ff), // with carry
    (0x3a40_0000, 0xc01f_fbef), // conditional compare
    (0x1a80_0000, 0xc01f_f7ff), // conditional select
    (0x1b00_0000, 0x80ff_ffff), // three sources
    (0x1ac0_0000, 0x801f_3fff), // two sources
    (0x1ac0_2000, 0x801f_0fff), // shifts
    (0x1ac0_4000, 0x801f_1fff), // checksums
    (0x5ac0_0000, 0x8000_17ff), // one source
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn value(&mut self) -> u64 {
        let value = self.next();
        match self.next() % 6 {
            0 => value % 8,
            1 => u64::MAX - value % 8,
            2 => 0x7fff_fffe + value % 4,
            3 => (1 << 63) - 2 + value % 4,
            4 => 1 << (value % 64),
            _ => value,
        }
    }
}

/// A word whose registers are x0 to x25 or 31: the others belong to the harness.
fn word(random: &mut Random) -> u32 {
    let (fixed, free) = CLASSES[random.next() as usize % CLASSES.len()];
    let mut word = fixed | random.next() as u32 & free;
    for low in [0, 5, 10, 16] {
        let mask = 31 << low;
        if free & mask == mask && (26..31).contains(&(word >> low & 31)) {
            word ^= 16 << low;
        }
    }
    // The stack pointer of the harness stays: no sum or logical immediate into it.
    let writes_sp = (word & 0x1f00_0000 == 0x1100_0000 || word & 0x1fe0_0000 == 0x0b20_0000)
        && word >> 29 & 1 == 0
        || word & 0x1f80_0000 == 0x1200_0000 && word >> 29 & 3 != 3;
    // Sources that are the stack pointer differ between the two.
    let reads_sp = word & 0x1f00_0000 == 0x1100_0000 || word & 0x1fe0_0000 == 0x0b20_0000;
    if writes_sp && word & 31 == 31 {
        word ^= 16;
    }
    if reads_sp && word >> 5 & 31 == 31 {
        word ^= 16 << 5;
    }
    word
}

#[test]
fn integer_instructions_agree_with_another_implementation() {
    let Some(oracle) = oracle::find() else { return };
    let count = setting("BULKHEAD_ISA_CASES", CASES) as usize;
    let mut random = Random(setting("BULKHEAD_ISA_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let layout = Layout::new(count, false);
    let (words, inputs): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let mut state = TestMachine::default();
            for x in &mut state.x[..GENERAL] {
                *x = random.value();
            }
            state.nzcv = random.next() as u8 & 15;
            (word(&mut random), state)
        })
        .unzip();
    let output = oracle::run(&oracle, &program::build(&layout, &words, &inputs), "isa");
    let records = program::records(&layout, &output);
    assert_eq!(records.len(), count);
    let mut guest = Guest::new();
    let mut failures = Vec::new();
    let mut defined = 0;
    for ((word, input), record) in words.iter().zip(&inputs).zip(&records) {
        for (slot, value) in (0..).zip(&input.x[..GENERAL]) {
            guest.set_x(slot, *value);
        }
        guest.vcpu.cpu.sys.esr = u64::MAX;
        guest.vcpu.cpu.flags = Flags::from_bits(input.nzcv);
        guest.step(*word);
        let undefined = guest.vcpu.cpu.sys.esr != u64::MAX;
        defined += usize::from(!undefined);
        let differs = (0..GENERAL).any(|slot| guest.x(slot as u8) != record.state.x[slot])
            || guest.vcpu.cpu.flags.bits() != record.state.nzcv;
        if undefined != record.undefined || (!undefined && differs) {
            let field = |low: u32| input.x[(word >> low & 31) as usize];
            failures.push(format!(
                "{word:08x}: undefined {undefined}/{}, rn {:x} rm {:x} nzcv {:x}: rd {:x}/{:x} nzcv {:x}/{:x}",
                record.undefined,
                field(5),
                field(16),
                input.nzcv,
                guest.x((word & 31) as u8),
                record.state.x[(word & 31) as usize],
                guest.vcpu.cpu.flags.bits(),
                record.state.nzcv
            ));
        }
    }
    println!("{count} cases, {defined} of them allocated");
    assert!(defined > count / 4, "most words are instructions");
    assert!(
        failures.is_empty(),
        "{} differences, such as:\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}
