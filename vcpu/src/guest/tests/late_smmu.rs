// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine whose SMMU does not consume commands, as the register page shows it: the vCPUs are held and guest time
//! stands before the guest could give a command up, and both go on when the commands are consumed.

use super::*;
use crate::command_wait::WAIT_MAX;
use ipc::deadline::Deadline;
use ipc::hello::Role;
use ipc::protocol::vcpu::{RemoteMmio, RemotePage};
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring::{self, Interrupt, Responder};
use machine::layout::SMMU0;
use std::os::fd::AsFd;
use std::time::Instant;

const CMDQ_PROD: u32 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const CMDQEN: u32 = 1 << 3;
/// The counter's step.
const TICK: Duration = Duration::from_nanos(16);
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine with an SMMU that has an enabled queue of 256 commands, that SMMU's page, and its end of the ring.
fn machine() -> (Guest<Soft>, RegisterPage, Responder) {
    machine_from(None)
}

fn machine_from(saved: Option<&SavedMachine<SavedSoft>>) -> (Guest<Soft>, RegisterPage, Responder) {
    let page = RegisterPage::create("page").unwrap();
    let registers = RegisterPage::attach(&page).unwrap();
    registers.store_u32(4, 8 << 21);
    registers.store_u32(CR0ACK, CMDQEN);
    registers.store_u64(0x90, 8);
    let config = RemoteMmio {
        peer: InstanceId::new(Role::Smmu, 0),
        region: 0,
        base: Gpa(SMMU0.base),
        len: SMMU0.len,
        page: Some(RemotePage { guest_owned: vec![CMDQ_PROD], posted: vec![CMDQ_PROD] }),
        irqs: vec![],
    };
    let ring = ring::create("ring").unwrap();
    let responder = Responder::attach(&ring, 1, Duration::ZERO).unwrap();
    let [ring, page] = [&ring, &page].map(|region| region.as_fd().try_clone_to_owned());
    let (smmu, _) = RemoteDevice::open(&config, ring.unwrap(), Some(page.unwrap()), Duration::ZERO).unwrap();
    let mut parts = parts().0;
    parts.remotes.push(smmu);
    (launched(parts, saved), registers, responder)
}

/// The guest adds commands up to `prod`.
fn write_prod(guest: &Guest<Soft>, prod: u32) {
    guest.bus.write(SMMU0.base + u64::from(CMDQ_PROD), 4, prod.into());
}

/// Guest time, without a pause.
fn time(guest: &Guest<Soft>) -> Duration {
    guest.engine.time()
}

/// What the hold says of itself. To inspect the whole guest would make its vCPUs look at the queue.
fn inspected(guest: &Guest<Soft>, name: &str) -> Value {
    let mut inspect = Inspect::new();
    guest.hold.as_ref().unwrap().inspect(&mut inspect);
    inspect.get(name).unwrap().clone()
}

/// Waits until the hold says this of the commands.
fn wait_state(guest: &Guest<Soft>, text: &str) {
    let until = Instant::now() + PATIENCE;
    while inspected(guest, "commands") != Value::Text(text.into()) {
        assert!(Instant::now() < until, "its commands are not {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a look that holds the CPUs, or lets them go on, is over: guest time stands then, or goes on.
fn wait_held(guest: &Guest<Soft>, held: bool) {
    wait_state(guest, if held { "overdue: CPUs are held" } else { "in time" });
    assert_eq!(guest.gate.are_cpus_held(), held);
}

/// A machine whose SMMU has consumed four commands in time, but none of two that came a little later; guest time when
/// they came.
fn late_with_the_second_commands() -> (Guest<Soft>, RegisterPage, Responder, Duration) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (guest, registers, ring) = machine();
        guest.resume().unwrap();
        let begun = Instant::now();
        write_prod(&guest, 4);
        std::thread::sleep(WAIT_MAX / 8);
        write_prod(&guest, 6);
        let second = time(&guest);
        registers.store_u32(CMDQ_CONS, 4);
        if begun.elapsed() < WAIT_MAX {
            return (guest, registers, ring, second);
        }
        guest.quit();
        assert!(Instant::now() < until, "this test is never run in time");
    }
}

#[test]
fn guest_whose_smmu_consumes_nothing_is_held_before_it_gives_up_and_goes_on_when_it_has() {
    let (guest, registers, _ring, second) = late_with_the_second_commands();
    wait_held(&guest, true);
    let stands = time(&guest);
    assert!(stands - second <= WAIT_MAX * 2, "the guest has seen {:?} pass", stands - second);
    std::thread::sleep(WAIT_MAX * 2);
    assert_eq!(time(&guest), stands);
    assert_eq!(inspected(&guest, "commands.holds"), Value::Counter(1));
    let lifted = Instant::now();
    registers.store_u32(CMDQ_CONS, 6);
    wait_held(&guest, false);
    std::thread::sleep(Duration::from_millis(20));
    let passed = time(&guest) - stands;
    assert!(!passed.is_zero());
    assert!(passed <= lifted.elapsed() + TICK, "the hold counts: {passed:?}");
    guest.quit();
}

#[test]
fn commands_that_another_cpu_sees_first_are_overdue_in_time() {
    let (guest, registers, _ring) = machine();
    guest.resume().unwrap();
    let hold = guest.hold.as_ref().unwrap();
    // One vCPU has stored CMDQ_PROD and not told of it yet, when another one leaves the guest.
    registers.store_u32(CMDQ_PROD.into(), 4);
    hold.look();
    hold.written();
    wait_held(&guest, true);
    guest.quit();
}

#[test]
fn commands_written_before_a_pause_is_complete_are_overdue_behind_it() {
    let (guest, _registers, _ring) = machine();
    guest.resume().unwrap();
    guest.gate.request_pause();
    write_prod(&guest, 4);
    guest.pause().unwrap();
    guest.resume().unwrap();
    wait_held(&guest, true);
    guest.quit();
}

#[test]
fn commands_that_wait_in_a_restored_machine_are_overdue_in_it() {
    let (fresh, _registers, _ring) = machine();
    let saved = fresh.save().unwrap();
    fresh.quit();
    let (guest, registers, _ring) = machine_from(Some(&saved));
    registers.store_u32(CMDQ_PROD.into(), 4);
    guest.gate.wait_parked(PATIENCE).unwrap();
    guest.resume().unwrap();
    wait_held(&guest, true);
    guest.quit();
}

#[test]
fn commands_that_wait_when_their_queue_is_enabled_are_overdue() {
    let (guest, registers, mut ring) = machine();
    registers.store_u32(CR0ACK, 0);
    guest.resume().unwrap();
    write_prod(&guest, 4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ring.next(&Interrupt::new(), Deadline::after(PATIENCE)).unwrap().complete(0);
            let cr0 = ring.next(&Interrupt::new(), Deadline::after(PATIENCE)).unwrap();
            registers.store_u32(CR0ACK, CMDQEN);
            cr0.complete(0);
        });
        guest.bus.write(SMMU0.base + CR0, 4, CMDQEN.into());
    });
    wait_held(&guest, true);
    guest.quit();
}

