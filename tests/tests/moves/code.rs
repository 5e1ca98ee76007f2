// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the monitor's guest is given to do by itself: code that the test stores in its memory.
//!
//! Interrupts are taken by system registers, pages are filled and summed where a word at a time over the console would
//! take minutes, and CPU 1 works without end. The value that is handed over is in x2, the answer in x6 (see the
//! monitor). Encodings: Arm ARM (DDI 0487) chapter C6; registers of the interrupt controller: IHI 0069 section 12.2.

use std::time::Instant;

use crate::monitor::Monitor;
use crate::support::COMMAND;

/// Where each routine is.
const AREA: u64 = 0x4240_0000;
const SPACING: u64 = 0x100;
/// Switches the interrupt interface of this CPU on.
pub const SET_UP: u64 = AREA;
/// Acknowledges the interrupt that is pending: its INTID.
pub const ACKNOWLEDGE: u64 = AREA + SPACING;
/// Ends the interrupt of this INTID.
pub const END: u64 = AREA + 2 * SPACING;
/// Fills the page at bits 31:0 with what follows from bits 63:32.
pub const FILL: u64 = AREA + 3 * SPACING;
/// The sum of a page.
pub const SUM: u64 = AREA + 4 * SPACING;
/// The guest's counter (CNTVCT_EL0).
pub const COUNTER: u64 = AREA + 7 * SPACING;
/// Switches CPU 1 on: at bits 31:0, with bits 63:32 in its x0.
const START: u64 = AREA + 5 * SPACING;
/// What CPU 1 does.
const WORKER: u64 = AREA + 6 * SPACING;

/// What it works on: where it posts to, its first page, whether it is to stop; and its answer.
const ORDERS: u64 = AREA + 0x1000;
const STOP: u64 = ORDERS + 16;
const STOPPED: u64 = ORDERS + 24;
const FIRST_PAGE: u64 = 0x4280_0000;
/// Pages that CPU 1 adds the number of its round to, in each round.
pub const WORKER_PAGE_COUNT: u64 = 64;

const WORDS: u32 = 512;
const FACTOR: u64 = 0x1b3;

const SETUP_CODE: [u32; 9] = [
    0xd280_00e4, // mov x4, #0x7
    0xd518_cca4, // msr icc_sre_el1, x4
    0xd503_3fdf, // isb
    0xd280_1e04, // mov x4, #0xf0
    0xd518_4604, // msr icc_pmr_el1, x4
    0xd280_0024, // mov x4, #0x1
    0xd518_cce4, // msr icc_igrpen1_el1, x4
    0xd503_3fdf, // isb
    0xd65f_03c0, // ret
];

const ACK_CODE: [u32; 3] = [
    0xd538_cc06, // mrs x6, icc_iar1_el1
    0xd503_3f9f, // dsb sy
    0xd65f_03c0, // ret
];

const END_CODE: [u32; 3] = [
    0xd518_cc22, // msr icc_eoir1_el1, x2
    0xd503_3fdf, // isb
    0xd65f_03c0, // ret
];

const FILL_CODE: [u32; 11] = [
    0x2a02_03e9, // mov w9, w2
    0xd360_fc48, // lsr x8, x2, #32
    0xd280_4007, // mov x7, #0x200
    0xca08_3508, // eor x8, x8, x8, lsl #13
    0xca48_1d08, // eor x8, x8, x8, lsr #7
    0xca08_4508, // eor x8, x8, x8, lsl #17
    0xf800_8528, // str x8, [x9], #8
    0xf100_04e7, // subs x7, x7, #0x1
    0x54ff_ff61, // b.ne 48 <fill+0xc>
    0xaa08_03e6, // mov x6, x8
    0xd65f_03c0, // ret
];

const SUM_CODE: [u32; 9] = [
    0x2a02_03e9, // mov w9, w2
    0xd280_4007, // mov x7, #0x200
    0xd280_0006, // mov x6, #0x0
    0xd280_366a, // mov x10, #0x1b3
    0xf840_8528, // ldr x8, [x9], #8
    0x9b0a_20c6, // madd x6, x6, x10, x8
    0xf100_04e7, // subs x7, x7, #0x1
    0x54ff_ffa1, // b.ne 78 <sum+0x10>
    0xd65f_03c0, // ret
];

