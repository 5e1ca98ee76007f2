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
/// What a driver gives a CMD_SYNC, in guest time: Linux's.
const GIVEN_UP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine with an SMMU that has an enabled queue of 256 commands, that SMMU's page, and its end of the ring.
fn machine() -> (Guest<Soft>, RegisterPage, Responder) {
    let page = RegisterPage::create("page").unwrap();
    let registers = RegisterPage::attach(&page).unwrap();
    registers.store_u32(4, 8 << 21);
    registers.store_u32(0x24, 1 << 3);
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
    (launched(parts, None), registers, responder)
}

/// The guest adds commands up to `prod`.
fn write_prod(guest: &Guest<Soft>, prod: u32) {
    guest.bus.write(SMMU0.base + u64::from(CMDQ_PROD), 4, prod.into());
}

/// Guest time, without a pause.
fn time(guest: &Guest<Soft>) -> Duration {
    guest.engine.time()
}

fn wait_held(guest: &Guest<Soft>, held: bool) {
    let until = Instant::now() + PATIENCE;
    while guest.gate.are_cpus_held() != held {
        assert!(Instant::now() < until, "held: {}", !held);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn guest_whose_smmu_consumes_nothing_is_held_before_it_gives_up_and_goes_on_when_it_has() {
    let (guest, registers, _ring) = machine();
    guest.resume().unwrap();
    let begun = time(&guest);
    write_prod(&guest, 4);
    // Another one comes late, and the first are consumed as late as they may be.
    std::thread::sleep(WAIT_MAX / 2);
    write_prod(&guest, 6);
    let second = time(&guest);
    registers.store_u32(CMDQ_CONS, 4);
    wait_held(&guest, true);
    let stands = time(&guest);
    assert!(stands - second < GIVEN_UP * 3 / 4, "the guest has seen {:?} pass", stands - second);
    std::thread::sleep(WAIT_MAX * 2);
    assert_eq!(time(&guest), stands, "begun at {begun:?}");
    let mut inspect = Inspect::new();
    guest.inspect(&mut inspect);
    assert_eq!(inspect.get("commands.holds"), Some(&Value::Counter(1)));
    registers.store_u32(CMDQ_CONS, 6);
    wait_held(&guest, false);
    std::thread::sleep(Duration::from_millis(20));
    assert!(time(&guest) > stands);
    assert!(time(&guest) - stands < PATIENCE, "the hold does not count");
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
    let (begun, mut prod) = (Instant::now(), 0);
    while begun.elapsed() < WAIT_MAX * 3 {
        prod = (prod + 1) % 512;
        write_prod(&guest, prod);
        registers.store_u32(CMDQ_CONS, prod);
        ring.next(&Interrupt::new(), Deadline::after(PATIENCE)).unwrap().complete(0);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!guest.gate.are_cpus_held());
    guest.quit();
}
