// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The probe on the host's own KVM; left out, and counted, where there is none.

use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;

use super::*;

#[test]
fn probe_takes_its_interrupt_and_answers_the_same_each_time() {
    let device = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => file,
        Err(error) => {
            eprintln!("SKIPPED: the probe of level interrupts: /dev/kvm cannot be opened: {error}");
            return;
        }
    };
    let kvm = sys::kvm(device.into());
    let new_eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let line = ResampledLine { fell: new_eventfd(), intid: INTID };
    let unused = new_eventfd();
    let answers: Vec<bool> =
        (0..5).map(|_| are_lost(&kvm, &line, &unused, sys::page_len()).unwrap()).collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    eprintln!("SEEN: ends of level interrupts are {}", if answers[0] { "lost" } else { "told" });
}
