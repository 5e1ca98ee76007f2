// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A life that is over without a word, and the next one on the same objects, in front of a guest that runs on.

use super::devices::{armed, attach, enable_translation, obeying, stage1_entry, start};
use super::{Guest, REGION, Vm, soon, sync};

use ipc::deadline::Deadline;
use ipc::shm::ring::{Interrupt, RingError};
use process::Source;
use smmu_arch::spec::commands::{Command, ComplSignal, Opcode};
use smmu_arch::spec::registers::Register;
use std::time::Duration;

/// The guest posts commands up to here.
fn post(guest: &Guest, prod: u32) {
    guest.write(Register::CMDQ_PROD, prod.into());
}

#[test]
fn next_life_goes_on_from_the_checkpoint_and_answers_nothing_before_it_goes() {
    let vm = Vm::new();
    let (process, guest) = vm.running();
    guest.command(0, sync(ComplSignal::None));
    post(&guest, 1);
    guest.await_cons(1);
    drop(process);
    // The guest runs on: it posts two commands in turn, and waits for a write.
    (1..4).for_each(|index| guest.command(index, sync(ComplSignal::None)));
    post(&guest, 2);
    post(&guest, 3);
    let a_moment = Deadline::after(Duration::from_millis(50));
    let offset = Register::GERRORN.offset();
    let Err(RingError::Unfinished { pending, .. }) =
        guest.ring.write(REGION, offset, 4, 0, &Interrupt::new(), a_moment)
    else {
        panic!("nobody is there to answer")
    };
    vm.pulses();
    let mut next = vm.process(2);
    next.configure(vm.config(|_| {})).unwrap();
    next.load(Source::Checkpoint).unwrap();
    next.arm().unwrap();
    next.replay().unwrap();
    let waited = guest.ring.wait(pending, &Interrupt::new(), Deadline::after(Duration::from_millis(50)));
    let Err(RingError::Unfinished { pending, .. }) = waited else { panic!("{waited:?}") };
    // Its own registers are in the page, and newer than what the device has been told.
    guest.owned.store_u32(Register::CMDQ_PROD.offset(), 4);
    next.go().unwrap();
    guest.ring.wait(pending, &Interrupt::new(), soon()).unwrap();
    guest.await_cons(3);
    assert_eq!(guest.read(Register::CMDQ_PROD), 4, "it is not stored over");
    guest.ring.post(REGION, Register::CMDQ_PROD.offset(), 4, 4, &Interrupt::new(), soon()).unwrap();
    guest.await_cons(4);
    assert_eq!(vm.pulses(), [false, false, true], "which the guest may not have been told of");
}

#[test]
fn streams_are_attached_anew_before_a_command_sync_of_the_life_before_completes() {
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    // Consumed and not carried out: the device does not answer any more.
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    post(&guest, 2);
    guest.await_cons(1);
    drop((process, device));
    // What the guest changes in its tables meanwhile is what is attached.
    let stage1 = stage1_entry(&guest);
    let (mut next, device) = armed(&vm, Source::Checkpoint);
    let (_, requests) = obeying(&device, || {
        next.replay().unwrap();
        assert_eq!(guest.read(Register::CMDQ_CONS), 1, "nothing is answered before it goes");
        next.go().unwrap();
        guest.await_cons(2);
    });
    assert_eq!(requests, attach(stage1));
}
