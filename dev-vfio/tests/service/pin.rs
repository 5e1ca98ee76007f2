// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! INTx.

use super::*;

#[test]
fn the_pin_is_a_level_that_the_end_of_an_interrupt_asks_for_again() {
    let vm = Vm::start(Server::with_intx());
    assert_eq!(vm.read(CONFIG_REGION, 0x3d, 1), 1, "INTA");
    assert!(!vm.intx_within(A_MOMENT));
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG));
    assert_eq!(vm.interrupt_status(), 1);
    assert!(!vm.intx_within(A_MOMENT), "the device is masked");
    vm.end_intx();
    assert!(vm.intx_within(LONG), "it still wants something");
    vm.server.device.set_intx(false);
    vm.end_intx();
    vm.await_interrupt_status(0);
    assert!(!vm.intx_within(A_MOMENT));
    vm.end_intx();
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG), "the end of another function's interrupt has changed nothing");
}

#[test]
fn a_disabled_pin_is_lowered_and_asks_the_device_when_it_is_enabled() {
    let vm = Vm::start(Server::with_intx());
    let asked = |vm: &Vm| std::mem::take(&mut *vm.asked.lock().unwrap());
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG));
    vm.write(CONFIG_REGION, 4, 2, 1 << 10 | 0b110);
    assert_eq!(asked(&vm), [FunctionRequest::LowerIntx]);
    assert_eq!(vm.interrupt_status(), 1, "which says what the device wants, not what the pin does");
    vm.end_intx();
    assert!(!vm.intx_within(A_MOMENT));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert!(vm.intx_within(LONG));
    // MSI-X takes its place.
    vm.write(CONFIG_REGION, 0x42, 2, 0x8000);
    assert_eq!(asked(&vm), [FunctionRequest::LowerIntx]);
    vm.end_intx();
    assert!(!vm.intx_within(A_MOMENT));
    vm.server.device.set_intx(false);
    vm.write(CONFIG_REGION, 0x42, 2, 0);
    vm.await_interrupt_status(0);
    assert!(!vm.intx_within(A_MOMENT), "the device wants nothing any more");
}

#[test]
fn a_pin_waits_while_the_guest_is_paused_and_a_device_without_one_has_none() {
    let mut vm = Vm::start(Server::with_intx());
    vm.process.pause().unwrap();
    vm.server.device.set_intx(true);
    assert!(!vm.intx_within(A_MOMENT));
    vm.process.resume().unwrap();
    assert!(vm.intx_within(LONG));

    let vm = Vm::start(Server::good());
    assert_eq!(vm.read(CONFIG_REGION, 0x3d, 1), 0);
    vm.end_intx();
    // One that takes INTx or MSI-X, not both, has MSI-X.
    let one_kind: Bend = Box::new(|command, body| {
        let index = body.get(8..12)?;
        let answer = match command {
            Command::DEVICE_GET_IRQ_INFO if index == [0; 4] => {
                Ok([16u32, 7, 0, 1].map(u32::to_le_bytes).concat())
            }
            Command::DEVICE_SET_IRQS if index == [0; 4] => Err(Errno::INVAL),
            _ => return None,
        };
        Some(answer)
    });
    let vm = Vm::start(Server::start(one_kind));
    assert_eq!((vm.read(CONFIG_REGION, 0x3d, 1), vm.failure()), (0, None));
}
