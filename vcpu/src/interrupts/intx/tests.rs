// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pins that share a line, on a real interrupt controller.

use soft_cpu::gic::{GicConfig, TableMemory};

use super::super::controller::ResampledLine;
use super::*;
use ipc::doorbell;
use soft_cpu::gic::Gic;

impl InterruptController for Gic {
    fn pulse(&self, intid: u32) {
        Gic::pulse(self, intid);
    }

    fn set_level(&self, intid: u32, high: bool) {
        Gic::set_level(self, intid, high);
    }

    fn signal_msi(&self, _device_id: u32, _event_id: u32) {}

    fn resampled(&self) -> &[ResampledLine] {
        &[]
    }

    fn loses_ends(&self) -> bool {
        false
    }

    fn kick_vcpus(&self) {}
}

struct NoMemory;

impl TableMemory for NoMemory {
    fn read(&self, _gpa: u64, _buffer: &mut [u8]) -> bool {
        false
    }

    fn write(&self, _gpa: u64, _bytes: &[u8]) -> bool {
        false
    }
}

/// A pin, and its function's end.
fn pin(intid: u32) -> (Pin, Doorbell) {
    let ((_, raised), (ended, told)) = (doorbell::pair().unwrap(), doorbell::pair().unwrap());
    (Pin { raised, ended, intid }, told)
}

fn machine(intids: &[u32]) -> (Arc<Pins>, Vec<Doorbell>, Arc<Gic>) {
    let (pins, functions) = intids.iter().copied().map(pin).unzip();
    let pins = Arc::new(Pins::new(pins));
    let config = GicConfig { vcpu_count: 1, spi_count: 64, its: false };
    let gic = Arc::new(Gic::new(config, Arc::new(NoMemory), Box::new(|_| ())).unwrap());
    pins.connect(&(Arc::clone(&gic) as Arc<dyn InterruptController>));
    (pins, functions, gic)
}

/// GICD_ISPENDR1: the pending bits of INTIDs 32 to 63.
fn pending(gic: &Gic) -> u64 {
    gic.dist_read(0x204, 4)
}

fn told(functions: &[Doorbell]) -> Vec<bool> {
    functions.iter().map(Doorbell::take).collect()
}

#[test]
fn pins_on_one_line_are_all_told_of_its_fall_and_no_others() {
    let (pins, functions, gic) = machine(&[41, 42, 41]);
    assert_eq!(pins.intids(), [41, 42]);
    pins.iter().for_each(|pin| pins.raise(pin));
    assert_eq!(pending(&gic), 0b11 << 9);
    assert_eq!(told(&functions), [false; 3]);
    pins.lower(41);
    assert_eq!(pending(&gic), 0b10 << 9);
    assert_eq!(told(&functions), [true, false, true]);
    // The one that still holds it up says so.
    pins.raise(pins.iter().last().unwrap());
    assert_eq!(pending(&gic), 0b11 << 9);
}

#[test]
fn pins_before_there_is_an_interrupt_controller_raise_nothing() {
    let (pin, function) = pin(41);
    let pins = Pins::new(vec![pin]);
    pins.raise(pins.iter().next().unwrap());
    pins.lower(41);
    assert_eq!(told(&[function]), [true]);
}
