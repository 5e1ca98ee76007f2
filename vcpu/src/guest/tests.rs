// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine that is saved while its devices signal, and the one that goes on: each signal is in one of them, once.
//! And one whose SMMU is late: it is held, and its time with it.

mod late_smmu;

use super::*;
use crate::interrupts::intx::Pin;
use crate::interrupts::vectors::Vectors;
use crate::soft::{SavedSoft, Soft};
use ipc::addr::Gpa;
use ipc::doorbell::{self, Doorbell, Ringer};
use ipc::protocol::inspect::Value;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use machine::layout::RAM_BASE;
use std::time::Instant;

const RAM_LEN: u64 = 2 << 20;
/// Not one of this process's own devices.
const WIRE: u32 = SPI_BASE + 3;
const LINE: u32 = SPI_BASE + 9;

/// The devices' ends.
struct Devices {
    wire: Ringer,
    board: MsiBoard,
    messages: Ringer,
    pin: Ringer,
    pin_ended: Doorbell,
}

/// What a machine is made of, and what its devices hold. What they share is made anew: another host's.
fn parts() -> (Parts<Soft>, Devices) {
    let region = RamRegion { gpa: Gpa(RAM_BASE), len: RAM_LEN, file_offset: 0 };
    let layout = RamLayout::new(vec![region]).unwrap();
    let ram = guest_memory::map(&Region::create("ram", RAM_LEN).unwrap(), &layout).unwrap();
    let log = DirtyLog::attach(&DirtyLog::create("log", &layout).unwrap(), &layout).unwrap();
    let [wire, messages, pin, ended] = [(); 4].map(|()| doorbell::pair().unwrap());
    let board = MsiBoard::attach(&MsiBoard::create("board").unwrap()).unwrap();
    let engine = EngineParts {
        vcpu_count: 2,
        pmu: true,
        ram: Arc::new(ram),
        register_pages: None,
        dirty: Arc::new(log),
        pins: Arc::new(Pins::new(vec![Pin { raised: pin.1, ended: ended.0, intid: LINE }])),
        vectors: Arc::new(Vectors::new(false)),
    };
    let (console, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let boards = vec![Board { board: board.clone(), doorbell: messages.1, device_id: 8 }];
    let parts = Parts {
        engine,
        host: (),
        console: console.into(),
        remotes: vec![],
        wires: vec![Wire { doorbell: wire.1, intid: WIRE }],
        boards,
        links: vec![],
    };
    (parts, Devices { wire: wire.0, board, messages: messages.0, pin: pin.0, pin_ended: ended.1 })
}

fn launched(parts: Parts<Soft>, saved: Option<&SavedMachine<SavedSoft>>) -> Guest<Soft> {
    let guest = Guest::new(parts, saved).unwrap();
    guest.launch(&Events::none()).unwrap();
    guest
}

/// Signals that wait outside of the interrupt controller: messages, and wires and pins.
fn waiting(guest: &Guest<Soft>) -> [u64; 2] {
    let mut inspect = Inspect::new();
    guest.inspect(&mut inspect);
    ["messages.waiting", "wires.waiting"].map(|name| match inspect.get(name) {
        Some(Value::Counter(count)) => *count,
        other => panic!("{name} is {other:?}"),
    })
}

/// Whether the wire's edge is pending, and whether the pin's line is high.
fn pending(saved: &SavedMachine<SavedSoft>) -> (bool, bool) {
    let word = &saved.engine.gic.distributor.spis.words[0];
    let bit = |bits: u32, intid: u32| bits >> (intid - SPI_BASE) & 1 == 1;
    (bit(word.latch, WIRE), bit(word.line, LINE))
}

#[test]
fn signals_between_the_pause_and_the_save_are_in_the_state_once_and_wait_nowhere() {
    // As a driver has set it up: the wire's interrupt is an edge.
    let fresh = launched(parts().0, None);
    let mut configured = fresh.save().unwrap();
    configured.engine.gic.distributor.spis.words[0].edge |= 1 << (WIRE - SPI_BASE);
    fresh.quit();
    let (parts_here, devices) = parts();
    let guest = launched(parts_here, Some(&configured));
    guest.resume().unwrap();
    assert!(devices.pin_ended.take(), "a loaded machine asks for every pin");
    guest.pause().unwrap();
    let before = guest.save().unwrap();
    assert_eq!((pending(&before), waiting(&guest)), ((false, false), [0, 0]));
    // The devices pause after the CPUs.
    devices.wire.ring();
    assert!(devices.board.post(3));
    devices.messages.ring();
    devices.pin.ring();
    assert_eq!(waiting(&guest), [1, 2]);
    let saved = guest.save().unwrap();
    assert_eq!((pending(&saved), waiting(&guest)), ((true, true), [0, 0]));
    assert_eq!(guest.save().unwrap(), saved, "once");

    // Who goes on has them, and asks every function whether its pin is still asserted.
    let (parts_there, there) = parts();
    let next = launched(parts_there, Some(&saved));
    assert_eq!(next.save().unwrap(), saved);
    assert!(!there.pin_ended.take(), "nothing moves before it is let go");
    next.resume().unwrap();
    assert!(there.pin_ended.take());
    next.pause().unwrap();
    assert_eq!((pending(&next.save().unwrap()), waiting(&next)), ((true, true), [0, 0]));
    next.quit();

    // If the move fails the first one goes on with the same; its functions know their lines.
    guest.resume().unwrap();
    guest.pause().unwrap();
    assert_eq!(pending(&guest.save().unwrap()), (true, true));
    assert!(!devices.pin_ended.take());
    guest.quit();
}

/// What the CPUs have executed.
fn instructions(guest: &Guest<Soft>) -> u64 {
    let mut inspect = Inspect::new();
    guest.inspect(&mut inspect);
    let each = ["vcpu0.instructions", "vcpu1.instructions"].map(|name| match inspect.get(name) {
        Some(Value::Counter(count)) => *count,
        other => panic!("{name} is {other:?}"),
    });
    each.into_iter().sum()
}

#[test]
fn guest_whose_cpus_are_slowed_down_goes_on_and_pauses_and_is_as_fast_as_ever_again() {
    let guest = launched(parts().0, None);
    guest.power_on(RAM_BASE, 0).unwrap();
    guest.resume().unwrap();
    let counter = |name: &str| {
        let mut inspect = Inspect::new();
        guest.inspect(&mut inspect);
        match inspect.get(name) {
            Some(Value::Counter(count)) => *count,
            other => panic!("{name} is {other:?}"),
        }
    };
    let patience = Instant::now() + Duration::from_secs(30);
    guest.throttle(90).unwrap();
    let (executed, holds) = (instructions(&guest), counter("throttle.holds"));
    while instructions(&guest) == executed || counter("throttle.holds") < holds + 3 {
        assert!(Instant::now() < patience, "it stands still, or is not slowed down");
    }
    // In the middle of a hold, or of what is left of the time.
    for _ in 0..5 {
        guest.pause().unwrap();
        let stands = instructions(&guest);
        std::thread::sleep(Duration::from_millis(7));
        assert_eq!(instructions(&guest), stands);
        guest.resume().unwrap();
    }
    let refused = guest.throttle(100).unwrap_err();
    assert!(refused.why.contains("at most 99"), "{refused:?}");
    assert_eq!(counter("throttle.percent"), 90);
    guest.throttle(0).unwrap();
    let executed = instructions(&guest);
    while instructions(&guest) == executed {
        assert!(Instant::now() < patience, "it does not go on");
    }
    guest.quit();
}

#[test]
fn machine_that_begins_paused_executes_nothing_and_keeps_its_state_and_signals_until_it_is_resumed() {
    let (here, _devices) = parts();
    let guest = launched(here, None);
    // RAM is zero: the first instruction is undefined, and so are those of its vector.
    guest.power_on(RAM_BASE, 0).unwrap();
    guest.begin().unwrap();
    guest.pause().unwrap();
    let saved = guest.save().unwrap();
    guest.quit();

    let (there, devices) = parts();
    let next = launched(there, Some(&saved));
    next.begin_paused().unwrap();
    devices.wire.ring();
    assert_eq!((instructions(&next), waiting(&next)), (0, [0, 1]), "nothing has moved");
    assert!(!devices.pin_ended.take());
    next.pause().unwrap();
    assert_eq!(instructions(&next), 0, "a second pause changes nothing");
    let until = Instant::now() + Duration::from_secs(60);
    next.resume().unwrap();
    while instructions(&next) == 0 {
        assert!(Instant::now() < until, "it does not go on");
        thread::yield_now();
    }
    assert!(devices.pin_ended.take());
    next.pause().unwrap();
    assert_eq!(waiting(&next), [0, 0]);
    next.quit();
}
