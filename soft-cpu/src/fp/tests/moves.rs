// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that moves lanes without arithmetic: permutes, tables, copies, immediates, reductions; by index formulae
//! on registers whose bytes name themselves, and by recorded words.

use super::machine::TestMachine;

/// V0 holds bytes 0x00-0x0f, V1 0x10-0x1f and so on.
fn numbered() -> TestMachine {
    let mut machine = TestMachine::default();
    for (number, v) in machine.v.iter_mut().enumerate() {
        *v = u128::from_le_bytes(std::array::from_fn(|byte| (16 * number + byte) as u8));
    }
    machine
}

fn bytes(value: u128) -> [usize; 16] {
    value.to_le_bytes().map(usize::from)
}

/// Runs `word` and expects byte `i` of V0 to be `byte(i)`, within the first `len` bytes; zero above.
fn expect(word: u32, len: usize, byte: impl Fn(usize) -> usize) {
    let mut machine = numbered();
    assert!(machine.run(word), "{word:08x}");
    let expected = std::array::from_fn(|i| if i < len { byte(i) } else { 0 });
    assert_eq!(bytes(machine.v[0]), expected, "{word:08x}");
}

#[test]
fn permutes_follow_their_index_formulae() {
    for size in 0..4 {
        for q in 0..2 {
            if size == 3 && q == 0 {
                continue;
            }
            let (lane, len) = (1usize << size, 8 << q);
            let count = len / lane;
            // Byte `i` of the result comes from lane `source(i / lane)` of V1 (below `count`) or V2.
            let check = |opcode: u32, source: &dyn Fn(usize) -> usize| {
                let word = 0x0e02_0820 | (q as u32) << 30 | size << 22 | opcode << 12;
                expect(word, len, |i| {
                    let from = source(i / lane);
                    let register = 1 + from / count;
                    16 * register + from % count * lane + i % lane
                });
            };
            for part in 0..2 {
                let opcode = |base: u32| base | (part as u32) << 2;
                check(opcode(1), &|i| 2 * i + part);
                check(opcode(2), &|i| (i & !1) + part + if i % 2 == 1 { count } else { 0 });
                check(opcode(3), &|i| i / 2 + part * count / 2 + if i % 2 == 1 { count } else { 0 });
            }
        }
    }
}

#[test]
fn extract_is_a_window_over_both_registers() {
    for shift in 0..16 {
        expect(0x6e02_0020 | (shift as u32) << 11, 16, |i| 16 + i + shift);
    }
    for shift in 0..8 {
        expect(0x2e02_0020 | (shift as u32) << 11, 8, |i| {
            if i + shift < 8 { 16 + i + shift } else { 32 + i + shift - 8 }
        });
    }
    assert!(!numbered().run(0x2e02_4020), "the 64-bit form has three index bits");
}

#[test]
fn tables_of_up_to_four_registers() {
    for len in 0..4usize {
        for keep in [0, 1] {
            let mut machine = numbered();
            // Table from V30 on, wrapping to V0 and V1; indices around the end of the table.
            let indices: [usize; 16] = std::array::from_fn(|i| 16 * len + 2 * i);
            machine.v[5] = u128::from_le_bytes(indices.map(|i| i as u8));
            machine.v[7] = 0xa5 * (u128::MAX / 0xff);
            assert!(machine.run(0x4e05_0000 | (len as u32) << 13 | keep << 12 | 30 << 5 | 7));
            let expected = indices.map(|index| match index / 16 {
                register if register <= len => 16 * ((30 + register) % 32) % 256 + index % 16,
                _ if keep == 1 => 0xa5,
                _ => 0,
            });
            assert_eq!(bytes(machine.v[7]), expected, "{len} {keep}");
        }
    }
}

#[test]
fn reversals_mirror_lanes_inside_containers() {
    let rows = [
        (0x4e20_0820, 1, 8), // rev64 of bytes
        (0x4e60_0820, 2, 8),
        (0x4ea0_0820, 4, 8),
        (0x6e20_0820, 1, 4), // rev32
        (0x6e60_0820, 2, 4),
        (0x4e20_1820, 1, 2), // rev16
    ];
    for (word, lane, container) in rows {
        expect(word, 16, |i| {
            let (outer, inner) = (i / container * container, i % container);
            16 + outer + (container / lane - 1 - inner / lane) * lane + i % lane
        });
    }
    let mut machine = numbered();
    assert!(machine.run(0x6e60_5820));
    assert_eq!(bytes(machine.v[0]), bytes(machine.v[1]).map(|byte| usize::from((byte as u8).reverse_bits())));
}

