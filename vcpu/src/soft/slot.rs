// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One software vCPU, and its counters, which can be read while it runs.

use soft_cpu::cluster::VcpuHandle;
use soft_cpu::{Exit, Vcpu};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait for a vCPU to publish its count: many times what leaving guest code takes.
const COUNT_DEADLINE: Duration = Duration::from_millis(20);
/// How often to look.
const COUNT_POLL: Duration = Duration::from_micros(200);

/// One vCPU. Its thread holds the lock while guest code runs; while it is parked others may take it.
pub struct CpuSlot {
    vcpu: Mutex<Vcpu>,
    /// Instructions executed, as of the last time guest code was left.
    retired: AtomicU64,
    /// How often guest code was left.
    exits: AtomicU64,
    /// Reaches the vCPU while its thread holds it.
    pub handle: VcpuHandle,
}

impl CpuSlot {
    /// A vCPU and the handle to it.
    pub fn new(vcpu: Vcpu, handle: VcpuHandle) -> Self {
        Self { vcpu: Mutex::new(vcpu), retired: AtomicU64::new(0), exits: AtomicU64::new(0), handle }
    }

    /// Instructions executed so far. A vCPU in guest code is kicked to publish its count; for one that is parked or
    /// waits for a device, this is its last count, after [`COUNT_DEADLINE`].
    pub fn retired(&self) -> u64 {
        let exits = self.exits.load(Ordering::Acquire);
        let asked = Instant::now();
        self.handle.kick();
        while self.exits.load(Ordering::Acquire) == exits && asked.elapsed() < COUNT_DEADLINE {
            std::thread::sleep(COUNT_POLL);
        }
        self.retired.load(Ordering::Relaxed)
    }

    /// Runs guest code on the calling thread.
    pub fn run(&self) -> Exit {
        let mut vcpu = self.vcpu();
        let exit = vcpu.run();
        self.retired.store(vcpu.retired(), Ordering::Relaxed);
        self.exits.fetch_add(1, Ordering::Release);
        exit
    }

    /// Locks the vCPU; waits for its thread to leave guest code.
    pub fn vcpu(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
