// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The register file: values, reset, which bits exist, which of them software may write, and when.
//!
//! `put` is the only writer of a value and keeps nothing but the bits this SMMU has (`existing_bits`),
//! live and on restore alike; what software writes passes `write` first, which also honours the guards of
//! IHI 0070 §6.3. Where the manual leaves a choice, SMMUv3.2's only permitted behaviour is taken: a write
//! to a guarded register is ignored.

use smmu_arch::Model;
use smmu_arch::queue::{Pointer, Queue};
use smmu_arch::spec::commands::COMMAND_LEN;
use smmu_arch::spec::control::{Cr0, Cr1, Cr2, Gbpa, Gerror, IrqCtrl};
use smmu_arch::spec::events::EVENT_LEN;
use smmu_arch::spec::id::StreamTableLevels;
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::{
    CmdqCons, CmdqProd, CommandError, EventqCons, EventqProd, QueueBase, StreamTableFormat, StrtabBase,
    StrtabBaseCfg,
};
use smmu_arch::translate::Registers;

/// Every register that holds state. Identification registers follow from the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterFile {
    model: Model,
    cr0: Cr0,
    cr0ack: Cr0,
    cr1: Cr1,
    cr2: Cr2,
    gbpa: Gbpa,
    /// GBPA.Update: a device may still use the old value.
    gbpa_is_updating: bool,
    irq_ctrl: IrqCtrl,
    irq_ctrlack: IrqCtrl,
    gerror: Gerror,
    gerrorn: Gerror,
    strtab_base: StrtabBase,
    strtab_base_cfg: StrtabBaseCfg,
    cmdq_base: QueueBase,
    cmdq_prod: CmdqProd,
    cmdq_cons: CmdqCons,
    eventq_base: QueueBase,
    eventq_prod: EventqProd,
    eventq_cons: EventqCons,
}

impl RegisterFile {
    /// Reset values. UNKNOWN ones are zero; GBPA lets traffic through with its own attributes, as software
    /// that never learns of an SMMU expects (§6.3.14 leaves it open).
    pub fn reset(model: Model) -> RegisterFile {
        RegisterFile {
            model,
            cr0: Cr0::new(),
            cr0ack: Cr0::new(),
            cr1: Cr1::new(),
            cr2: Cr2::new(),
            gbpa: Gbpa::new().with_shcfg(1),
            gbpa_is_updating: false,
            irq_ctrl: IrqCtrl::new(),
            irq_ctrlack: IrqCtrl::new(),
            gerror: Gerror::new(),
            gerrorn: Gerror::new(),
            strtab_base: StrtabBase::new(),
            strtab_base_cfg: StrtabBaseCfg::new(),
            cmdq_base: QueueBase::new(),
            cmdq_prod: CmdqProd::new(),
            cmdq_cons: CmdqCons::new(),
            eventq_base: QueueBase::new(),
            eventq_prod: EventqProd::new(),
            eventq_cons: EventqCons::new(),
        }
    }

    /// What is advertised.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A register as software reads it; registers of features this SMMU lacks read as zero.
    pub fn get(&self, register: Register) -> u64 {
        match register {
            Register::IDR0 => u32::from(self.model.idr0()).into(),
            Register::IDR1 => u32::from(self.model.idr1()).into(),
            Register::IDR3 => u32::from(self.model.idr3()).into(),
            Register::IDR5 => u32::from(self.model.idr5()).into(),
            Register::IIDR => u32::from(self.model.iidr()).into(),
            Register::AIDR => u32::from(self.model.aidr()).into(),
            Register::CR0 => self.cr0.into_bits().into(),
            Register::CR0ACK => self.cr0ack.into_bits().into(),
            Register::CR1 => self.cr1.into_bits().into(),
            Register::CR2 => self.cr2.into_bits().into(),
            Register::GBPA => self.gbpa.with_update(self.gbpa_is_updating).into_bits().into(),
            Register::IRQ_CTRL => self.irq_ctrl.into_bits().into(),
            Register::IRQ_CTRLACK => self.irq_ctrlack.into_bits().into(),
            Register::GERROR => self.gerror.into_bits().into(),
            Register::GERRORN => self.gerrorn.into_bits().into(),
            Register::STRTAB_BASE => self.strtab_base.into_bits(),
            Register::STRTAB_BASE_CFG => self.strtab_base_cfg.into_bits().into(),
            Register::CMDQ_BASE => self.cmdq_base.into_bits(),
            Register::CMDQ_PROD => self.cmdq_prod.into_bits().into(),
            Register::CMDQ_CONS => self.cmdq_cons.into_bits().into(),
            Register::EVENTQ_BASE => self.eventq_base.into_bits(),
            Register::EVENTQ_PROD => self.eventq_prod.into_bits().into(),
            Register::EVENTQ_CONS => self.eventq_cons.into_bits().into(),
            _ => 0,
        }
    }

