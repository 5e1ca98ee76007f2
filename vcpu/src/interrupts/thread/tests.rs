// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What devices signal while the guest stands still: it is brought to the controller once, and nothing else waits then.

use super::*;
use crate::interrupts::controller::ResampledLine;
use crate::interrupts::intx::Pin;
use ipc::doorbell::{self, Ringer};
use ipc::shm::msi_board::MsiBoard;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Pulse(u32),
    Level(u32, bool),
    Message(u32, u32),
}

/// Writes down what it is told.
#[derive(Default)]
struct Recorder(Mutex<Vec<Signal>>);

impl Recorder {
    fn take(&self) -> Vec<Signal> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, signal: Signal) {
        self.0.lock().unwrap().push(signal);
    }
}

impl InterruptController for Recorder {
    fn pulse(&self, intid: u32) {
        self.note(Signal::Pulse(intid));
    }

    fn set_level(&self, intid: u32, high: bool) {
        self.note(Signal::Level(intid, high));
    }

    fn signal_msi(&self, device_id: u32, event_id: u32) {
        self.note(Signal::Message(device_id, event_id));
    }

    fn resampled(&self) -> &[ResampledLine] {
        &[]
    }

    fn loses_ends(&self) -> bool {
        false
    }

    fn kick_vcpus(&self) {}
}

const DEVICE: u32 = 8;
const WIRE: u32 = 35;
const LINE: u32 = 41;

/// The thread with what is at its devices' ends.
struct Rig {
    controller: Arc<Recorder>,
    thread: InterruptThread,
    wire: Ringer,
    board: MsiBoard,
    messages: Ringer,
    pin: Ringer,
}

impl Rig {
    fn new() -> Self {
        let ((wire, wire_doorbell), (messages, doorbell)) =
            (doorbell::pair().unwrap(), doorbell::pair().unwrap());
        let ((pin, raised), (ended, _)) = (doorbell::pair().unwrap(), doorbell::pair().unwrap());
        let region = MsiBoard::create("board").unwrap();
        let board = MsiBoard::attach(&region).unwrap();
        let pins = Arc::new(Pins::new(vec![Pin { raised, ended, intid: LINE }]));
        let controller = Arc::new(Recorder::default());
        let devices = Arc::clone(&controller) as Arc<dyn InterruptController>;
        pins.connect(&devices);
        let boards = vec![Board { board: board.clone(), doorbell, device_id: DEVICE }];
        let wires = vec![Wire { doorbell: wire_doorbell, intid: WIRE }];
        let thread = InterruptThread::new(devices, wires, boards, pins).unwrap();
        Self { controller, thread, wire, board, messages, pin }
    }

    fn waiting(&self) -> (u64, u64) {
        (self.thread.waiting_messages(), self.thread.waiting_wires())
    }
}

/// Ends the thread that a test has started.
struct QuitAtEnd<'a>(&'a Gate);

impl Drop for QuitAtEnd<'_> {
    fn drop(&mut self) {
        self.0.quit();
    }
}

#[test]
fn signals_that_wait_are_brought_to_the_controller_once_whether_they_were_rung_for_or_not() {
    let rig = Rig::new();
    assert_eq!(rig.waiting(), (0, 0));
    // An edge that comes again before it is taken is the same one, and so is a message: each has one pending bit.
    rig.wire.ring();
    rig.wire.ring();
    for event in [3, 200, 3] {
        assert!(rig.board.post(event));
    }
    rig.messages.ring();
    // Posted by a process that died before it rang.
    assert!(rig.board.post(7));
    rig.pin.ring();
    assert_eq!(rig.waiting(), (3, 2));
    rig.thread.drain();
    let all = [
        Signal::Pulse(WIRE),
        Signal::Message(DEVICE, 3),
        Signal::Message(DEVICE, 7),
        Signal::Message(DEVICE, 200),
        Signal::Level(LINE, true),
    ];
    assert_eq!(rig.controller.take(), all);
    assert_eq!(rig.waiting(), (0, 0));
    rig.thread.drain();
    assert_eq!(rig.controller.take(), []);
}

#[test]
fn signals_of_a_paused_guest_are_left_by_the_thread_until_it_runs() {
    let rig = Rig::new();
    let (gate, thread) = (Gate::default(), &rig.thread);
    gate.register();
    std::thread::scope(|scope| {
        scope.spawn(|| thread.serve(&gate));
        // Also when the test fails.
        let _end = QuitAtEnd(&gate);
        gate.run();
        rig.wire.ring();
        while rig.controller.0.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        gate.request_pause();
        thread.wake();
        gate.wait_parked(std::time::Duration::from_secs(30)).unwrap();
        assert_eq!(rig.controller.take(), [Signal::Pulse(WIRE)]);
        rig.wire.ring();
        rig.board.post(1);
        rig.messages.ring();
        assert_eq!(rig.waiting(), (1, 1));
        assert_eq!(rig.controller.take(), []);
        thread.drain();
        gate.run();
        gate.request_pause();
        thread.wake();
        gate.wait_parked(std::time::Duration::from_secs(30)).unwrap();
        assert_eq!(rig.controller.take(), [Signal::Pulse(WIRE), Signal::Message(DEVICE, 1)]);
    });
}
