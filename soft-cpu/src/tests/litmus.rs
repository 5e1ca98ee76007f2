// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two CPUs on two threads, a million rounds each in the full run: what the architecture forbids is never seen, and
//! what it allows shows that the rounds are tight enough to see it.
//!
//! In each round both CPUs meet, do their two accesses, and meet again; then CPU 0 counts the outcome and clears the
//! locations. The shapes that no x86-64 host can show are `order/tests.rs`'s and the models'.

use std::time::{Duration, Instant};

use super::machine::{CODE, DATA, NOP, parts};
use crate::cluster::Power;
use crate::cpu::Cpu;
use crate::{Exit, Vcpu, VcpuParts};

/// For a host that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(200);

/// The two locations, on lines of their own; each CPU's count of meetings; its result; the counts of outcomes.
const X: u64 = DATA;
const Y: u64 = DATA + 0x100;
const MEETINGS: [u64; 2] = [DATA + 0x200, DATA + 0x300];
const RESULTS: [u64; 2] = [DATA + 0x400, DATA + 0x500];
const OUTCOMES: u64 = DATA + 0x1000;

/// A few looks are tight; then the host's core is given away, for it may be the only one.
const MEET: [u32; 10] = [
    0x9100_0508, // add x8, x8, #1
    0xc89f_fc48, // stlr x8, [x2]
    0xd280_080c, // mov x12, #64
    0xc8df_fc69, // ldar x9, [x3]
    0xeb08_013f, // cmp x9, x8
    0x5400_00aa, // b.ge, past the last
    0xd100_058c, // sub x12, x12, #1
    0xb6ff_ff8c, // tbz x12, #63, to the ldar
    0xd503_203f, // yield
    0x17ff_fffa, // b, to the ldar
];
const COUNT: [u32; 16] = [
    0xb400_01a7, // cbz x7, to the subs
    0xf940_00aa, // ldr x10, [x5]
    0xf940_00cb, // ldr x11, [x6]
    0xf940_000c, // ldr x12, [x0]
    0xf940_002d, // ldr x13, [x1]
    0x8b0b_094a, // add x10, x10, x11, lsl #2
    0x8b0c_114a, // add x10, x10, x12, lsl #4
    0x8b0d_194a, // add x10, x10, x13, lsl #6
    0xf86a_78eb, // ldr x11, [x7, x10, lsl #3]
    0x9100_056b, // add x11, x11, #1
    0xf82a_78eb, // str x11, [x7, x10, lsl #3]
    0xf900_001f, // str xzr, [x0]
    0xf900_003f, // str xzr, [x1]
    0xf100_0484, // subs x4, x4, #1
    BACK,
    0xf900_0448, // str x8, [x2, #8]: done
];
/// b.ne, to the start: past both meetings, the part, and what of `COUNT` comes before.
const BACK: u32 = 0x5400_0001 | ((0x8_0000 - (2 * 10 + 4 + 1 + 14)) & 0x7_ffff) << 5;
const KEEP: u32 = 0xf900_00aa; // str x10, [x5]
const WAIT: [u32; 2] = [0xd503_207f, 0x17ff_ffff]; // wfi; b, to the wfi

const STR_X: u32 = 0xf900_000e; // str x14, [x0]
const STR_Y: u32 = 0xf900_002e;
const STLR_X: u32 = 0xc89f_fc0e; // stlr x14, [x0]
const STLR_Y: u32 = 0xc89f_fc2e;
const LDR_X: u32 = 0xf940_000a; // ldr x10, [x0]
const LDR_Y: u32 = 0xf940_002a;
const LDAR_X: u32 = 0xc8df_fc0a; // ldar x10, [x0]
const LDAR_Y: u32 = 0xc8df_fc2a;
const SWPAL_X: u32 = 0xf8ee_800f; // swpal x14, x15, [x0]
const SWPAL_Y: u32 = 0xf8ee_802f;
const DMB: u32 = 0xd503_3bbf; // dmb ish
const ZERO: u32 = 0xd280_000a; // mov x10, #0

/// A million in the full run, else fewer.
fn rounds() -> u64 {
    if std::env::var_os("BULKHEAD_FULL_RUN").is_some() { 1_000_000 } else { 100_000 }
}

