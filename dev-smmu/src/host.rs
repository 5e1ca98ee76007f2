// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model's interfaces implemented on the host: guest RAM with its dirty log, the register page, doorbells.

use crate::effects::{Effects, Interrupt};
use crate::memory::GuestMemory;
use crate::publish::RegisterSink;
use ipc::addr::Gpa;
use ipc::doorbell::Ringer;
use ipc::shm::guest_memory;
use ipc::shm::register_page::RegisterPage;
use smmu_arch::memory::{Abort, Memory};

/// Guest RAM. An address that is not all RAM aborts, as a bus would.
#[derive(Clone, Debug)]
pub struct GuestRam(pub guest_memory::GuestMemory);

impl Memory for GuestRam {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        self.0.read(Gpa(address), bytes).map_err(|_| Abort)
    }
}

impl GuestMemory for GuestRam {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Abort> {
        self.0.write(Gpa(address), bytes).map_err(|_| Abort)
    }
}

/// The page the guest reads; its stores are release stores, so what a register announces is seen with it.
impl RegisterSink for RegisterPage {
    fn store_u32(&mut self, offset: u64, value: u32) {
        RegisterPage::store_u32(self, offset, value);
    }

    fn store_u64(&mut self, offset: u64, value: u64) {
        RegisterPage::store_u64(self, offset, value);
    }
}

/// The three wires. Each is a doorbell that the vCPU process turns into an edge.
#[derive(Debug)]
pub struct Wires {
    /// For records in the Event queue.
    pub event_queue: Ringer,
    /// For a change of SMMU_GERROR.
    pub global_error: Ringer,
    /// CMD_SYNC.
    pub command_sync: Ringer,
}

impl Wires {
    /// Pulses the requested interrupts.
    pub fn pulse(&self, effects: &Effects) {
        for interrupt in effects.interrupts() {
            let wire = match interrupt {
                Interrupt::EventQueue => &self.event_queue,
                Interrupt::GlobalError => &self.global_error,
                Interrupt::CommandSync => &self.command_sync,
            };
            wire.ring();
        }
    }
}
