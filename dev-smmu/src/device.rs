// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model with everything it acts on, as one value that is handled by one thread at a time.
//!
//! Each call leaves the device at a request boundary: the model is changed, the register page shows it, and
//! the interrupts it asked for are raised, in this order (see `publish`). A request that a dead process left
//! in the ring is handled again by the next one: a register write is the same twice, and commands are
//! consumed by CONS, which the register page and the saved state carry.

use crate::cmdq::Step;
use crate::effects::Effects;
use crate::host::{GuestRam, Wires};
use crate::publish::Publisher;
use crate::smmu::Smmu;
use crate::stream::NoDevices;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring::{Access, Op};

/// Commands consumed before the ring is looked at again. A CMD_SYNC of Linux's largest batch (64) is then
/// never more than one step away, and a flood of commands delays an access by tens of microseconds.
const STEP_BUDGET: u32 = 64;

/// The device and its surroundings.
#[derive(Debug)]
pub struct Device {
    smmu: Smmu,
    publisher: Publisher,
    page: RegisterPage,
    ram: GuestRam,
    wires: Wires,
    region: u16,
    devices: NoDevices,
    foreign_requests: u64,
}

impl Device {
    /// Surrounds a device, and publishes all of its registers: no vCPU may be running.
    pub fn new(smmu: Smmu, mut page: RegisterPage, ram: GuestRam, wires: Wires, region: u16) -> Device {
        let publisher = Publisher::publish_all(&smmu, &mut page);
        Device { smmu, publisher, page, ram, wires, region, devices: NoDevices, foreign_requests: 0 }
    }

    /// The model.
    pub fn smmu(&self) -> &Smmu {
        &self.smmu
    }

    /// Puts another model in place of the one that is there, registers published.
    pub fn replace(&mut self, smmu: Smmu) {
        self.publisher = Publisher::publish_all(&smmu, &mut self.page);
        self.smmu = smmu;
    }

    /// Handles one request of the ring and returns what a read of it is answered with.
    pub fn access(&mut self, access: Access) -> u64 {
        if access.region != self.region {
            self.foreign_requests += 1;
            return 0;
        }
        match access.op {
            Op::Read => self.smmu.read(access.offset, access.size),
            Op::Write(value) | Op::Post(value) => {
                self.smmu.write(access.offset, access.size, value, &mut self.devices);
                self.publisher.publish(&self.smmu, &mut self.page);
                0
            }
        }
    }

    /// Consumes some commands, if any are ready.
    pub fn step(&mut self) -> Step {
        if !self.smmu.has_commands() {
            return Step::Idle;
        }
        let mut effects = Effects::default();
        let step = self.smmu.step(&self.ram, &mut self.devices, &mut effects, STEP_BUDGET);
        self.publisher.publish(&self.smmu, &mut self.page);
        self.wires.pulse(&effects);
        step
    }

    /// Requests for a region that is not this device's: none, unless the vCPU process is wrong.
    pub fn foreign_requests(&self) -> u64 {
        self.foreign_requests
    }
}
