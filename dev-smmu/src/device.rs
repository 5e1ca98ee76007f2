// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model with its surroundings (memory, register page, wires, devices), used by one thread at a time.
//!
//! Each call leaves the device at a request boundary: the model is changed, the register page shows it, and the
//! interrupts it asked for are raised, in this order (see `publish`). A request that a process left in the ring when
//! it died is handled again by the next one: register writes are idempotent, and consumption of commands is recorded
//! in CONS, which is in the register page and the saved state.

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

/// Commands consumed before the ring is polled again. A CMD_SYNC of Linux's largest batch (64) is then never more
/// than one step away, and a flood of commands delays an access by tens of microseconds.
const STEP_BUDGET: u32 = 64;

/// The device and its surroundings.
#[derive(Debug)]
pub struct Device {
    smmu: Smmu,
    /// None before the guest is to see anything: the page may still be that of an earlier life.
    publisher: Option<Publisher>,
    page: RegisterPage,
    ram: GuestRam,
    wires: Wires,
    region: u16,
    devices: Devices,
    /// Not started, or paused: no command is begun, and no guest memory is written, whatever devices report.
    frozen: bool,
    /// It was restored, and not started yet.
    is_loaded: bool,
    foreign_requests: u64,
}

/// Work in flight between the devices and the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Requests that a device has not answered, and Updates whose acknowledgement waits for it.
    pub stage1_requests: u64,
    /// Faults that a device has reported and that are not in the Event queue.
    pub faults: u64,
}

/// Faults recorded before the ring is polled again: a device that faults without end delays no access.
const FAULT_BUDGET: u32 = 256;
/// How long a step waits for the devices before the ring is polled again: a device answers within tens of
/// microseconds, and waiting for that is cheaper than a switch to the thread that reads its channel.
const ANSWER_SPAN: Duration = Duration::from_micros(500);
/// Rounds of answers that a pause waits for: a CMD_SYNC that completes may let further commands be consumed, at most
/// a full Command queue in batches of 64.
const SETTLE_TURNS: usize = 256;

impl Device {
    /// Connects the model to its surroundings. Nothing is published before the first access or `begin`: a failed way in
    /// leaves the page as an earlier life left it.
    pub fn new(
        smmu: Smmu,
        page: RegisterPage,
        ram: GuestRam,
        wires: Wires,
        region: u16,
        devices: Devices,
    ) -> Device {
        Device {
            smmu,
            publisher: None,
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

    /// Replaces the model by a restored one with its unrecorded faults.
    pub fn replace(&mut self, smmu: Smmu, faults: Vec<(StreamId, Fault)>) {
        self.publisher = None;
        self.smmu = smmu;
        self.devices.restore_faults(faults);
        self.is_loaded = true;
        self.devices.reevaluate(StreamRange::ALL);
    }

    /// The devices behind it.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The devices behind it.
    pub fn devices_mut(&mut self) -> &mut Devices {
        &mut self.devices
    }

    /// Sets whether commands and faults are held from now on.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Faults that devices have reported and that are not in the Event queue yet.
    pub fn faults(&self) -> Vec<(StreamId, Fault)> {
        self.devices.faults()
    }

    /// Attaches every stream as the guest's tables and the restored registers say, and waits for the devices. Called
    /// before the guest runs.
    pub fn replay(&mut self, span: Duration) -> Vec<StreamReplay> {
        let (smmu, ram) = (&self.smmu, &self.ram);
        self.devices.replay(Instant::now() + span, |stream| smmu.attachment(ram, stream))
    }

    /// Stores the registers that changed; all of them the first time.
    fn publish(&mut self) {
        match &mut self.publisher {
            Some(publisher) => publisher.publish(&self.smmu, &mut self.page),
            none => *none = Some(Publisher::publish_all(&self.smmu, &mut self.page)),
        }
    }

    /// The registers are published, and commands and faults are no longer held. After a restore the wires are pulsed
    /// for every interrupt that may have been lost: one still pending merges with it, one already taken makes the guest
    /// check a queue once more.
    pub fn begin(&mut self) {
        self.publish();
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
                    // Acknowledged (CR0ACK) when every stream is attached accordingly: now if possible, else by a
                    // later step.
                    self.resolve();
                    self.devices.wait_answered(ANSWER_SPAN);
                    self.smmu.complete_updates(&mut self.devices);
                }
                self.publish();
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
        // A device may have said hello or answered since.
        self.resolve();
        let mut effects = Effects::default();
        let step = self.smmu.step(&self.ram, &mut self.devices, &mut effects, STEP_BUDGET);
        self.resolve();
        self.smmu.complete_updates(&mut self.devices);
        // Faults reported before an answer are in the Event queue before the CMD_SYNC becomes visible as complete.
        self.record_faults();
        self.publish();
        self.wires.pulse(&effects);
        step
    }

    /// Drains work in flight: every device reports its faults and answers, faults are recorded, and waiting commands
    /// and acknowledgements complete. [`Device::in_flight`] returns what is left after `span`.
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

    /// Waits until every device has reported its faults and answered; does not record them.
    pub fn await_answers(&mut self, span: Duration) {
        self.devices.ask_all();
        self.devices.wait_answered(span);
    }

    /// Whether a step would find faults to record.
    pub fn has_work(&self) -> bool {
        !self.frozen && self.devices.fault_count() > 0
    }

    /// What is still in flight.
    pub fn in_flight(&self) -> InFlight {
        let stage1_requests = self.devices.unanswered().max(u64::from(self.smmu.is_updating()));
        InFlight { stage1_requests, faults: u64::try_from(self.devices.fault_count()).unwrap_or(u64::MAX) }
    }

    fn resolve(&mut self) {
        let (smmu, ram) = (&self.smmu, &self.ram);
        self.devices.resolve(|stream| smmu.attachment(ram, stream));
    }

    /// Records reported faults. A device reports each before it answers later requests.
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
        self.publish();
        self.wires.pulse(&effects);
    }

    /// Applies the devices' answers.
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
