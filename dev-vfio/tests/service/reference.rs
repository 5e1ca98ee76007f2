// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server with the limits of the library that most servers are built on.

use ipc::protocol::vfio::IO_REGION;

use super::server::reference::{COPIED, FROM, Options, Reference, STATE, TO};
use super::*;

/// Where BAR 0 lies: at the beginning of the I/O area.
const REGISTERS: u64 = 0;
const TABLE: u64 = 0x1000;
const TIB: u64 = 1 << 40;

type ReferenceVm = Vm<Reference>;

fn start(options: Options) -> ReferenceVm {
    let mut server = Reference::start(options);
    let client = server.client.take().unwrap();
    Vm::open(server, client, false)
}

impl ReferenceVm {
    /// Lets the device copy, by a posted write, while another CPU reads its registers; returns how that went.
    fn copy(&self, from: u64, to: u64) -> u64 {
        self.write(IO_REGION, REGISTERS + FROM, 8, from);
        self.write(IO_REGION, REGISTERS + TO, 8, to);
        self.ring.post(IO_REGION, REGISTERS + STATE, 8, 1 << 32, &Interrupt::new(), soon()).unwrap();
        loop {
            // What is posted is on its way while the device does its DMA.
            self.ring.post(IO_REGION, REGISTERS + 0x80, 4, 0, &Interrupt::new(), soon()).unwrap();
            let state = self.read(IO_REGION, REGISTERS + STATE, 8);
            if state != 1 << 32 {
                return state;
            }
        }
    }

    fn unmasked(&self) -> usize {
        self.server.seen.lock().unwrap().unmasked
    }

    fn await_unmasked(&self, more_than: usize) -> usize {
        let until = Instant::now() + LONG;
        while self.unmasked() <= more_than && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.unmasked()
    }
}

#[test]
fn the_device_is_there_with_all_addresses_declared_in_pieces() {
    let mut vm = start(Options::default());
    assert_eq!(vm.failure(), None);
    assert_eq!(vm.read(CONFIG_REGION, 0, 4), 0x0002_f1b7);
    assert_eq!(vm.read(CONFIG_REGION, 0x3d, 1), 1, "a pin that does not mask itself is one");
    assert_eq!(vm.read(CONFIG_REGION, 0x10, 4), 0x8001, "the slot's first I/O address");
    assert_eq!(vm.read(IO_REGION, REGISTERS + STATE, 4), 0xffff_ffff, "I/O space is not enabled yet");
    vm.write(CONFIG_REGION, 4, 2, 0b101);
    assert_eq!(vm.read(IO_REGION, REGISTERS + STATE, 4), 0);
    assert_eq!(vm.read(AREA32_REGION, TABLE + 12, 4), 0xffff_ffff, "memory space is not");
    {
        let seen = vm.server.seen.lock().unwrap();
        let pieces: Vec<_> = (0..32).map(|piece| (piece * 8 * TIB, 8 * TIB)).collect();
        assert_eq!((&seen.windows, seen.resets), (&pieces, 1));
        let refused = (Command::DMA_MAP, Errno::NOSPC);
        assert_eq!(seen.refused, [refused; 5], "from 2^48 to 2^44 bytes");
    }
    let Vm { process, .. } = &mut vm;
    process.pause().unwrap();
    process.resume().unwrap();
    assert_eq!(vm.failure(), None);
    let Vm { process, mut server, .. } = vm;
    drop(process);
    assert!(server.seen.lock().unwrap().over.is_none());
    drop(server.client.take());
}

#[test]
fn dma_by_message_survives_that_the_guest_writes_at_the_same_time() {
    let mut vm = start(Options::default());
    vm.attach(Attachment::Bypass);
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    for round in 0..20 {
        assert_eq!(vm.copy(RAM, RAM + 0x8000), 1, "round {round}");
    }
    assert_eq!(vm.copy(RAM, 0x1000), 2, "nothing is there");
    assert_eq!(vm.copy(RAM + RAM_LEN - COPIED as u64, RAM), 1);
    assert_eq!(vm.failure(), None);
}

#[test]
fn commands_that_meet_on_one_socket_cost_the_device_and_nothing_else() {
    let mut vm = start(Options { twin: false, ..Options::default() });
    vm.attach(Attachment::Bypass);
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    // An older library takes the command for the answer to its own, and ends the connection.
    assert_eq!(vm.copy(RAM, RAM + 0x8000), u64::MAX);
    let over = vm.server.end();
    assert!(over.contains("instead of the answer to DMA_READ"), "{over}");
    vm.assert_failed("closed");
}

#[test]
fn one_kind_of_interrupts_is_connected_at_a_time() {
    let mut vm = start(Options::default());
    vm.attach(Attachment::Bypass);
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    let copy = |vm: &ReferenceVm| assert_eq!(vm.copy(RAM, RAM + 0x8000), 1);
    copy(&vm);
    assert!(vm.intx_within(LONG));
    let before = vm.unmasked();
    vm.end_intx();
    assert!(vm.await_unmasked(before) > before, "the end of the interrupt is told");
    // MSI-X: twelve vectors, in messages of eight eventfds.
    vm.write(AREA32_REGION, TABLE, 8, DOORBELL.0);
    vm.write(AREA32_REGION, TABLE + 8, 8, 33);
    vm.write(CONFIG_REGION, 0x42, 2, 0x8000);
    copy(&vm);
    assert_eq!(vm.msis(LONG), [33]);
    assert!(!vm.intx_within(A_MOMENT));
    vm.write(CONFIG_REGION, 0x42, 2, 0);
    copy(&vm);
    assert!(vm.intx_within(LONG), "and back");
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    // While it is asserted another interrupt comes: the device will not say it again.
    copy(&vm);
    vm.end_intx();
    assert!(vm.intx_within(LONG));
    vm.end_intx();
    vm.await_interrupt_status(0);
    assert!(!vm.intx_within(A_MOMENT));
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_pin_whose_interrupt_ends_around_a_pause_is_unmasked_behind_it() {
    let mut vm = start(Options::default());
    vm.attach(Attachment::Bypass);
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    for during_the_pause in [true, false, false, false, true] {
        assert_eq!(vm.copy(RAM, RAM + 0x8000), 1);
        assert!(vm.intx_within(LONG));
        let before = vm.unmasked();
        if !during_the_pause {
            // Before the pause, or while the device is being stopped and takes no such order: it is asked again.
            vm.end_intx();
        }
        vm.process.pause().unwrap();
        if during_the_pause {
            vm.end_intx();
            std::thread::sleep(A_MOMENT);
            assert_eq!(vm.interrupt_status(), 1, "nobody takes it while the function holds still");
        }
        vm.process.resume().unwrap();
        assert!(vm.await_unmasked(before) > before);
        vm.await_interrupt_status(0);
    }
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_server_of_too_few_windows_cannot_be_used_and_says_why() {
    let vm = start(Options { windows_max: 16, ..Options::default() });
    let failure = vm.failure().unwrap();
    assert!(failure.contains("takes no more than 16 DMA windows of 0x80000000000 bytes"), "{failure}");
    assert_eq!(vm.read(CONFIG_REGION, 0, 4), 0xffff_ffff);
}