const START_CODE: [u32; 12] = [
    0xaa01_03ea, // mov x10, x1
    0xaa03_03eb, // mov x11, x3
    0xd360_fc43, // lsr x3, x2, #32
    0x2a02_03e2, // mov w2, w2
    0xd280_0060, // mov x0, #0x3
    0xf2b8_8000, // movk x0, #0xc400, lsl #16
    0xd280_0021, // mov x1, #0x1
    0xd400_0002, // hvc #0x0
    0xaa00_03e6, // mov x6, x0
    0xaa0a_03e1, // mov x1, x10
    0xaa0b_03e3, // mov x3, x11
    0xd65f_03c0, // ret
];

const COUNTER_CODE: [u32; 3] = [
    0xd503_3fdf, // isb
    0xd53b_e046, // mrs x6, cntvct_el0
    0xd65f_03c0, // ret
];

const WORKER_CODE: [u32; 19] = [
    0xaa00_03e1, // mov x1, x0
    0xf940_0022, // ldr x2, [x1]
    0xf940_0423, // ldr x3, [x1, #8]
    0xd280_0004, // mov x4, #0x0
    0x9100_0484, // add x4, x4, #0x1
    0xd280_0005, // mov x5, #0x0
    0x8b05_3066, // add x6, x3, x5, lsl #12
    0xf940_00c7, // ldr x7, [x6]
    0x8b04_00e7, // add x7, x7, x4
    0xf900_00c7, // str x7, [x6]
    0x9100_04a5, // add x5, x5, #0x1
    0xf101_00bf, // cmp x5, #0x40
    0x54ff_ff41, // b.ne d4 <worker+0x18>
    0xb900_0044, // str w4, [x2]
    0xf940_0827, // ldr x7, [x1, #16]
    0xb4ff_fea7, // cbz x7, cc <worker+0x10>
    0xf900_0c24, // str x4, [x1, #24]
    0xd503_207f, // wfi
    0x17ff_ffff, // b 100 <worker+0x44>
];

/// Puts all of it where it belongs.
pub fn write(m: &mut Monitor) {
    let routines: [(u64, &[u32]); 8] = [
        (SET_UP, &SETUP_CODE),
        (ACKNOWLEDGE, &ACK_CODE),
        (END, &END_CODE),
        (FILL, &FILL_CODE),
        (SUM, &SUM_CODE),
        (START, &START_CODE),
        (WORKER, &WORKER_CODE),
        (COUNTER, &COUNTER_CODE),
    ];
    for (at, words) in routines {
        for (index, word) in words.iter().enumerate() {
            m.store32(at + 4 * index as u64, *word);
        }
    }
}

/// What [`SUM`] says of a page that [`FILL`] has filled.
pub fn sum_of(seed: u64) -> u64 {
    let (mut value, mut sum) = (seed, 0_u64);
    for _ in 0..WORDS {
        // xorshift64 (Marsaglia).
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        sum = sum.wrapping_mul(FACTOR).wrapping_add(value);
    }
    sum
}

/// Has CPU 1 work: in each round it adds to each of its pages, and then posts the round's number to `posts_to`.
pub fn start_worker(m: &mut Monitor, posts_to: u64) {
    m.store64(ORDERS, posts_to);
    m.store64(ORDERS + 8, FIRST_PAGE);
    // PSCI: SUCCESS.
    assert_eq!(m.call(START, WORKER | ORDERS << 32), 0);
}

/// Lets CPU 1 end its round, and rest: how many there were.
pub fn stop_worker(m: &mut Monitor) -> u64 {
    m.store64(STOP, 1);
    let until = Instant::now() + COMMAND;
    loop {
        match m.load64(STOPPED) {
            0 => assert!(Instant::now() < until, "CPU 1 goes on"),
            rounds => return rounds,
        }
    }
}

/// The first word of each of its pages.
pub fn worker_pages() -> impl Iterator<Item = u64> {
    (0..WORKER_PAGE_COUNT).map(|page| FIRST_PAGE + page * 0x1000)
}