/// Runs one program on each of two CPUs until `is_done`, and returns the machine.
fn run_both(
    programs: [&[u32]; 2],
    setup: impl Fn(&mut Cpu, usize),
    prepare: impl Fn(&VcpuParts),
    is_done: impl Fn(&VcpuParts) -> bool,
) -> VcpuParts {
    let (parts, _) = parts(2);
    prepare(&parts);
    let threads: Vec<_> = (0..2)
        .map(|index| {
            let entry = CODE + 0x2000 * index as u64;
            for (word, at) in programs[index].iter().chain(&WAIT).zip((entry..).step_by(4)) {
                parts.ram.write::<2>(at, u64::from(*word));
            }
            let mut vcpu = Vcpu::new(index, parts.clone());
            vcpu.cpu.powered = true;
            vcpu.cpu.shared().inbox().power = Power::On;
            vcpu.cpu.pc = entry;
            setup(&mut vcpu.cpu, index);
            std::thread::spawn(move || vcpu.run())
        })
        .collect();
    let start = Instant::now();
    while !is_done(&parts) && start.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(2));
    }
    let done = is_done(&parts);
    (0..2).filter_map(|vcpu| parts.cluster.handle(vcpu)).for_each(|handle| handle.kick());
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Exit::Kicked));
    assert!(done, "the CPUs did not come to their end");
    parts
}

/// What a round ended with.
#[derive(Clone, Copy)]
struct Outcome {
    results: [u64; 2],
    y: u64,
}

/// How many of the rounds ended with `outcome`. CPU 0 stores ones, CPU 1 twos.
fn seen(parts_of_both: [[u32; 4]; 2], outcome: impl Fn(Outcome) -> bool) -> u64 {
    let programs = parts_of_both.map(|own| [&MEET[..], &own, &[KEEP], &MEET, &COUNT].concat());
    let rounds = rounds();
    let machine = run_both(
        [&programs[0], &programs[1]],
        |cpu, index| {
            let values =
                [X, Y, MEETINGS[index], MEETINGS[1 - index], rounds, RESULTS[index], RESULTS[1 - index]];
            values.into_iter().zip(0..).for_each(|(value, slot)| cpu.w(slot, value));
            cpu.w(7, if index == 0 { OUTCOMES } else { 0 });
            cpu.w(14, 1 + index as u64);
        },
        |_| (),
        |parts| MEETINGS.iter().all(|done| parts.ram.read::<3>(*done + 8) == Some(2 * rounds)),
    );
    let count = |key: u64| machine.ram.read::<3>(OUTCOMES + 8 * key).unwrap();
    assert_eq!((0..256).map(count).sum::<u64>(), rounds, "every round was counted");
    let fits = |key: &u64| outcome(Outcome { results: [key & 3, key >> 2 & 3], y: key >> 6 });
    (0..256).filter(fits).map(count).sum()
}

fn both_zero(outcome: Outcome) -> bool {
    outcome.results == [0, 0]
}

/// CPU 1 overwrote Y and does not see what CPU 0 wrote before it.
fn r(outcome: Outcome) -> bool {
    outcome.y == 2 && outcome.results[1] == 0
}

#[test]
fn store_buffering_is_seen_without_order_and_never_with_it() {
    let plain = seen([[STR_X, LDR_Y, NOP, NOP], [STR_Y, LDR_X, NOP, NOP]], both_zero);
    println!("store buffering without order: {plain} of {} rounds", rounds());
    if plain == 0 {
        println!("SKIPPED: that the rounds are tight: this host has reordered nothing in them");
    }
    assert_eq!(seen([[STR_X, DMB, LDR_Y, NOP], [STR_Y, DMB, LDR_X, NOP]], both_zero), 0, "DMB");
    assert_eq!(seen([[STLR_X, LDAR_Y, NOP, NOP], [STLR_Y, LDAR_X, NOP, NOP]], both_zero), 0, "STLR, LDAR");
    assert_eq!(seen([[SWPAL_X, LDR_Y, NOP, NOP], [SWPAL_Y, LDR_X, NOP, NOP]], both_zero), 0, "SWPAL");
}

#[test]
fn r_is_never_seen_with_order() {
    let plain = seen([[STR_X, STR_Y, ZERO, NOP], [STR_Y, LDR_X, NOP, NOP]], r);
    println!("R without order: {plain} of {} rounds", rounds());
    assert_eq!(seen([[STR_X, DMB, STR_Y, ZERO], [STR_Y, DMB, LDR_X, NOP]], r), 0, "DMB");
    assert_eq!(seen([[STR_X, STLR_Y, ZERO, NOP], [STLR_Y, LDAR_X, NOP, NOP]], r), 0, "STLR, LDAR");
}

