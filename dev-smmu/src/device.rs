// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model with everything it acts on, as one value that is handled by one thread at a time.
//!
//! Each call leaves the device at a request boundary: the model is changed, the register page shows it, and
//! the interrupts it asked for are raised, in this order (see `publish`). A request that a dead process left
//! in the ring is handled again by the next one: a register write is the same twice, and commands are
//! consumed by CONS, which the register page and the saved state carry.

use crate::cmdq::Step;
use crate::devices::Devices;
use crate::effects::Effects;
use crate::host::{GuestRam, Wires};
use crate::publish::Publisher;
use crate::smmu::Smmu;
use crate::stream::Stage1Sink;
use ipc::protocol::control::StreamReplay;
use ipc::protocol::stage1::Fault;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring::{Access, Op};
use smmu_arch::StreamId;
use smmu_arch::command::StreamRange;
use smmu_arch::spec::events::{EventRecord, EventType};
use std::time::{Duration, Instant};

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
    devices: Devices,
    /// Not begun, or paused: nothing is begun, and nothing of the guest's memory is written, whatever devices tell.
    frozen: bool,
    /// It was saved, and has not begun yet.
    is_loaded: bool,
    foreign_requests: u64,
}

/// What is on its way between the devices and the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Orders that a device has not answered, and Updates that are not acknowledged for it.
    pub orders: u64,
    /// Faults that a device has told and that are not in the Event queue.
    pub faults: u64,
}

/// Faults recorded before the ring is looked at again: a device that faults without end delays no access.
const FAULT_BUDGET: u32 = 256;
/// How long a step waits for the devices before the ring is looked at again: a device answers within tens of
/// microseconds, and a wait is cheaper than a switch to the thread that reads its channel.
const ANSWER_SPAN: Duration = Duration::from_micros(500);
/// How many answers of the devices a pause waits for in turn: a CMD_SYNC that ends may let more commands through, which are at most
/// what the Command queue holds, 64 to a batch.
const SETTLE_TURNS: usize = 256;

impl Device {
    /// Surrounds a device, and publishes all of its registers: no vCPU may be running.
    pub fn new(
        smmu: Smmu,
        mut page: RegisterPage,
        ram: GuestRam,
        wires: Wires,
        region: u16,
        devices: Devices,
    ) -> Device {
        let publisher = Publisher::publish_all(&smmu, &mut page);
        Device {
            smmu,
            publisher,
            page,
            ram,
            wires,
            region,
            devices,
            frozen: true,
            is_loaded: false,
            foreign_requests: 0,
        }
    }

    /// The model.
    pub fn smmu(&self) -> &Smmu {
        &self.smmu
    }

    /// Puts another model in place of the one that is there, registers published, and with it the faults that were on their way.
    pub fn replace(&mut self, smmu: Smmu, faults: Vec<(StreamId, Fault)>) {
        self.publisher = Publisher::publish_all(&smmu, &mut self.page);
        self.smmu = smmu;
        self.devices.restore_faults(faults);
        self.is_loaded = true;
        self.devices.reevaluate(StreamRange::ALL);
    }

    /// Whether commands and faults wait from now on.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Faults that devices have told and that are not in the Event queue yet.
    pub fn faults(&self) -> Vec<(StreamId, Fault)> {
        self.devices.faults()
    }

    /// Attaches every stream anew, as the guest's tables say by the registers that are loaded, and waits for the devices. Called
    /// before the guest runs.
    pub fn replay(&mut self, span: Duration) -> Vec<StreamReplay> {
        let (smmu, ram) = (&self.smmu, &self.ram);
        self.devices.replay(Instant::now() + span, |stream| smmu.attachment(ram, stream))
    }

