// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads and stores on the stand-in machine: interleaving by index formula, write-back, aborts that change nothing,
//! denied access, unallocated encodings.

use super::cases::{MEMORY, Random};
use super::machine::TestMachine;

const BASE: u64 = 0x5000;

fn machine() -> TestMachine {
    TestMachine {
        memory_base: BASE,
        memory: (0..=255).collect(),
        v: std::array::from_fn(|number| u128::MAX / 255 * number as u128),
        x: [BASE; 32],
        pc: BASE,
        ..TestMachine::default()
    }
}

#[test]
fn interleaved_loads_scatter_elements_over_registers() {
    for (registers, opcode) in [(2usize, 0b1000u32), (3, 0b0100), (4, 0b0000)] {
        for size in 0..4 {
            for q in 0..2 {
                let word = 0x0c40_0000 | q << 30 | opcode << 12 | size << 10 | 3 << 5 | 30;
                let mut machine = machine();
                let (lane, len) = (1 << size, 8 << q);
                if size == 3 && q == 0 {
                    assert!(!machine.run(word), "{word:08x}");
                    continue;
                }
                assert!(machine.run(word), "{word:08x}");
                for register in 0..registers {
                    let expected: [u8; 16] = std::array::from_fn(|byte| match byte {
                        byte if byte < len => {
                            ((byte / lane * registers + register) * lane + byte % lane) as u8
                        }
                        _ => 0,
                    });
                    let number = (30 + register) % 32;
                    assert_eq!(machine.v[number].to_le_bytes(), expected, "{word:08x} v{number}");
                }
                // The store puts every byte back where it came from.
                let filled = TestMachine { memory: vec![0; 256], ..machine };
                let mut stored = filled.clone();
                assert!(stored.run(word & !(1 << 22)));
                let moved = registers * len;
                assert_eq!(stored.memory[..moved], (0..moved as u8).collect::<Vec<_>>()[..]);
                assert_eq!(stored.memory[moved..], filled.memory[moved..]);
            }
        }
    }
}

#[test]
fn single_lanes_leave_the_others_alone() {
    let mut machine = machine();
    // ld2 {v4.h, v5.h}[5], [x3]
    assert!(machine.run(0x4d60_4800 | 3 << 5 | 4));
    assert_eq!(machine.v[4], 0x0404_0404_0100_0404_0404_0404_0404_0404);
    assert_eq!(machine.v[5], 0x0505_0505_0302_0505_0505_0505_0505_0505);
    // ld3r {v6.2s-v8.2s}, [x3], x4
    machine.x[4] = 100;
    assert!(machine.run(0x0dc4_e800 | 3 << 5 | 6));
    assert_eq!(machine.v[6..9], [0x0302_0100_0302_0100, 0x0706_0504_0706_0504, 0x0b0a_0908_0b0a_0908]);
    assert_eq!(machine.x[3], BASE + 100);
}

#[test]
fn write_back_adds_the_offset_before_or_after() {
    let mut machine = machine();
    // ldr q1, [x2], #16; then ldr d3, [x2, #-8]!
    assert!(machine.run(0x3cc1_0441));
    assert_eq!((machine.v[1] as u64, machine.x[2]), (0x0706_0504_0302_0100, BASE + 16));
    assert!(machine.run(0xfc5f_8c43));
    assert_eq!((machine.v[3], machine.x[2]), (0x0f0e_0d0c_0b0a_0908, BASE + 8));
    // stp s4, s5, [sp, #-8]! moves the stack pointer, which is X31 here alone.
    machine.x[31] = BASE + 32;
    assert!(machine.run(0x2dbf_17e4));
    assert_eq!(machine.x[31], BASE + 24);
    assert_eq!(machine.memory[24..32], [4, 4, 4, 4, 5, 5, 5, 5]);
    // ld1 {v0.16b-v3.16b}, [x5], #64
    assert!(machine.run(0x4cdf_20a0));
    assert_eq!(machine.x[5], BASE + 64);
}

