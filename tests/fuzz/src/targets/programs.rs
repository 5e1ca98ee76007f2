// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeds for the targets whose input is a program: a few that get somewhere, for mutations to start from.
//!
//! The forms are those that the drivers describe. A seed that stops making sense does not
//! fail, it only helps less; the counts of inputs that a run prints do not show that, so keep them in step.

use std::iter;

/// One operation of the SMMU target: code, size, offset or register number, value.
fn smmu_operation(code: u8, size: u8, place: u32, value: u64) -> Vec<u8> {
    [&[code, size][..], &place.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// Programs of register accesses: each register in turn, queues set up and stepped, state saved in between.
pub fn smmu() -> Vec<Vec<u8>> {
    const WRITE_KNOWN: u8 = 0;
    const WRITE_ANYWHERE: u8 = 2;
    const WRITE_MEMORY: u8 = 3;
    const STEP: u8 = 4;
    const SAVE: u8 = 5;
    // Offsets: CR0, STRTAB_BASE(_CFG), CMDQ_BASE/PROD, EVENTQ_BASE, as in IHI 0070 section 6.3.
    let bring_up = [
        smmu_operation(WRITE_ANYWHERE, 8, 0x80, 0x1000),
        smmu_operation(WRITE_ANYWHERE, 4, 0x88, 0x4),
        smmu_operation(WRITE_ANYWHERE, 8, 0x90, 0x2000 | 5),
        smmu_operation(WRITE_ANYWHERE, 8, 0xa0, 0x4000 | 5),
        smmu_operation(WRITE_ANYWHERE, 4, 0x20, 0xd),
        // CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL and CMD_SYNC in the first slots of the command queue.
        smmu_operation(WRITE_MEMORY, 8, 0x2000, 0x04),
        smmu_operation(WRITE_MEMORY, 8, 0x2008, 0x1f),
        smmu_operation(WRITE_MEMORY, 8, 0x2010, 0x30),
        smmu_operation(WRITE_MEMORY, 8, 0x2020, 0x46),
        smmu_operation(WRITE_ANYWHERE, 4, 0x98, 3),
        smmu_operation(STEP, 0, 0, 0),
        smmu_operation(SAVE, 0, 0, 0),
        smmu_operation(WRITE_ANYWHERE, 4, 0x98, 0x20),
        smmu_operation(STEP, 0, 0, 0),
    ]
    .concat();
    let every_register: Vec<u8> =
        (0..96).flat_map(|register| smmu_operation(WRITE_KNOWN, 0xff, register, u64::MAX)).collect();
    vec![bring_up.clone(), every_register.clone(), [bring_up, every_register].concat()]
}

/// Programs of accesses to the interrupt controller: enabling all of it, then interrupts of each kind.
pub fn gic() -> Vec<Vec<u8>> {
    // Operation, log2 of the size, then what the operation takes; values below 12 choose a known one.
    let enable = [[0, 2, 0, 0, 2], [0, 2, 1, 0x84, 2], [0, 2, 0, 0x84, 2], [6, 2, 0, 0, 1]].concat();
    let queues = [[6, 3, 0, 0x80, 5], [6, 3, 1, 0, 6], [6, 3, 1, 8, 7], [6, 3, 0, 0x88, 10]].concat();
    let raise = [[13, 0, 33, 14, 0], [1, 2, 11, 0, 34], [10, 0, 0, 0x60, 99], [14, 0, 1, 1, 15]].concat();
    let mixed: Vec<u8> = (0..400u32).map(|at| (at * 37 % 251) as u8).collect();
    vec![enable.clone(), [enable.clone(), queues.clone()].concat(), [enable, queues, raise].concat(), mixed]
}

/// Code: 32 bytes of set-up, then instruction words of every large class.
pub fn a64() -> Vec<Vec<u8>> {
    const CLASSES: [&[u32]; 6] = [
        // add, subs, madd, udiv, extr, csel, ccmp, rbit
        &[
            0x8b02_0020,
            0xeb02_0c20,
            0x9b02_0c20,
            0x9ac2_0820,
            0x93c2_4c20,
            0x9a82_1020,
            0xfa42_1020,
            0xdac0_0020,
        ],
        // ldr, str, ldp, stp, ldrsw, ldur, ldr (register), prfm
        &[
            0xf940_0420,
            0xf900_0420,
            0xa940_8c20,
            0xa900_8c20,
            0xb980_0420,
            0xf85f_8020,
            0xf862_6820,
            0xf980_0020,
        ],
        // ldxr, stxr, ldaxr, stlxr, ldar, stlr, ldaxp, clrex
        &[
            0xc85f_7c20,
            0xc802_7c23,
            0xc85f_fc20,
            0xc802_fc23,
            0xc8df_fc20,
            0xc89f_fc20,
            0xc87f_8c20,
            0xd503_3f5f,
        ],
        // b, bl, cbz, tbz, b.ne, blr, ret, svc
        &[
            0x1400_0002,
            0x9400_0002,
            0xb400_0040,
            0x3600_0040,
            0x5400_0041,
            0xd63f_0020,
            0xd65f_03c0,
            0xd400_0001,
        ],
        // mrs, msr, tlbi, dc zva, ic ivau, eret, wfi, hvc
        &[
            0xd538_1000,
            0xd518_1000,
            0xd508_871f,
            0xd50b_7420,
            0xd50b_7520,
            0xd69f_03e0,
            0xd503_207f,
            0xd400_0002,
        ],
        // fadd, fmadd, fcvtzs, ldr q, cmeq, ld1, umaxp, dup
        &[
            0x1e62_2820,
            0x1f42_0c20,
            0x9e78_0020,
            0x3dc0_0020,
            0x6e22_8c20,
            0x4c40_7020,
            0x6e22_a420,
            0x4e01_0c20,
        ],
    ];
    let setup: Vec<u8> = (1..=32).collect();
    let program = |words: &[u32]| -> Vec<u8> {
        setup.iter().copied().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
    };
    let all: Vec<u32> = CLASSES.concat();
    CLASSES.iter().map(|words| program(words)).chain(iter::once(program(&all))).collect()
}
