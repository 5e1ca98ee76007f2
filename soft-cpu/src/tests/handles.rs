// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reaching a CPU from other threads: kicks, wake-ups, sleep, maintenance between CPUs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::machine::{CODE, DATA, Guest, parts};
use crate::cluster::Maintenance;
use crate::{Exit, Vcpu};

const WFI: u32 = 0xd503_207f;
const LOOP: u32 = 0x1400_0000; // b .

fn runner(code: &[u32]) -> (Vcpu, crate::VcpuParts, std::sync::Arc<super::machine::World>) {
    let (parts, world) = parts(1);
    for (index, word) in (0..).zip(code) {
        parts.ram.write::<2>(CODE + 4 * index, u64::from(*word));
    }
    let mut vcpu = Vcpu::new(0, parts.clone());
    vcpu.start(CODE, 0);
    (vcpu, parts, world)
}

#[test]
fn kick_ends_a_loop_a_wait_and_a_cpu_that_is_off() {
    for code in [Some(LOOP), Some(WFI), None] {
        let (mut vcpu, parts, _) = runner(&[code.unwrap_or(0), LOOP]);
        if code.is_none() {
            vcpu = Vcpu::new(0, parts.clone());
            vcpu.cpu.shared().inbox().power = crate::cluster::Power::Off;
        }
        let handle = parts.cluster.handle(0).unwrap();
        let thread = std::thread::spawn(move || (vcpu.run(), vcpu));
        std::thread::sleep(Duration::from_millis(5));
        let before = Instant::now();
        handle.kick();
        let (exit, mut vcpu) = thread.join().unwrap();
        assert_eq!(exit, Exit::Kicked);
        assert!(before.elapsed() < Duration::from_secs(5));
        // A kick before the run counts too, once.
        handle.kick();
        assert_eq!(vcpu.run(), Exit::Kicked);
    }
}

#[test]
fn waiting_cpu_sleeps_until_its_timer() {
    let code = [
        0xd53b_e040, // mrs x0, cntvct_el0
        0x9154_2400, // add x0, x0, #1289, lsl #12: about 84 ms
        0xd51b_e340, // msr cntv_cval_el0, x0
        0xd280_0021, // mov x1, #1
        0xd51b_e321, // msr cntv_ctl_el0, x1
        WFI,
        0xd2b0_8000, // mov x0, #0x8400_0000
        0xf280_0100, // movk x0, #8 (SYSTEM_OFF)
        0xd400_0002, // hvc #0
    ];
    let (mut vcpu, _, world) = runner(&code);
    let before = Instant::now();
    assert_eq!(vcpu.run(), Exit::PowerOff);
    assert!(before.elapsed() >= Duration::from_millis(80));
    assert!(vcpu.retired() < 100, "it slept: {} operations", vcpu.retired());
    assert_eq!(*world.levels.lock().unwrap(), [(27, true)]);
}

#[test]
fn wake_ends_a_wait_when_the_line_is_high() {
    let code = [WFI, 0xd2b0_8000, 0xf280_0100, 0xd400_0002];
    let (mut vcpu, parts, world) = runner(&code);
    let handle = parts.cluster.handle(0).unwrap();
    let thread = std::thread::spawn(move || vcpu.run());
    std::thread::sleep(Duration::from_millis(5));
    // A wake without a line changes nothing.
    handle.wake();
    std::thread::sleep(Duration::from_millis(5));
    assert!(!thread.is_finished());
    world.line.store(true, Ordering::SeqCst);
    handle.wake();
    assert_eq!(thread.join().unwrap(), Exit::PowerOff);
}

