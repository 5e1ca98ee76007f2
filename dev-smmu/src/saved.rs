// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's saved state: a frozen struct of plain integers, written and read with full destructuring.
//!
//! `SmmuV1` and `SmmuV2` are never edited once released: a change is a `SmmuV3` and a conversion. It shares no type
//! with the running device. Identification registers are saved as the guest has read them, and compared with the
//! destination's model, never adopted. A blob is untrusted: every value passes the same `put` as a live write. Error
//! bits survive, so a command that failed before the save still stops the queue after the restore.

use crate::checkpoint::CheckpointV1;
use crate::inspect::Counters;
use crate::link::FAULTS_MAX;
use crate::regfile::{RegisterFile, low32};
use crate::smmu::Smmu;
use ipc::protocol::stage1::Fault;
use ipc::saved::{SavedState, UnitKind};
use serde::{Deserialize, Serialize};
use smmu_arch::spec::control::Cr0;
use smmu_arch::spec::registers::Register;
use smmu_arch::{Model, StreamId};
use thiserror::Error;

/// Version 1: every register that holds state, and every identification register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the register of its name")]
pub struct SmmuV1 {
    pub idr0: u32,
    pub idr1: u32,
    pub idr2: u32,
    pub idr3: u32,
    pub idr4: u32,
    pub idr5: u32,
    pub iidr: u32,
    pub aidr: u32,
    pub cr0: u32,
    pub cr0ack: u32,
    pub cr1: u32,
    pub cr2: u32,
    pub gbpa: u32,
    pub irq_ctrl: u32,
    pub irq_ctrlack: u32,
    pub gerror: u32,
    pub gerrorn: u32,
    pub strtab_base: u64,
    pub strtab_base_cfg: u32,
    pub cmdq_base: u64,
    pub cmdq_prod: u32,
    pub cmdq_cons: u32,
    pub eventq_base: u64,
    pub eventq_prod: u32,
    pub eventq_cons: u32,
}

/// Version 2: the registers, and faults that devices had reported that were not in the Event queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SmmuV2 {
    /// As in version 1.
    pub registers: SmmuV1,
    /// Faults that are not recorded yet, oldest first for each stream.
    pub faults: Vec<FaultV2>,
}

/// A terminated transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FaultV2 {
    /// The StreamID.
    pub stream: u32,
    /// The event record, as four words; none where looking the stream's entry up again says what it is.
    pub record: Option<[u64; 4]>,
}

impl From<SmmuV1> for SmmuV2 {
    fn from(registers: SmmuV1) -> Self {
        Self { registers, faults: Vec::new() }
    }
}

impl SavedState for SmmuV1 {
    const KIND: UnitKind = UnitKind::new("smmu");
    const VERSION: u16 = 1;
}

impl SavedState for SmmuV2 {
    const KIND: UnitKind = SmmuV1::KIND;
    const VERSION: u16 = 2;
}

impl SmmuV2 {
    /// Of these registers and faults.
    pub fn new(registers: SmmuV1, faults: Vec<(StreamId, Fault)>) -> Self {
        let fault = |(stream, fault): (StreamId, Fault)| FaultV2 {
            stream: stream.0,
            record: match fault {
                Fault::Record(words) => Some(words),
                Fault::Aborted { .. } => None,
            },
        };
        Self { registers, faults: faults.into_iter().map(fault).collect() }
    }

    /// The faults, if they are of streams that there are, and not more than can have been waiting.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn faults(&self, streams: &[StreamId]) -> Result<Vec<(StreamId, Fault)>, RestoreError> {
        let max = FAULTS_MAX.saturating_mul(streams.len());
        if self.faults.len() > max {
            return Err(RestoreError::FaultCount { count: self.faults.len(), max });
        }
        let fault = |fault: &FaultV2| {
            let FaultV2 { stream, record } = *fault;
            let known = streams.iter().copied().find(|known| known.0 == stream);
            let stream = known.ok_or(RestoreError::FaultStream { stream })?;
            Ok((
                stream,
                record.map_or(Fault::Aborted { stream: ipc::addr::StreamId(stream.0) }, Fault::Record),
            ))
        };
        self.faults.iter().map(fault).collect()
    }
}

/// Why a saved state cannot be restored.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RestoreError {
    /// The guest has read another value of an identification register than this device advertises.
    #[error("the guest knows its SMMU by {register} = {saved:#x}, this one advertises {ours:#x}")]
    Model {
        /// Which register.
        register: &'static str,
        /// What the guest has read.
        saved: u32,
        /// This device's value.
        ours: u32,
    },
    /// More faults than can have been waiting.
    #[error("{count} saved faults wait for the SMMU's Event queue, at most {max} can")]
    FaultCount {
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A fault of no stream.
    #[error("a saved fault is of stream {stream:#x}, behind which no device is")]
    FaultStream {
        /// The StreamID.
        stream: u32,
    },
    /// A register has bits that a device of this model cannot have.
    #[error("saved SMMU register {register:?} has the impossible value {value:#x}")]
    Register {
        /// Which register.
        register: Register,
        /// The value found.
        value: u64,
    },
}

