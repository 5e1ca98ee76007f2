// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use crate::console::OUTPUT_LEN_MAX;
use crate::interrupts::controller::{InterruptController, ResampledLine};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// What a UART needs of an interrupt controller.
struct Controller;

impl InterruptController for Controller {
    fn pulse(&self, intid: u32) {
        assert_eq!(intid, UART_INTID);
    }
    fn set_level(&self, _intid: u32, _high: bool) {
        unreachable!("a UART pulses");
    }
    fn signal_msi(&self, _device_id: u32, _event_id: u32) {
        unreachable!("a UART has no messages");
    }
    fn resampled(&self) -> &[ResampledLine] {
        &[]
    }

    fn loses_ends(&self) -> bool {
        false
    }

    fn kick_vcpus(&self) {}
}

const UART_INTID: u32 = 33;

struct Rig {
    gate: Arc<Gate>,
    console: Arc<Console>,
    uart: Arc<Uart>,
    /// The coordinator's end.
    far: UnixStream,
    near: Option<OwnedFd>,
}

fn irq() -> Spi {
    Spi::new(Arc::new(Controller), UART_INTID)
}

fn rig() -> Rig {
    let gate = Arc::new(Gate::default());
    let console = Console::new().unwrap();
    let uart = Arc::new(Uart::new(Arc::clone(&console), Arc::clone(&gate), irq()));
    let (near, far) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let far = UnixStream::from(far);
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Rig { gate, console, uart, far, near: Some(near) }
}

impl Rig {
    /// Starts the console thread and lets the machine run.
    fn run(&mut self) -> thread::JoinHandle<()> {
        let (console, uart, gate) =
            (Arc::clone(&self.console), Arc::clone(&self.uart), Arc::clone(&self.gate));
        let near = self.near.take().unwrap();
        self.gate.register();
        self.gate.run();
        thread::spawn(move || {
            console.serve(&near, &uart, &gate);
            gate.leave();
        })
    }
}

const DATA: u64 = 0;
const LINE_STATUS: u64 = 5;
const DATA_READY: u64 = 1;

#[test]
fn write_guest_output_reaches_the_coordinator_in_order() {
    let mut rig = rig();
    let thread = rig.run();
    for byte in b"hello, world\n" {
        rig.uart.write(DATA, u64::from(*byte));
    }
    let mut text = [0; 13];
    rig.far.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello, world\n");
    rig.gate.quit();
    thread.join().unwrap();
}

#[test]
fn write_faster_than_the_reader_waits_and_loses_nothing() {
    let mut rig = rig();
    let thread = rig.run();
    let uart = Arc::clone(&rig.uart);
    let count = 8 * OUTPUT_LEN_MAX;
    let guest = thread::spawn(move || {
        for index in 0..count {
            uart.write(DATA, (index % 251) as u64);
        }
    });
    let mut bytes = vec![0; count];
    rig.far.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index % 251));
    guest.join().unwrap();
    rig.gate.quit();
    thread.join().unwrap();
}

#[test]
fn input_longer_than_the_fifo_arrives_whole() {
    let mut rig = rig();
    let thread = rig.run();
    let input: Vec<u8> = (0..200).collect();
    rig.far.write_all(&input).unwrap();
    let mut read = Vec::new();
    let start = std::time::Instant::now();
    while read.len() < input.len() && start.elapsed() < Duration::from_secs(10) {
        if rig.uart.read(LINE_STATUS) & DATA_READY != 0 {
            let [byte, ..] = rig.uart.read(DATA).to_le_bytes();
            read.push(byte);
        }
    }
    assert_eq!(read, input);
    rig.gate.quit();
    thread.join().unwrap();
}

#[test]
fn save_paused_with_unread_output_gives_it_to_the_next_process() {
    let rig = rig();
    // Registers that differ from reset, input half read, output that nobody took.
    for (offset, value) in [(3, 0x83), (0, 0x0c), (1, 0), (3, 3), (1, 1), (7, 0x5a)] {
        rig.uart.write(offset, value);
    }
    rig.uart.input(b"xyz");
    rig.uart.read(DATA);
    for byte in b"unread" {
        rig.uart.write(DATA, u64::from(*byte));
    }
    let saved = rig.uart.save();
    assert_eq!(saved.undelivered_output, b"unread");
    assert_eq!(saved.input, b"yz");

    let console = Console::new().unwrap();
    let next = Uart::restore(Arc::clone(&console), Arc::clone(&rig.gate), irq(), &saved).unwrap();
    assert_eq!(next.save(), saved);
    assert_eq!(next.read(7), 0x5a);
}

#[test]
fn restore_with_an_impossible_fifo_is_refused() {
    let rig = rig();
    let saved = UartV1 { input: vec![0; 1000], ..rig.uart.save() };
    let console = Console::new().unwrap();
    let error = Uart::restore(console, rig.gate, irq(), &saved).unwrap_err();
    assert_eq!(error, UartStateError { count: 1000 });
}

#[test]
fn read_beyond_the_registers_is_zero() {
    let rig = rig();
    for offset in [8, 0x100, 0xfff] {
        rig.uart.write(offset, 0xff);
        assert_eq!(rig.uart.read(offset), 0);
    }
}