#[test]
fn flush_waits_for_a_running_cpu_and_marks_again() {
    let code = [
        0xd2a8_0021, // mov x1, #0x4001_0000
        0xf900_0020, // str x0, [x1]
        0x17ff_ffff, // b, to the store
    ];
    let (mut vcpu, parts, world) = runner(&code);
    let handle = parts.cluster.handle(0).unwrap();
    let thread = std::thread::spawn(move || vcpu.run());
    let marks = || world.marks.lock().unwrap().len();
    while marks() == 0 {
        std::thread::yield_now();
    }
    for round in 1..20 {
        let before = marks();
        handle.flush_write_tlb();
        let deadline = Instant::now() + Duration::from_secs(10);
        while marks() == before {
            assert!(Instant::now() < deadline, "round {round}: the store after the flush is marked");
            std::thread::yield_now();
        }
    }
    handle.kick();
    assert_eq!(thread.join().unwrap(), Exit::Kicked);
    assert!(world.marks.lock().unwrap().iter().all(|mark| *mark == (DATA, 0x1000)));
}

#[test]
fn maintenance_counts_as_done_while_the_cpu_is_outside_and_is_applied_before_it_runs() {
    let mut guest = Guest::translated();
    let va = 0x12_3456_7000;
    guest.map(va, DATA | super::machine::page::KERNEL);
    guest.set_x(1, va);
    guest.step(0xf940_0020); // ldr x0, [x1]
    let shared = guest.parts.cluster.cpu(0);
    shared.step_outside();
    let ticket = shared.ask(Maintenance::TlbPage(va));
    assert!(shared.is_done(ticket));
    guest.map(va, 0);
    guest.step(0xf940_0020);
    guest.expect_exception(0x25, 0b00_0111, 0x200);
}

#[test]
fn full_queue_becomes_a_flush_of_everything() {
    let guest = Guest::translated();
    let shared = guest.parts.cluster.cpu(0);
    for page in 0..1000 {
        shared.ask(Maintenance::TlbPage(page << 12));
    }
    let mut asked = Vec::new();
    assert!(!shared.look(|what| asked.push(what)), "nobody kicked it");
    assert!(asked.len() <= 70);
    assert!(asked.contains(&Maintenance::TlbAll) && asked.contains(&Maintenance::CodeAll));
}

#[test]
fn unmap_on_one_cpu_is_seen_by_the_other_after_the_barrier() {
    // CPU 1 reads a page all the time; CPU 0 invalidates in the inner shareable domain and waits by DSB. What
    // counts is that the DSB returns and that CPU 1 applied what it was asked.
    let (parts, _) = parts(2);
    let reader = [0xf940_0020, 0x17ff_ffff]; // ldr x0, [x1]; b
    let writer = [
        0xd508_8321, // tlbi vae1is, x1
        0xd503_3b9f, // dsb ish
        0xf100_04c6, // subs x6, x6, #1
        0x54ff_ffa1, // b.ne, to the tlbi
        0xd2b0_8000, // mov x0, #0x8400_0000
        0xf280_0100, // movk x0, #8 (SYSTEM_OFF)
        0xd400_0002, // hvc #0
    ];
    let place = |at: u64, code: &[u32]| {
        for (index, word) in (0..).zip(code) {
            parts.ram.write::<2>(at + 4 * index, u64::from(*word));
        }
    };
    place(CODE, &reader);
    place(CODE + 0x1000, &writer);
    let mut threads = Vec::new();
    for (index, pc) in [(0, CODE + 0x1000), (1, CODE)] {
        let mut vcpu = Vcpu::new(index, parts.clone());
        vcpu.cpu.powered = true;
        vcpu.cpu.shared().inbox().power = crate::cluster::Power::On;
        vcpu.cpu.pc = pc;
        vcpu.cpu.w(1, DATA);
        vcpu.cpu.w(6, 300);
        threads.push(std::thread::spawn(move || vcpu.run()));
    }
    assert_eq!(threads.remove(0).join().unwrap(), Exit::PowerOff);
    parts.cluster.handle(1).unwrap().kick();
    assert_eq!(threads.remove(0).join().unwrap(), Exit::Kicked);
}