    /// Stores a value, cut to the bits the register has here. The only writer; ignores what has no state.
    pub(crate) fn put(&mut self, register: Register, value: u64) {
        let value = value & existing_bits(&self.model, register);
        let dw = low32(value);
        match register {
            Register::CR0 => self.cr0 = Cr0::from_bits(dw),
            Register::CR0ACK => self.cr0ack = Cr0::from_bits(dw),
            Register::CR1 => self.cr1 = Cr1::from_bits(dw),
            Register::CR2 => self.cr2 = Cr2::from_bits(dw),
            Register::GBPA => self.gbpa = Gbpa::from_bits(dw),
            Register::IRQ_CTRL => self.irq_ctrl = IrqCtrl::from_bits(dw),
            Register::IRQ_CTRLACK => self.irq_ctrlack = IrqCtrl::from_bits(dw),
            Register::GERROR => self.gerror = Gerror::from_bits(dw),
            Register::GERRORN => self.gerrorn = Gerror::from_bits(dw),
            Register::STRTAB_BASE => self.strtab_base = StrtabBase::from_bits(value),
            Register::STRTAB_BASE_CFG => self.strtab_base_cfg = StrtabBaseCfg::from_bits(dw),
            Register::CMDQ_BASE => {
                self.cmdq_base = QueueBase::from_bits(value);
                self.cmdq_cons = self.cut_cmdq_cons(self.cmdq_cons);
            }
            Register::CMDQ_PROD => self.cmdq_prod = CmdqProd::from_bits(dw),
            Register::CMDQ_CONS => self.cmdq_cons = self.cut_cmdq_cons(CmdqCons::from_bits(dw)),
            Register::EVENTQ_BASE => {
                self.eventq_base = QueueBase::from_bits(value);
                self.eventq_prod = self.cut_eventq_prod(self.eventq_prod);
            }
            Register::EVENTQ_PROD => self.eventq_prod = self.cut_eventq_prod(EventqProd::from_bits(dw)),
            Register::EVENTQ_CONS => self.eventq_cons = EventqCons::from_bits(dw),
            _ => {}
        }
    }

    /// The pointers the SMMU moves have no bits above the wrap flag of their queue's size (§6.3.28).
    fn cut_cmdq_cons(&self, cons: CmdqCons) -> CmdqCons {
        cons.with_rd(self.command_queue().0.pointer(cons.rd()).bits())
    }

    fn cut_eventq_prod(&self, prod: EventqProd) -> EventqProd {
        prod.with_wr(self.event_queue().0.pointer(prod.wr()).bits())
    }

    /// A write by software: only the bits it may change now. Returns whether the register accepts writes
    /// at all at this moment; side effects are the caller's.
    pub(crate) fn write(&mut self, register: Register, value: u64) -> bool {
        let mask = self.writable_bits(register);
        if mask == 0 {
            return false;
        }
        let kept = self.get(register) & !mask;
        self.put(register, kept | (value & mask));
        true
    }

