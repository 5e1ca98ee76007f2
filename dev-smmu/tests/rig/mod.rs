// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's side of the device: memory, a register page it reads, writes that the device handles.
#![allow(dead_code, reason = "each test program uses a part of the rig")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

use dev_smmu::Smmu;
use dev_smmu::cmdq::Step;
use dev_smmu::effects::{Effects, Interrupt};
use dev_smmu::memory::GuestMemory;
use dev_smmu::publish::{Publisher, RegisterSink};
use dev_smmu::stream::{Stage1Sink, SyncState};
use smmu_arch::command::StreamRange;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::commands::{Command, ComplSignal, Opcode, StreamQw0, SyncQw0};
use smmu_arch::spec::events::{EventRecord, Requester};
use smmu_arch::spec::registers::{REGISTER_FILE_LEN, Register};
use smmu_arch::spec::tables::QueueBase;
use smmu_arch::{Model, Options, StreamId};
use std::cell::RefCell;
use zerocopy::{FromBytes, IntoBytes};

/// Where the guest's RAM begins, as on the machine.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_LEN: usize = 0x10_0000;
pub const CMDQ: u64 = RAM + 0x1_0000;
pub const EVENTQ: u64 = RAM + 0x2_0000;

pub struct Ram(pub RefCell<Vec<u8>>);

impl Memory for Ram {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        let start = usize::try_from(address.checked_sub(RAM).ok_or(Abort)?).map_err(|_| Abort)?;
        let ram = self.0.borrow();
        bytes.copy_from_slice(ram.get(start..start + bytes.len()).ok_or(Abort)?);
        Ok(())
    }
}

impl GuestMemory for Ram {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Abort> {
        let start = usize::try_from(address.checked_sub(RAM).ok_or(Abort)?).map_err(|_| Abort)?;
        let mut ram = self.0.borrow_mut();
        ram.get_mut(start..start + bytes.len()).ok_or(Abort)?.copy_from_slice(bytes);
        Ok(())
    }
}

pub struct Page(pub Vec<u8>);

impl RegisterSink for Page {
    fn store_u32(&mut self, offset: u64, value: u32) {
        self.0[offset as usize..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn store_u64(&mut self, offset: u64, value: u64) {
        self.0[offset as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }
}

/// What the devices were asked, and whether they have answered.
#[derive(Default)]
pub struct Devices {
    pub reevaluated: Vec<StreamRange>,
    pub invalidated: Vec<Opcode>,
    pub busy: bool,
}

impl Stage1Sink for Devices {
    fn reevaluate(&mut self, streams: StreamRange) {
        self.reevaluated.push(streams);
    }

    fn invalidate(&mut self, command: &Command) {
        self.invalidated.push(command.opcode());
    }

    fn sync(&mut self) -> SyncState {
        if self.busy { SyncState::Pending } else { SyncState::Done }
    }
}

pub struct Rig {
    pub smmu: Smmu,
    pub ram: Ram,
    pub page: Page,
    pub publisher: Publisher,
    pub devices: Devices,
    pub interrupts: Vec<Interrupt>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Smmu::new(
            Model::new(smmu_arch::model::MODEL_NAME, Options { ssidsize: 0, oas: 44, ..Options::default() })
                .unwrap(),
        ))
    }

    pub fn with(smmu: Smmu) -> Rig {
        let mut page = Page(vec![0; REGISTER_FILE_LEN as usize]);
        let publisher = Publisher::publish_all(&smmu, &mut page);
        Rig {
            smmu,
            ram: Ram(RefCell::new(vec![0; RAM_LEN])),
            page,
            publisher,
            devices: Devices::default(),
            interrupts: Vec::new(),
        }
    }

    /// A device with both queues of `2^log2_size` entries enabled, and interrupts too.
    pub fn enabled(log2_size: u8) -> Rig {
        let mut rig = Rig::new();
        rig.w64(Register::CMDQ_BASE, CMDQ | u64::from(log2_size));
        rig.w64(Register::EVENTQ_BASE, EVENTQ | u64::from(log2_size));
        rig.w32(Register::IRQ_CTRL, 0b101);
        rig.w32(Register::CR0, 0b1101);
        rig
    }

    /// Reads the page, as the guest does.
    pub fn r32(&self, register: Register) -> u32 {
        u32::read_from_bytes(&self.page.0[register.offset() as usize..][..4]).unwrap()
    }

    pub fn w32(&mut self, register: Register, value: u32) {
        self.write(register.offset(), 4, value.into());
    }

    pub fn w64(&mut self, register: Register, value: u64) {
        self.write(register.offset(), 8, value);
    }

    /// One write as the vCPU side and the ring thread do it, with all the work it starts.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        for register in dev_smmu::publish::GUEST_OWNED {
            if offset == register.offset() && size == 4 {
                self.page.store_u32(offset, value as u32);
            }
        }
        self.smmu.write(offset, size, value, &mut self.devices);
        self.publisher.publish(&self.smmu, &mut self.page);
        while self.step(16) == Step::More {}
    }

    pub fn step(&mut self, budget: u32) -> Step {
        let mut effects = Effects::default();
        let step = self.smmu.step(&self.ram, &mut self.devices, &mut effects, budget);
        self.publisher.publish(&self.smmu, &mut self.page);
        self.interrupts.extend(effects.interrupts());
        step
    }

    pub fn record(&mut self, stream: u32) -> dev_smmu::eventq::Recorded {
        let mut effects = Effects::default();
        let who = Requester { stream: StreamId(stream), substream: None };
        let recorded = self.smmu.record(&EventRecord::c_bad_ste(who), &self.ram, &mut effects);
        self.publisher.publish(&self.smmu, &mut self.page);
        self.interrupts.extend(effects.interrupts());
        recorded
    }

    /// Puts a command into slot `index` of the queue.
    pub fn put_command(&self, index: u32, command: Command) {
        self.ram.write(CMDQ + u64::from(index) * 16, command.as_bytes()).unwrap();
    }

    /// The record in slot `index` of the Event queue.
    pub fn event(&self, index: u32) -> EventRecord {
        let mut bytes = [0; 32];
        self.ram.read(EVENTQ + u64::from(index) * 32, &mut bytes).unwrap();
        EventRecord::read_from_bytes(&bytes).unwrap()
    }

    pub fn queue_base(register: u64) -> u64 {
        QueueBase::from_bits(register).addr()
    }
}

pub fn sync(signal: ComplSignal) -> Command {
    Command { qw0: SyncQw0::new().with_opcode(Opcode::Sync).with_cs(signal).into_bits(), qw1: 0 }
}

pub fn command(opcode: Opcode) -> Command {
    Command { qw0: StreamQw0::new().with_opcode(opcode).into_bits(), qw1: 0 }
}