#[test]
fn held_guest_can_be_paused_and_saved_and_is_held_again_when_it_goes_on() {
    let (guest, registers, _ring) = machine();
    guest.resume().unwrap();
    write_prod(&guest, 4);
    wait_held(&guest, true);
    let stands = time(&guest);
    guest.pause().unwrap();
    assert_eq!(time(&guest), stands);
    std::thread::sleep(WAIT_MAX);
    guest.resume().unwrap();
    std::thread::sleep(WAIT_MAX);
    assert_eq!(time(&guest), stands, "a pause is no way out");
    assert!(guest.gate.are_cpus_held());
    registers.store_u32(CMDQ_CONS, 4);
    wait_held(&guest, false);
    guest.quit();
}

#[test]
fn guest_whose_smmu_keeps_up_is_never_held() {
    let (guest, registers, mut ring) = machine();
    guest.resume().unwrap();
    let (begun, mut prod, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while begun.elapsed() < WAIT_MAX * 3 {
        // The pointers do not come round: each look sees others.
        prod += 1;
        let added = Instant::now();
        write_prod(&guest, prod);
        registers.store_u32(CMDQ_CONS, prod);
        longest = longest.max(added.elapsed());
        ring.next(&Interrupt::new(), Deadline::after(PATIENCE)).unwrap().complete(0);
        std::thread::sleep(Duration::from_millis(2));
    }
    let holds = inspected(&guest, "commands.holds");
    // If this test was late itself, so was its SMMU.
    assert!(
        holds == Value::Counter(0) || longest >= WAIT_MAX,
        "{holds:?} though each took {longest:?} at most"
    );
    guest.quit();
}

#[test]
fn guest_that_is_held_by_order_executes_nothing_and_sees_no_time_pass_whatever_its_commands_do() {
    let (guest, registers, _ring) = machine();
    guest.power_on(RAM_BASE, 0).unwrap();
    guest.resume().unwrap();
    guest.hold_cpus(true);
    let until = Instant::now() + PATIENCE;
    while guest.gate.parked_count() < 2 {
        assert!(Instant::now() < until, "its vCPUs go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stands = (instructions(&guest), time(&guest));
    // Commands that are overdue, and are consumed, do not end it.
    write_prod(&guest, 4);
    wait_state(&guest, "overdue: CPUs are held");
    registers.store_u32(CMDQ_CONS, 4);
    wait_state(&guest, "in time");
    assert_eq!((instructions(&guest), time(&guest)), stands);
    assert!(guest.gate.are_cpus_held());
    // Nor does its end let go those that are held for commands.
    write_prod(&guest, 6);
    wait_state(&guest, "overdue: CPUs are held");
    guest.hold_cpus(false);
    assert!(guest.gate.are_cpus_held());
    assert_eq!((instructions(&guest), time(&guest)), stands);
    registers.store_u32(CMDQ_CONS, 6);
    wait_held(&guest, false);
    let until = Instant::now() + PATIENCE;
    while instructions(&guest) == stands.0 || time(&guest) == stands.1 {
        assert!(Instant::now() < until, "it does not go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    guest.quit();
}