#[test]
fn literal_loads_are_relative_to_the_instruction() {
    let mut machine = machine();
    machine.pc = BASE + 64;
    // ldr s0, pc-64; ldr d1, pc+8; ldr q2, pc+16
    assert!(machine.run(0x1c00_0000 | (0x7_fff0 << 5)));
    assert!(machine.run(0x5c00_0041));
    assert!(machine.run(0x9c00_0082));
    assert_eq!(machine.v[0], 0x0302_0100);
    assert_eq!(machine.v[1], 0x4f4e_4d4c_4b4a_4948);
    assert_eq!(machine.v[2] as u64, 0x5756_5554_5352_5150);
    assert!(!machine.run(0xdc00_0040), "the fourth size is unallocated");
}

/// Base addresses so close to the end of the window that some part of most accesses lies outside.
#[test]
fn an_abort_leaves_registers_and_base_unchanged() {
    let mut random = Random(41);
    let mut aborts = 0;
    for _ in 0..60_000 {
        let template = random.pick(MEMORY);
        let word = random.word(template) & !(31 << 5) | 3 << 5;
        let mut before = machine();
        before.x[3] = BASE + 256 - random.below(64);
        before.pc = BASE + 0x10_0000;
        let mut after = before.clone();
        if after.run(word) && after.aborted {
            aborts += 1;
            assert_eq!(after.v, before.v, "{word:08x}");
            assert_eq!(after.x, before.x, "{word:08x}");
            let store = word >> 22 & 1 == 0;
            assert!(store || after.memory == before.memory, "{word:08x}");
        }
    }
    assert!(aborts > 5_000, "the test must reach its subject: {aborts}");
}

#[test]
fn denied_access_changes_nothing() {
    let mut random = Random(42);
    let mut denied = 0;
    for _ in 0..20_000 {
        let word = random.next() as u32 & !(7 << 25) | random.pick(&[6, 7]) << 25;
        let before = TestMachine { no_access: true, ..machine() };
        let mut after = before.clone();
        denied += u32::from(after.run(word));
        assert_eq!(after, before, "{word:08x}");
    }
    assert!(denied > 1_000);
}

/// What the ID registers do not report does not exist.
#[test]
fn unreported_extensions_are_unallocated() {
    let words = [
        ("fadd h0, h1, h2", 0x1ee2_2820u32),
        ("fcvtzs w0, h1", 0x1ef8_0020),
        ("fmov h0, w1", 0x1ee7_0020),
        ("fadd v0.8h, v1.8h, v2.8h", 0x4e42_1420),
        ("fabs v0.8h, v1.8h", 0x4ef8_f820),
        ("fmla v0.8h, v1.8h, v2.h[0]", 0x4f02_1020),
        ("fmov v0.8h, #1.0", 0x4f03_fe00),
        ("sqrdmlah v0.4s, v1.4s, v2.4s", 0x6e82_8420),
        ("sqrdmlah v0.4s, v1.4s, v2.s[0]", 0x6f82_d020),
        ("fcmla v0.4s, v1.4s, v2.4s, #0", 0x6e82_c420),
        ("fcadd v0.4s, v1.4s, v2.4s, #90", 0x6e82_e420),
        ("sdot of halfwords", 0x4e42_9420),
        ("sha512h q0, q1, v2.2d", 0xce62_8020),
        ("eor3 v0.16b, v1.16b, v2.16b, v3.16b", 0xce02_0c20),
        ("a reserved AES", 0x4e28_0820),
        ("a reserved SHA of three registers", 0x5e02_7020),
        ("frint32z s0, s1", 0x1e28_4020),
        ("fjcvtzs w0, d1", 0x1e7e_0020),
        ("fmlal v0.4s, v1.4h, v2.4h", 0x4e22_ec20),
        ("bfcvt h0, s1", 0x1e63_4020),
        ("sm3ss1", 0xce42_0820),
        ("reserved next to the literal loads", 0x1d40_0800),
    ];
    for (name, word) in words {
        assert!(!machine().run(word), "{name}");
    }
}

/// No word, whatever it is, may stop the CPU.
#[test]
fn every_word_is_survived() {
    let mut random = Random(43);
    for _ in 0..60_000 {
        let word = random.next() as u32 & !(7 << 25) | random.pick(&[6, 7]) << 25;
        let mut machine = machine();
        let style = random.below(8);
        for v in &mut machine.v {
            *v = random.register(style);
        }
        machine.fpcr = random.fpcr();
        machine.fpsr = random.fpsr();
        machine.run(word);
    }
}
