// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CRC32B/H/W/X and CRC32CB/CH/CW/CX (FEAT_CRC32), by a table of one byte each.

use crate::cpu::Cpu;
use crate::op::{Handler, Op, bit, bits, dest};

/// The polynomials 0x04C11DB7 and 0x1EDC6F41, bits reversed.
const POLYNOMIALS: [u32; 2] = [0xedb8_8320, 0x82f6_3b78];

static TABLES: [[u32; 256]; 2] = [table(POLYNOMIALS[0]), table(POLYNOMIALS[1])];

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut step = 0;
        while step < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
            step += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

pub(super) fn decode(word: u32) -> Option<Op> {
    let size = bits(word, 11, 10);
    if bit(word, 31) != (size == 3) {
        return None;
    }
    let run: Handler = if bit(word, 12) { checksum::<1> } else { checksum::<0> };
    let mut op = Op::new(word, run);
    op.d = dest(op.d);
    op.a = 1 << size;
    Some(op)
}

fn checksum<const TABLE: usize>(cpu: &mut Cpu, op: &Op) {
    let mut crc = cpu.r(op.n) as u32;
    for byte in cpu.r(op.m).to_le_bytes().into_iter().take(usize::from(op.a)) {
        crc = crc >> 8 ^ TABLES[TABLE][usize::from(crc as u8 ^ byte)];
    }
    cpu.w(op.d, u64::from(crc));
}