impl Smmu {
    /// Takes the state of a device whose queue is at rest between commands.
    pub fn save(&self) -> SmmuV1 {
        // Counters are of the process, not of the guest.
        let Smmu { registers, counters: _ } = self;
        let qw = |register| registers.get(register);
        let dw = |register| low32(registers.get(register));
        SmmuV1 {
            idr0: dw(Register::IDR0),
            idr1: dw(Register::IDR1),
            idr2: dw(Register::IDR2),
            idr3: dw(Register::IDR3),
            idr4: dw(Register::IDR4),
            idr5: dw(Register::IDR5),
            iidr: dw(Register::IIDR),
            aidr: dw(Register::AIDR),
            cr0: dw(Register::CR0),
            cr0ack: dw(Register::CR0ACK),
            cr1: dw(Register::CR1),
            cr2: dw(Register::CR2),
            gbpa: dw(Register::GBPA),
            irq_ctrl: dw(Register::IRQ_CTRL),
            irq_ctrlack: dw(Register::IRQ_CTRLACK),
            gerror: dw(Register::GERROR),
            gerrorn: dw(Register::GERRORN),
            strtab_base: qw(Register::STRTAB_BASE),
            strtab_base_cfg: dw(Register::STRTAB_BASE_CFG),
            cmdq_base: qw(Register::CMDQ_BASE),
            cmdq_prod: dw(Register::CMDQ_PROD),
            cmdq_cons: dw(Register::CMDQ_CONS),
            eventq_base: qw(Register::EVENTQ_BASE),
            eventq_prod: dw(Register::EVENTQ_PROD),
            eventq_cons: dw(Register::EVENTQ_CONS),
        }
    }

    /// What a crash may come after at any moment.
    pub fn checkpoint(&self) -> CheckpointV1 {
        CheckpointV1 { registers: self.save(), gbpa_is_updating: self.registers.gbpa_is_updating() }
    }

    /// Restores a device. Its streams have to be looked up again.
    pub fn restore(model: Model, saved: &SmmuV1) -> Result<Smmu, RestoreError> {
        let registers = registers(model, saved)?;
        // A device is saved when all Updates have completed: a register and its acknowledgement are equal at rest.
        if saved.cr0 != saved.cr0ack {
            return Err(RestoreError::Register { register: Register::CR0ACK, value: saved.cr0ack.into() });
        }
        Ok(Smmu { registers, counters: Counters::default() })
    }

    /// The device as a checkpoint has it, in the middle of Updates too: they are acknowledged once every stream
    /// follows. Its streams have to be looked up again.
    pub fn from_checkpoint(model: Model, found: &CheckpointV1) -> Result<Smmu, RestoreError> {
        let CheckpointV1 { registers: saved, gbpa_is_updating } = found;
        let mut registers = registers(model, saved)?;
        // Only an Update of SMMUEN takes time.
        let acknowledged = registers.cr0().with_smmuen(Cr0::from_bits(saved.cr0ack).smmuen());
        if acknowledged.into_bits() != saved.cr0ack {
            return Err(RestoreError::Register { register: Register::CR0ACK, value: saved.cr0ack.into() });
        }
        if *gbpa_is_updating {
            registers.begin_gbpa_update();
        }
        Ok(Smmu { registers, counters: Counters::default() })
    }
}

/// The registers of a saved state, if a device of this model can have them.
fn registers(model: Model, saved: &SmmuV1) -> Result<RegisterFile, RestoreError> {
    let SmmuV1 {
        idr0,
        idr1,
        idr2,
        idr3,
        idr4,
        idr5,
        iidr,
        aidr,
        cr0,
        cr0ack,
        cr1,
        cr2,
        gbpa,
        irq_ctrl,
        irq_ctrlack,
        gerror,
        gerrorn,
        strtab_base,
        strtab_base_cfg,
        cmdq_base,
        cmdq_prod,
        cmdq_cons,
        eventq_base,
        eventq_prod,
        eventq_cons,
    } = *saved;
    let mut registers = RegisterFile::reset(model);
    for (name, register, value) in [
        ("IDR0", Register::IDR0, idr0),
        ("IDR1", Register::IDR1, idr1),
        ("IDR2", Register::IDR2, idr2),
        ("IDR3", Register::IDR3, idr3),
        ("IDR4", Register::IDR4, idr4),
        ("IDR5", Register::IDR5, idr5),
        ("IIDR", Register::IIDR, iidr),
        ("AIDR", Register::AIDR, aidr),
    ] {
        let ours = low32(registers.get(register));
        if ours != value {
            return Err(RestoreError::Model { register: name, saved: value, ours });
        }
    }
    for (register, value) in [
        (Register::CR0, cr0.into()),
        (Register::CR0ACK, cr0ack.into()),
        (Register::CR1, cr1.into()),
        (Register::CR2, cr2.into()),
        (Register::GBPA, gbpa.into()),
        (Register::IRQ_CTRL, irq_ctrl.into()),
        (Register::IRQ_CTRLACK, irq_ctrlack.into()),
        (Register::GERROR, gerror.into()),
        (Register::GERRORN, gerrorn.into()),
        (Register::STRTAB_BASE, strtab_base),
        (Register::STRTAB_BASE_CFG, strtab_base_cfg.into()),
        (Register::CMDQ_BASE, cmdq_base),
        (Register::CMDQ_PROD, cmdq_prod.into()),
        (Register::CMDQ_CONS, cmdq_cons.into()),
        (Register::EVENTQ_BASE, eventq_base),
        (Register::EVENTQ_PROD, eventq_prod.into()),
        (Register::EVENTQ_CONS, eventq_cons.into()),
    ] {
        registers.put(register, value);
        // The source's registers passed the same masks: a bit that does not survive cannot have been set.
        if registers.get(register) != value {
            return Err(RestoreError::Register { register, value });
        }
    }
    if irq_ctrl != irq_ctrlack {
        return Err(RestoreError::Register { register: Register::IRQ_CTRLACK, value: irq_ctrlack.into() });
    }
    Ok(registers)
}
