// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! WFE: what it waits for, what ends the wait, and that it sleeps meanwhile.

use std::time::{Duration, Instant};

use super::machine::{CODE, DATA, Guest, parts};
use crate::wait::Wait;
use crate::{Exit, Vcpu};

const WFE: u32 = 0xd503_205f;
const SEV: u32 = 0xd503_209f;
const SEVL: u32 = 0xd503_20bf;
const LDXR: u32 = 0xc85f_7c20; // ldxr x0, [x1]
const LDXP: u32 = 0xc87f_1020; // ldxp x0, x4, [x1]

fn waits(guest: &Guest) -> bool {
    matches!(guest.vcpu.cpu.wait, Wait::Event { .. })
}

#[test]
fn event_register_ends_one_wait() {
    for event in [SEV, SEVL] {
        let mut guest = Guest::new();
        guest.run(&[event, WFE]);
        assert!(!waits(&guest), "the event was there already");
        guest.step(WFE);
        assert!(waits(&guest), "it was used up");
        assert!(!guest.vcpu.cpu.wait_is_over(false));
        guest.vcpu.cpu.shared().send_event();
        assert!(guest.vcpu.cpu.wait_is_over(false));
        assert!(!guest.vcpu.cpu.wait_is_over(false), "it was used up too");
    }
}

#[test]
fn store_to_what_the_monitor_holds_is_an_event() {
    for (load, at) in [(LDXR, DATA), (LDXP, DATA), (LDXP, DATA + 8)] {
        let mut guest = Guest::translated();
        guest.set_x(1, DATA);
        guest.run(&[load, WFE]);
        assert!(waits(&guest) && !guest.vcpu.cpu.wait_is_over(false));
        guest.write(DATA + 16, 1);
        assert!(!guest.vcpu.cpu.wait_is_over(false), "that is another location");
        guest.write(at, 1);
        assert!(guest.vcpu.cpu.wait_is_over(false));
        assert!(guest.vcpu.cpu.monitor.held().is_none());
        // One that came between the load and the wait.
        guest.step(load);
        guest.write(at, 2);
        guest.step(WFE);
        assert!(!waits(&guest));
    }
}

#[test]
fn interrupt_ends_a_wait_for_events_unless_it_is_masked() {
    let mut guest = Guest::new();
    guest.step(WFE);
    assert!(!guest.vcpu.cpu.wait_is_over(true), "it is masked");
    guest.vcpu.cpu.daif = 0;
    assert!(guest.vcpu.cpu.wait_is_over(true));
    guest.vcpu.cpu.daif = 0xf;
    guest.vcpu.cpu.wait_for_interrupt();
    assert!(guest.vcpu.cpu.wait_is_over(true), "WFI does not ask for the mask");
}

#[test]
fn event_stream_bounds_the_wait() {
    let mut guest = Guest::new();
    guest.vcpu.cpu.sys.cntkctl = 1 << 2 | 10 << 4;
    let before = guest.parts.clock.ticks();
    guest.step(WFE);
    let Wait::Event { until, .. } = guest.vcpu.cpu.wait else { panic!("it waits") };
    let after = guest.parts.clock.ticks();
    assert!(until > before && until <= after + 2048, "{before} {until} {after}");
    assert_eq!(until % 2048, 1024, "at a rising edge of bit 10");
}

#[test]
fn waiting_cpu_sleeps_and_looks_now_and_then() {
    let (parts, _) = parts(2);
    let code = [
        WFE,
        0x9100_04e7, // add x7, x7, #1
        0xf900_0067, // str x7, [x3]
        0x17ff_fffd, // b, to the wfe
    ];
    for (index, word) in (0..).zip(&code) {
        parts.ram.write::<2>(CODE + 4 * index, u64::from(*word));
    }
    let mut vcpu = Vcpu::new(1, parts.clone());
    vcpu.start(CODE, 0);
    vcpu.cpu.shared().set_event(false);
    let start = Instant::now();
    let handle = parts.cluster.handle(1).unwrap();
    let thread = std::thread::spawn(move || {
        vcpu.cpu.w(3, DATA);
        (vcpu.run(), start.elapsed(), vcpu)
    });
    std::thread::sleep(Duration::from_millis(100));
    handle.kick();
    let (exit, elapsed, vcpu) = thread.join().unwrap();
    assert_eq!(exit, Exit::Kicked);
    let turns = u128::from(vcpu.retired()) / code.len() as u128;
    assert!(turns <= elapsed.as_millis() / 10 + 2, "{turns} turns in {elapsed:?}: it does not sleep");
}

#[test]
fn sent_event_ends_a_sleep_that_has_no_other_end() {
    let (parts, _) = parts(1);
    let cluster = parts.cluster;
    let sleeper = {
        let cluster = std::sync::Arc::clone(&cluster);
        std::thread::spawn(move || {
            while !cluster.cpu(0).take_event() {
                cluster.cpu(0).park(true, None);
            }
        })
    };
    cluster.cpu(0).send_event();
    sleeper.join().unwrap();
}
