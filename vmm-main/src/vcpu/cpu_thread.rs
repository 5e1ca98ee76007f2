// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread of one vCPU: guest code whenever the gate is open.

use super::gate::Gate;
use ipc::channel::Channel;
use ipc::protocol::control::Event;
use ipc::service;
use soft_cpu::cluster::VcpuHandle;
use soft_cpu::{Exit, Vcpu};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One vCPU. Its thread holds it while guest code runs; whoever paused the machine may take it meanwhile.
pub struct CpuSlot {
    vcpu: Mutex<Vcpu>,
    /// Instructions executed, as of the last time guest code was left.
    retired: AtomicU64,
    /// Reaches the vCPU while its thread holds it.
    pub handle: VcpuHandle,
}

impl CpuSlot {
    /// A vCPU and the handle to it.
    pub fn new(vcpu: Vcpu, handle: VcpuHandle) -> Self {
        Self { vcpu: Mutex::new(vcpu), retired: AtomicU64::new(0), handle }
    }

    /// Instructions executed so far, about: a running vCPU is asked to leave guest code and count, and the
    /// answer is for the next who asks.
    pub fn retired(&self) -> u64 {
        self.handle.kick();
        self.retired.load(Ordering::Relaxed)
    }

    fn run(&self) -> Exit {
        let mut vcpu = self.vcpu();
        let exit = vcpu.run();
        self.retired.store(vcpu.retired(), Ordering::Relaxed);
        exit
    }

    /// The vCPU itself; waits for its thread to leave guest code.
    pub fn vcpu(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `slots[index]` until the gate says quit.
pub fn serve(slots: &[CpuSlot], index: usize, gate: &Gate, channel: &Channel) {
    let Some(slot) = slots.get(index) else { return };
    while gate.wait_running() {
        let event = match slot.run() {
            Exit::Kicked => continue,
            Exit::PowerOff => Event::GuestPoweredOff,
            Exit::Reset => Event::GuestReset,
        };
        // The machine stands still before anyone is told, so that nothing happens after its end.
        gate.request_pause();
        slots.iter().for_each(|slot| slot.handle.kick());
        service::tell(channel, &event);
    }
}