    /// The bits software may change in the state the registers are in (the guards of §6.3).
    pub fn writable_bits(&self, register: Register) -> u64 {
        let existing = existing_bits(&self.model, register);
        let (cr0, ack) = (self.cr0, self.cr0ack);
        let disabled = !cr0.smmuen() && !ack.smmuen();
        let cmdq_off = !cr0.cmdqen() && !ack.cmdqen();
        let eventq_off = !cr0.eventqen() && !ack.eventqen();
        let when = |condition: bool| if condition { existing } else { 0 };
        match register {
            Register::CR0 | Register::IRQ_CTRL | Register::GERRORN | Register::GBPA => existing,
            Register::CMDQ_PROD | Register::EVENTQ_CONS => existing,
            Register::CR1 => {
                let tables = if disabled { u64::from(CR1_TABLE.into_bits()) } else { 0 };
                let queues = if cmdq_off && eventq_off { u64::from(CR1_QUEUE.into_bits()) } else { 0 };
                tables | queues
            }
            Register::CR2 | Register::STRTAB_BASE | Register::STRTAB_BASE_CFG => when(disabled),
            Register::CMDQ_BASE => when(cmdq_off),
            // ERR takes no written value (§6.3.28 permits it): only the SMMU sets an error code.
            Register::CMDQ_CONS => {
                when(cmdq_off) & u64::from(CmdqCons::new().with_rd(u32::MAX >> 12).into_bits())
            }
            Register::EVENTQ_BASE | Register::EVENTQ_PROD => when(eventq_off),
            _ => 0,
        }
    }

    /// The registers that decide what becomes of a transaction.
    pub fn translation(&self) -> Registers {
        Registers {
            cr0: self.cr0,
            cr2: self.cr2,
            gbpa: self.gbpa,
            strtab_base: self.strtab_base,
            strtab_base_cfg: self.strtab_base_cfg,
        }
    }

    /// Whether an Update of SMMUEN or of GBPA is not acknowledged yet.
    pub fn is_updating(&self) -> bool {
        self.cr0 != self.cr0ack || self.gbpa_is_updating
    }

    /// Whether GBPA.Update reads as 1.
    pub fn gbpa_is_updating(&self) -> bool {
        self.gbpa_is_updating
    }

    /// Sets GBPA.Update.
    pub(crate) fn begin_gbpa_update(&mut self) {
        self.gbpa_is_updating = true;
    }

    /// CR0ACK follows CR0, but for SMMUEN.
    pub(crate) fn acknowledge_queues(&mut self) {
        let acknowledged = self.cr0.with_smmuen(self.cr0ack.smmuen());
        self.put(Register::CR0ACK, acknowledged.into_bits().into());
    }

    /// CR0ACK follows CR0, and GBPA.Update is cleared.
    pub(crate) fn acknowledge_updates(&mut self) {
        self.put(Register::CR0ACK, self.cr0.into_bits().into());
        self.gbpa_is_updating = false;
    }

    /// CR0.
    pub fn cr0(&self) -> Cr0 {
        self.cr0
    }

    /// GBPA.
    pub fn gbpa(&self) -> Gbpa {
        self.gbpa
    }

    /// IRQ_CTRL.
    pub fn irq_ctrl(&self) -> IrqCtrl {
        self.irq_ctrl
    }

    /// EVENTQ_PROD.
    pub fn eventq_prod(&self) -> EventqProd {
        self.eventq_prod
    }

    /// EVENTQ_CONS.
    pub fn eventq_cons(&self) -> EventqCons {
        self.eventq_cons
    }

    /// Errors that are active: GERROR and GERRORN differ (§7.5).
    pub fn active_errors(&self) -> Gerror {
        Gerror::from_bits(self.gerror.into_bits() ^ self.gerrorn.into_bits())
    }

    /// GERROR.
    pub fn gerror(&self) -> Gerror {
        self.gerror
    }

    /// The Command queue with its write and read pointers.
    pub fn command_queue(&self) -> (Queue, Pointer, Pointer) {
        let log2_size = self.cmdq_base.log2size().min(self.model.idr1().cmdqs());
        let queue = Queue::new(self.cmdq_base.addr(), log2_size.into(), COMMAND_LEN);
        (queue, queue.pointer(self.cmdq_prod.wr()), queue.pointer(self.cmdq_cons.rd()))
    }

