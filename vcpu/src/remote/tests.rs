// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that does not answer, on a real ring.

use ipc::protocol::vfio::CONFIG_REGION;

use super::*;
use ipc::addr::{Bdf, Gpa, GpaRange};
use ipc::channel::{self, Channel, Incoming};
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{Control, Event};
use ipc::shm::ring::{Responder, SLOTS};
use process::Events;
use std::os::fd::AsFd;

const CONFIG: u64 = 0x3000_8000;
const MEMORY: u64 = 0x1100_0000;

/// A device, and its end of the ring.
fn device() -> (RemoteDevice, Responder) {
    let range = |start| GpaRange::new(Gpa(start), 0x1000).unwrap();
    let windows = vec![
        FunctionWindow { region: CONFIG_REGION, range: range(CONFIG) },
        FunctionWindow { region: 1, range: range(MEMORY) },
    ];
    let config = RemoteFunction {
        peer: InstanceId::new(Role::Vfio, 0),
        bdf: Bdf(8),
        windows,
        intx_spi: 9,
        host_device: None,
        has_next_life: false,
    };
    let ring = ring::create("ring").unwrap();
    let responder = Responder::attach(&ring, 1, Duration::ZERO).unwrap();
    let fd = ring.as_fd().try_clone_to_owned().unwrap();
    let memory = Arc::new(Windows::new(&config, false, 1));
    let health = Health::new(&config.peer.to_string());
    let device = RemoteDevice::open_function(&config, fd, Duration::ZERO, memory, health).unwrap();
    (device, responder)
}

fn running() -> Gate {
    let gate = Gate::default();
    gate.run();
    gate
}

fn read(device: &RemoteDevice, gate: &Gate) -> u64 {
    device.read(device.place_of(CONFIG).unwrap(), 4, gate)
}

#[test]
fn read_and_post_to_a_silent_device_end_for_every_vcpu_and_the_coordinator_is_told_once() {
    let ((device, _silent), gate) = (device(), running());
    let (ours, theirs) = channel::pair().unwrap();
    let control = Arc::new(Channel::from_fd(ours, Hello::new(Role::Vcpu, 1)));
    device.health().connect(&Events::over(&control));
    std::thread::scope(|scope| {
        let reads: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&device, &gate))).collect();
        // More than the ring has room for.
        let posts = scope.spawn(|| {
            for value in 0..=SLOTS {
                device.write(device.place_of(MEMORY).unwrap(), 4, value as u64, &gate);
            }
        });
        reads.into_iter().for_each(|read| assert_eq!(read.join().unwrap(), 0xffff_ffff));
        posts.join().unwrap();
    });
    assert!(device.health().failure().unwrap().contains("not answered within 10 s"));
    // Nobody waits for it any more: thousands of these would take longer than the suite may.
    for _ in 0..10_000 {
        assert_eq!(read(&device, &gate), 0xffff_ffff);
    }
    let coordinator = Channel::<Control>::from_fd(theirs, Hello::new(Role::Coordinator, 1));
    let told = coordinator.recv(Deadline::after(ANSWER_SPAN)).unwrap();
    assert!(matches!(told, Incoming::Event { body: Event::PeerFailed { name, .. }, .. } if name == "vfio0"));
    assert!(coordinator.recv(Deadline::now()).is_err());
}

#[test]
fn pause_waits_no_longer_than_an_access_that_waits_for_its_device() {
    let ((device, _silent), gate) = (device(), running());
    std::thread::scope(|scope| {
        gate.register();
        let vcpu = scope.spawn(|| {
            while gate.wait_running() {
                read(&device, &gate);
            }
            gate.leave();
        });
        std::thread::sleep(WAIT_SLICE);
        gate.request_pause();
        gate.wait_parked(super::super::guest::PARK_DEADLINE).unwrap();
        gate.quit();
        vcpu.join().unwrap();
    });
}

#[test]
fn access_whose_device_fails_meanwhile_ends_at_once() {
    let ((gone, _silent), gate) = (device(), running());
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| read(&gone, &gate));
        std::thread::sleep(WAIT_SLICE);
        gone.health().fail("its process has ended".to_owned());
        assert_eq!(vcpu.join().unwrap(), 0xffff_ffff);
    });
    assert_eq!(gone.health().failure(), Some("its process has ended"));
    assert!(gate.pausing().is_zero());
}

