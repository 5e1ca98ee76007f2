// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults on their way to a vSMMU that does not read.

use super::*;

#[test]
fn faults_that_found_no_room_are_in_flight_until_they_are_told() {
    let mut vm = Vm::start(Server::with_migration(0, Box::new(|_, _| None)));
    vm.attach(Attachment::Abort);
    // Nobody reads the channel: until it is full.
    let until = Instant::now() + LONG;
    let in_flight = loop {
        assert!(vm.dma_read(RAM, 8).is_err());
        let in_flight = vm.process.pause().unwrap();
        if !in_flight.is_quiet() {
            break in_flight;
        }
        vm.process.resume().unwrap();
        assert!(Instant::now() < until, "the channel has room without end");
    };
    assert_eq!(in_flight, Quiescence { faults: in_flight.faults, ..Quiescence::NONE });
    vm.process.resume().unwrap();
    while let Ok(Incoming::Event { body, .. }) = vm.smmu.recv(Deadline::after(A_MOMENT)) {
        assert!(matches!(body, Notice::Fault(_)), "{body:?}");
    }
    // There is room for the sum now, and no fault has to follow for it.
    assert!(vm.process.pause().unwrap().is_quiet());
    let Incoming::Event { body, .. } = vm.smmu.recv(soon()).unwrap();
    assert!(matches!(body, Notice::FaultsLost { count } if count == in_flight.faults), "{body:?}");
}
