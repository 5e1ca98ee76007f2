// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model with its surroundings (memory, register page, wires, devices), used by one thread at a time.
//!
//! Each call leaves the device at a request boundary: the model is changed, the register page shows it, and the
//! interrupts it asked for are raised, in this order (see `publish`); and before any of it is visible, the checkpoint
//! has it (see `checkpoint`). A request that a process left in the ring when it died is handled again by the next one:
//! every register is idempotent, for a write stores a value and counts nothing, and consumption of commands is recorded
//! in CONS.

use crate::checkpoint::{CheckpointError, Keeper};
use crate::cmdq::Step;
use crate::devices::Devices;
use crate::effects::Effects;
use crate::host::{GuestRam, Wires};
use crate::publish::{Publisher, RegisterSink};
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
    keeper: Keeper,
    page: RegisterPage,
    ram: GuestRam,
    wires: Wires,
    region: u16,
    devices: Devices,
    /// Not started, or paused: no command is begun, and no guest memory is written, whatever devices report.
    frozen: bool,
    /// It was restored, and not started yet.
    is_loaded: bool,
    /// The life before died under a running guest.
    is_revived: bool,
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
    /// leaves the page as an earlier life left it, and its checkpoint.
    pub fn new(
        smmu: Smmu,
        keeper: Keeper,
        page: RegisterPage,
        ram: GuestRam,
        wires: Wires,
        region: u16,
        devices: Devices,
    ) -> Device {
        Device {
            smmu,
            publisher: None,
            keeper,
            page,
            ram,
            wires,
            region,
            devices,
            frozen: true,
            is_loaded: false,
            is_revived: false,
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

    /// Goes on from what the life before has left, which died under a running guest.
    ///
    /// # Errors
    /// If there is nothing, or it is not a device of this model.
    pub fn revive(&mut self) -> Result<(), CheckpointError> {
        let found = self.keeper.found(*self.smmu.registers().model())?;
        self.replace(found, Vec::new());
        self.is_revived = true;
        Ok(())
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

    /// Shows the guest the registers that changed.
    fn publish(&mut self) {
        show(&mut self.keeper, &mut self.publisher, &self.smmu, &mut self.page, self.is_revived);
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

/// Stores the registers that changed, all of them the first time; in the checkpoint first: what the guest has seen is
/// never taken back. Of a guest that runs already, its own registers are left as they are.
pub fn show(
    keeper: &mut Keeper,
    publisher: &mut Option<Publisher>,
    smmu: &Smmu,
    page: &mut impl RegisterSink,
    guest_runs: bool,
) {
    keeper.keep(smmu);
    match publisher {
        Some(publisher) => publisher.publish(smmu, page),
        none if guest_runs => *none = Some(Publisher::publish_ours(smmu, page)),
        none => *none = Some(Publisher::publish_all(smmu, page)),
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