    /// The Event queue with its write and read pointers.
    pub fn event_queue(&self) -> (Queue, Pointer, Pointer) {
        let log2_size = self.eventq_base.log2size().min(self.model.idr1().eventqs());
        let queue = Queue::new(self.eventq_base.addr(), log2_size.into(), EVENT_LEN);
        (queue, queue.pointer(self.eventq_prod.wr()), queue.pointer(self.eventq_cons.rd()))
    }

    /// Moves CMDQ_CONS.RD on, keeping ERR.
    pub(crate) fn advance_cmdq_cons(&mut self, pointer: Pointer) {
        let cons = self.cmdq_cons.with_rd(pointer.bits());
        self.put(Register::CMDQ_CONS, cons.into_bits().into());
    }

    /// Sets CMDQ_CONS.ERR, leaving RD at the command.
    pub(crate) fn set_command_error(&mut self, error: CommandError) {
        let cons = self.cmdq_cons.with_err(error);
        self.put(Register::CMDQ_CONS, cons.into_bits().into());
    }
}

const CR1_TABLE: Cr1 = Cr1::new().with_table_ic(3).with_table_oc(3).with_table_sh(3);
const CR1_QUEUE: Cr1 = Cr1::new().with_queue_ic(3).with_queue_oc(3).with_queue_sh(3);

/// The bits of a register that an SMMU of this model has: fields of features it lacks, and address bits
/// above its output address size, are RES0. Zero for registers without state.
pub fn existing_bits(model: &Model, register: Register) -> u64 {
    match register {
        // No PRI, ATS, VMW or DPT.
        Register::CR0 | Register::CR0ACK => {
            Cr0::new().with_smmuen(true).with_eventqen(true).with_cmdqen(true).into_bits().into()
        }
        Register::CR1 => (CR1_TABLE.into_bits() | CR1_QUEUE.into_bits()).into(),
        // No EL2, broadcast maintenance or ATS.
        Register::CR2 => Cr2::new().with_recinvsid(true).into_bits().into(),
        // No permission overrides; of the type overrides only SHCFG is stored, and has no effect (§6.3.14).
        Register::GBPA => Gbpa::new().with_abort(true).with_shcfg(3).into_bits().into(),
        Register::IRQ_CTRL | Register::IRQ_CTRLACK => {
            IrqCtrl::new().with_gerror_irqen(true).with_eventq_irqen(true).into_bits().into()
        }
        // No PRI queue, no MSIs, no service failure mode.
        Register::GERROR | Register::GERRORN => {
            Gerror::new().with_cmdq_err(true).with_eventq_abt_err(true).into_bits().into()
        }
        Register::STRTAB_BASE => {
            let all = StrtabBase::new().with_addr_51_6(u64::MAX >> 18).with_ra(true);
            let address = model.truncate(all.addr());
            all.with_addr_51_6(address >> 6).into_bits()
        }
        Register::STRTAB_BASE_CFG => {
            let linear = StrtabBaseCfg::new().with_log2size(0x3f);
            let two_level = linear.with_split(0x1f).with_fmt(StreamTableFormat(3));
            let has_two_level = model.idr0().st_level() == StreamTableLevels::TwoLevel;
            if has_two_level { two_level } else { linear }.into_bits().into()
        }
        Register::CMDQ_BASE | Register::EVENTQ_BASE => {
            let all = QueueBase::new().with_addr_51_5(u64::MAX >> 17).with_log2size(0x1f).with_hint(true);
            let address = model.truncate(all.addr());
            all.with_addr_51_5(address >> 5).into_bits()
        }
        Register::CMDQ_PROD => CmdqProd::new().with_wr(u32::MAX >> 12).into_bits().into(),
        Register::CMDQ_CONS => {
            CmdqCons::new().with_rd(u32::MAX >> 12).with_err(CommandError(0x7f)).into_bits().into()
        }
        Register::EVENTQ_PROD => {
            EventqProd::new().with_wr(u32::MAX >> 12).with_ovflg(true).into_bits().into()
        }
        Register::EVENTQ_CONS => {
            EventqCons::new().with_rd(u32::MAX >> 12).with_ovackflg(true).into_bits().into()
        }
        _ => 0,
    }
}

/// The lower half of a value.
pub(crate) fn low32(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