#[test]
fn copies_between_lanes_and_general_registers() {
    // dup v0.8h, v1.h[3]; mov v0.b[2], v1.b[15]
    expect(0x4e0e_0420, 16, |i| 0x16 + i % 2);
    expect(0x6e05_7c20, 16, |i| if i == 2 { 0x1f } else { i });
    // mov s0, v1.s[2]
    expect(0x5e14_0420, 4, |i| 0x18 + i);
    let mut machine = numbered();
    machine.x[3] = 0x1122_3344_5566_7788;
    assert!(machine.run(0x4e08_1c61), "mov v1.d[0], x3");
    assert_eq!(machine.v[1], 0x1f1e_1d1c_1b1a_1918_1122_3344_5566_7788);
    assert!(machine.run(0x0e02_0c60), "dup v0.4h, w3");
    assert_eq!(machine.v[0], 0x7788_7788_7788_7788);
    machine.v[1] = 0x80 << 32;
    assert!(machine.run(0x4e09_2c20), "smov x0, v1.b[4]");
    assert_eq!(machine.x[0], 0xffff_ffff_ffff_ff80);
    assert!(machine.run(0x0e09_2c20), "smov w0, v1.b[4]");
    assert_eq!(machine.x[0], 0xffff_ff80);
    assert!(machine.run(0x0e09_3c20), "umov w0, v1.b[4]");
    assert_eq!(machine.x[0], 0x80);
}

#[test]
fn immediates_expand_as_recorded() {
    let recorded: [(u32, u128); 12] = [
        (0x4f05_e540, 0xaaaa_aaaa_aaaa_aaaa_aaaa_aaaa_aaaa_aaaa), // movi v0.16b, #0xaa
        (0x0f00_a420, 0x0100_0100_0100_0100),                     // movi v0.4h, #1, lsl #8
        (0x4f00_4420, 0x0001_0000_0001_0000_0001_0000_0001_0000), // movi v0.4s, #1, lsl #16
        (0x0f00_c420, 0x0000_01ff_0000_01ff),                     // movi v0.2s, #1, msl #8
        (0x0f00_d420, 0x0001_ffff_0001_ffff),                     // movi v0.2s, #1, msl #16
        (0x2f00_0420, 0xffff_fffe_ffff_fffe),                     // mvni v0.2s, #1
        (0x6f05_e540, 0xff00_ff00_ff00_ff00_ff00_ff00_ff00_ff00), // movi v0.2d, #0xff00ff00ff00ff00
        (0x2f04_e420, 0xff00_0000_0000_00ff),                     // movi d0, #0xff000000000000ff
        (0x4f03_f600, 0x3f80_0000_3f80_0000_3f80_0000_3f80_0000), // fmov v0.4s, #1.0
        (0x6f03_f600, 0x3ff0_0000_0000_0000_3ff0_0000_0000_0000), // fmov v0.2d, #1.0
        (0x1e20_1000, 0x4000_0000),                               // fmov s0, #2.0
        (0x1e7f_f000, 0xbff0_0000_0000_0000 + (0xf << 48)),       // fmov d0, #-1.9375
    ];
    for (word, expected) in recorded {
        let mut machine = numbered();
        assert!(machine.run(word), "{word:08x}");
        assert_eq!(machine.v[0], expected, "{word:08x}");
    }
    let mut machine = numbered();
    assert!(machine.run(0x0f00_b7e1), "orr v1.4h, #0x1f, lsl #8");
    assert_eq!(machine.v[1], 0x1f16_1f14_1f12_1f10);
    assert!(machine.run(0x2f00_15e1), "bic v1.2s, #0xf");
    assert_eq!(machine.v[1], 0x1f16_1f10_1f12_1f10);
}

#[test]
fn reductions_cover_all_lanes() {
    let run = |word| {
        let mut machine = numbered();
        assert!(machine.run(word), "{word:08x}");
        machine.v[0]
    };
    let bytes: Vec<u128> = (0x80..0x90).collect();
    let from_8 = |word: u32| run(word & !(31 << 5) | 8 << 5);
    assert_eq!(from_8(0x4e31_b820), bytes.iter().sum::<u128>() & 0xff, "addv b0, v8.16b");
    assert_eq!(from_8(0x6e30_3820), bytes.iter().sum::<u128>(), "uaddlv h0, v8.16b");
    assert_eq!(from_8(0x4e30_3820), (bytes.iter().map(|b| *b as i128 - 256).sum::<i128>() & 0xffff) as u128);
    assert_eq!(from_8(0x6e30_a820), 0x8f, "umaxv");
    assert_eq!(from_8(0x6e31_a820), 0x80, "uminv");
    assert_eq!(from_8(0x0e31_a820), 0x80, "sminv of the low half");
    assert_eq!(from_8(0x0e30_a820), 0x87, "smaxv of the low half");
    // addp d0, v1.2d
    assert_eq!(run(0x5ef1_b820), 0x1f1e_1d1c_1b1a_1918u128 + 0x1716_1514_1312_1110);
}