    /// Commands and faults wait no longer. Of a device that was loaded the wires are pulsed for all that its guest may not have been told:
    /// an edge that it has not taken yet is the same one; one that it has is a look at a queue in vain.
    pub fn begin(&mut self) {
        self.frozen = false;
        if std::mem::take(&mut self.is_loaded) {
            self.wires.pulse(&self.smmu.announcements());
        }
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
                if self.smmu.is_updating() {
                    // Acknowledged (CR0ACK) when the streams have followed: now if that is at once, else by a later step.
                    self.resolve();
                    self.devices.wait_answered(ANSWER_SPAN);
                    self.smmu.complete_updates(&mut self.devices);
                }
                self.publisher.publish(&self.smmu, &mut self.page);
                0
            }
        }
    }

    /// Consumes some commands, if any are ready.
    pub fn step(&mut self) -> Step {
        if self.frozen {
            return Step::Idle;
        }
        let mut step = self.step_once();
        if step == Step::AwaitSync {
            self.devices.wait_answered(ANSWER_SPAN);
            step = self.step_once();
        }
        step
    }

    fn step_once(&mut self) -> Step {
        self.record_faults();
        // A device may have come up since, or have followed.
        self.resolve();
        let mut effects = Effects::default();
        let step = self.smmu.step(&self.ram, &mut self.devices, &mut effects, STEP_BUDGET);
        self.resolve();
        self.smmu.complete_updates(&mut self.devices);
        // What a device told before it answered is in the queue before the CMD_SYNC is seen to be complete.
        self.record_faults();
        self.publisher.publish(&self.smmu, &mut self.page);
        self.wires.pulse(&effects);
        step
    }

    /// Has all that is on its way arrive: every device tells its faults and answers, they are recorded, and the commands and
    /// acknowledgements that waited for it complete. What is left after `span` is what [`Device::in_flight`] says.
    pub fn settle(&mut self, span: Duration) {
        let until = Instant::now() + span;
        self.devices.ask_all();
        for _ in 0..SETTLE_TURNS {
            self.devices.wait_answered(until.saturating_duration_since(Instant::now()));
            while self.step_once() == Step::More && Instant::now() < until {}
            let is_still = self.devices.unanswered() == 0 && self.devices.fault_count() == 0;
            if is_still || Instant::now() >= until {
                return;
            }
        }
    }

    /// Waits until every device has told what it has to tell, and answered; nothing is recorded.
    pub fn await_answers(&mut self, span: Duration) {
        self.devices.ask_all();
        self.devices.wait_answered(span);
    }

    /// Whether a step would find faults to record.
    pub fn has_work(&self) -> bool {
        !self.frozen && self.devices.fault_count() > 0
    }

    /// What has not arrived yet.
    pub fn in_flight(&self) -> InFlight {
        let orders = self.devices.unanswered().max(u64::from(self.smmu.is_updating()));
        InFlight { orders, faults: u64::try_from(self.devices.fault_count()).unwrap_or(u64::MAX) }
    }

    fn resolve(&mut self) {
        let (smmu, ram) = (&self.smmu, &self.ram);
        self.devices.resolve(|stream| smmu.attachment(ram, stream));
    }

    /// Records what the devices have told. Each told it before it answered the orders that came after it.
    fn record_faults(&mut self) {
        for _ in 0..FAULT_BUDGET {
            let Some((stream, fault)) = self.devices.next_fault() else { return };
            self.record(StreamId(stream.0), fault);
        }
    }

    fn record(&mut self, stream: StreamId, fault: Fault) {
        let record = match fault {
            Fault::Aborted { .. } => self.smmu.abort_event(&self.ram, stream),
            Fault::Record(words) => reported(words, stream),
        };
        let Some(record) = record else { return };
        let mut effects = Effects::default();
        self.smmu.record(&record, &self.ram, &mut effects);
        self.publisher.publish(&self.smmu, &mut self.page);
        self.wires.pulse(&effects);
    }

    /// What the devices behind have done.
    pub fn each_device(&self, show: impl FnMut(String, u64)) {
        self.devices.each(show);
    }

    /// Requests for a region that is not this device's: none, unless the vCPU process is wrong.
    pub fn foreign_requests(&self) -> u64 {
        self.foreign_requests
    }
}

/// A record as a device reported it, if it is one that a device can report, of its own stream, and not stalled.
fn reported(words: [u64; 4], stream: StreamId) -> Option<EventRecord> {
    let record: EventRecord = zerocopy::transmute!(words);
    let known = matches!(
        record.qw0.event_type(),
        EventType::C_BAD_STE
            | EventType::F_STREAM_DISABLED
            | EventType::C_BAD_SUBSTREAMID
            | EventType::F_CD_FETCH
            | EventType::C_BAD_CD
            | EventType::F_WALK_EABT
            | EventType::F_TRANSLATION
            | EventType::F_ADDR_SIZE
            | EventType::F_ACCESS
            | EventType::F_PERMISSION
    );
    (known && record.qw0.stream_id() == stream.0 && !record.qw1.stall()).then_some(record)
}
