// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs and devices at once: no interrupt is lost or taken twice, lines and callbacks agree.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::machine::{ITTS, Machine, SGI1R, SPURIOUS};

const VCPU_COUNT: usize = 4;
const ROUNDS: u64 = 2000;

#[test]
fn every_message_and_ipi_is_taken_in_the_end() {
    let machine = Machine::with_lpis(VCPU_COUNT);
    machine.mapd(1, 8, ITTS);
    for vcpu in 0..VCPU_COUNT {
        machine.enable_private(vcpu, 0);
        machine.mapti(1, vcpu as u64, 8192 + vcpu as u64, vcpu as u64);
    }
    let taken: Vec<AtomicU64> = (0..VCPU_COUNT).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for vcpu in 0..VCPU_COUNT {
            let (machine, taken, done) = (&machine, &taken[vcpu], &done);
            scope.spawn(move || {
                loop {
                    let last = done.load(Ordering::Acquire);
                    let mut found = false;
                    while machine.line(vcpu) {
                        let intid = machine.ack(vcpu);
                        assert!(intid == 0 || intid == 8192 + vcpu as u64, "{intid} at vCPU {vcpu}");
                        taken.fetch_add(1, Ordering::Relaxed);
                        machine.eoi(vcpu, intid);
                        found = true;
                    }
                    if last && !found {
                        return;
                    }
                    thread::yield_now();
                }
            });
        }
        let producers: Vec<_> = (0..2)
            .map(|producer| {
                let machine = &machine;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let vcpu = round % VCPU_COUNT as u64;
                        match producer {
                            0 => assert!(machine.gic.signal_msi(1, vcpu as u32)),
                            _ => machine.set_icc(0, SGI1R, 1 << vcpu),
                        }
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    for vcpu in 0..VCPU_COUNT {
        assert!(!machine.line(vcpu));
        assert_eq!(machine.ack(vcpu), SPURIOUS);
        let taken = taken[vcpu].load(Ordering::Relaxed);
        assert!((2..=2 * ROUNDS / VCPU_COUNT as u64).contains(&taken), "{taken}");
        assert!(machine.rises(vcpu) as u64 >= taken, "each taken interrupt was a rise of its own");
    }
}