#[test]
fn slow_device_that_answers_within_its_time_has_not_failed() {
    let ((device, mut responder), gate) = (device(), running());
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| read(&device, &gate));
        std::thread::sleep(WAIT_SLICE * 3);
        responder.next(&Interrupt::new(), slice()).unwrap().complete(0x1234);
        assert_eq!(vcpu.join().unwrap(), 0x1234);
    });
    assert_eq!(device.health().failure(), None);
}

#[test]
fn failure_from_before_there_was_a_coordinator_to_tell_is_told_it_later() {
    let (ours, theirs) = channel::pair().unwrap();
    let health = Health::new("vfio0");
    health.fail("its end of the function link is closed".to_owned());
    health.connect(&Events::over(&Arc::new(Channel::from_fd(ours, Hello::new(Role::Vcpu, 1)))));
    let coordinator = Channel::<Control>::from_fd(theirs, Hello::new(Role::Coordinator, 1));
    let told = coordinator.recv(Deadline::after(ANSWER_SPAN)).unwrap();
    assert!(
        matches!(told, Incoming::Event { body: Event::PeerFailed { why, .. }, .. } if why.contains("function link"))
    );
}

/// A device of the machine itself.
fn machine_device() -> (RemoteDevice, ipc::shm::region::Region) {
    let config = RemoteMmio {
        peer: InstanceId::new(Role::Smmu, 0),
        region: 0,
        base: Gpa(CONFIG),
        len: 0x1000,
        page: None,
        irqs: vec![],
    };
    let ring = ring::create("ring").unwrap();
    let fd = ring.as_fd().try_clone_to_owned().unwrap();
    let (device, _) = RemoteDevice::open(&config, fd, None, Duration::ZERO).unwrap();
    (device, ring)
}

#[test]
fn access_to_the_machine_waits_for_the_next_life_and_the_coordinator_is_told_once_that_it_takes_long() {
    let ((device, ring), gate) = (machine_device(), running());
    let (ours, theirs) = channel::pair().unwrap();
    device.health().connect(&Events::over(&Arc::new(Channel::from_fd(ours, Hello::new(Role::Vcpu, 1)))));
    let coordinator = Channel::<Control>::from_fd(theirs, Hello::new(Role::Coordinator, 1));
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&device, &gate))).collect();
        let told = coordinator.recv(Deadline::after(ANSWER_SPAN * 3)).unwrap();
        assert!(
            matches!(told, Incoming::Event { body: Event::PeerFailed { name, .. }, .. } if name == "smmu0")
        );
        assert!(coordinator.recv(Deadline::after(WAIT_SLICE * 5)).is_err(), "once, whoever waits");
        let mut next = Responder::attach(&ring, 2, Duration::ZERO).unwrap();
        for _ in 0..2 {
            next.next(&Interrupt::new(), Deadline::after(ANSWER_SPAN)).unwrap().complete(0x1234);
        }
        vcpus.into_iter().for_each(|vcpu| assert_eq!(vcpu.join().unwrap(), 0x1234));
    });
    assert_eq!(device.health().failure(), None);
}

#[test]
fn access_to_the_machine_ends_with_the_guest() {
    let ((device, _ring), gate) = (machine_device(), running());
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| read(&device, &gate));
        std::thread::sleep(WAIT_SLICE);
        gate.quit();
        assert_eq!(vcpu.join().unwrap(), 0xffff_ffff);
    });
    assert_eq!(device.health().failure(), None);
}

#[test]
fn access_that_waits_for_longer_while_the_machine_is_held_is_answered_and_nobody_is_late() {
    let (device, mut responder) = device();
    let gate = running();
    gate.hold_accesses(true);
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| read(&device, &gate));
        std::thread::sleep(ANSWER_SPAN + WAIT_SLICE * 5);
        assert_eq!(device.health().failure(), None);
        gate.hold_accesses(false);
        // As long again as if it had only begun.
        std::thread::sleep(ANSWER_SPAN / 2);
        assert_eq!(device.health().failure(), None);
        responder.next(&Interrupt::new(), Deadline::after(ANSWER_SPAN)).unwrap().complete(0x1234);
        assert_eq!(reads.join().unwrap(), 0x1234);
    });
}