/// Each CPU repeats its body for all rounds, with X in x1; the sixteen bytes there, which began with `low`.
fn after_all(bodies: [&[u32]; 2], low: u64) -> (u64, u64) {
    let programs = bodies.map(|body| {
        let back = 0x5400_0001 | ((0x8_0000 - body.len() as u32 - 1) & 0x7_ffff) << 5;
        // subs x6, x6, #1; b.ne, to the start; str x8, [x7]
        [body, &[0xf100_04c6, back, 0xf900_00e8]].concat()
    });
    let machine = run_both(
        [&programs[0], &programs[1]],
        |cpu, index| {
            let lock_and_one = [(1, X), (6, rounds()), (7, RESULTS[index]), (8, 1), (9, 1), (10, Y)];
            lock_and_one.into_iter().for_each(|(slot, value)| cpu.w(slot, value));
        },
        |parts| assert!(parts.ram.write::<3>(X, low)),
        |parts| RESULTS.iter().all(|result| parts.ram.read::<3>(*result) == Some(1)),
    );
    (machine.ram.read::<3>(X).unwrap(), machine.ram.read::<3>(X + 8).unwrap())
}

#[test]
fn exclusive_updates_of_two_cpus_are_all_counted() {
    let rounds = rounds();
    let exclusive = [
        0xc85f_7c20, // ldxr x0, [x1]
        0x9100_0403, // add x3, x0, #1
        0xc802_7c23, // stxr w2, x3, [x1]
        0x35ff_ffa2, // cbnz w2, to the ldxr
    ];
    assert_eq!(after_all([&exclusive, &exclusive], 0).0, 2 * rounds, "LDXR, STXR");
    let add = [
        0xd280_0023, // mov x3, #1
        0xf823_0020, // ldadd x3, x0, [x1]
    ];
    assert_eq!(after_all([&exclusive, &add], 0).0, 2 * rounds, "STXR beside LDADD");
    let locked = [
        0x885f_fd40, // ldaxr w0, [x10]
        0x35ff_ffe0, // cbnz w0, to the ldaxr
        0x8802_7d49, // stxr w2, w9, [x10]
        0x35ff_ffa2, // cbnz w2, to the ldaxr
        0xf940_0023, // ldr x3, [x1]
        0x9100_0463, // add x3, x3, #1
        0xf900_0023, // str x3, [x1]
        0x889f_fd5f, // stlr wzr, [x10]
    ];
    assert_eq!(after_all([&locked, &locked], 0).0, 2 * rounds, "a lock of exclusives and a release");
}

#[test]
fn updates_of_pairs_by_two_cpus_are_never_torn() {
    let rounds = rounds();
    // The low half overflows half-way: a torn pair loses or doubles the carry.
    let low = 0u64.wrapping_sub(rounds);
    let exclusive = [
        0xc87f_1020, // ldxp x0, x4, [x1]
        0xb100_0403, // adds x3, x0, #1
        0x9a1f_0085, // adc x5, x4, xzr
        0xc822_1423, // stxp w2, x3, x5, [x1]
        0x35ff_ff82, // cbnz w2, to the ldxp
    ];
    assert_eq!(after_all([&exclusive, &exclusive], low), (rounds, 1), "LDXP, STXP");
    let swap = [
        0xaa0c_03e2, // mov x2, x12
        0xaa0d_03e3, // mov x3, x13
        0xb100_0444, // adds x4, x2, #1
        0x9a1f_0065, // adc x5, x3, xzr
        0x4862_fc24, // caspal x2, x3, x4, x5, [x1]
        0xeb0c_005f, // cmp x2, x12
        0xfa4d_0060, // ccmp x3, x13, #0, eq
        0xaa02_03ec, // mov x12, x2
        0xaa03_03ed, // mov x13, x3
        0x54ff_fee1, // b.ne, to the start
        0xaa04_03ec, // mov x12, x4
        0xaa05_03ed, // mov x13, x5
    ];
    assert_eq!(after_all([&swap, &exclusive], low), (rounds, 1), "CASP beside STXP");
    let add = [
        0xd280_0023, // mov x3, #1
        0xf823_0020, // ldadd x3, x0, [x1]
    ];
    assert_eq!(after_all([&swap, &add], 0), (2 * rounds, 0), "CASP beside LDADD of its half");
}
