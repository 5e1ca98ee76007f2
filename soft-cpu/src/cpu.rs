// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of one CPU, as handlers see it.
//!
//! Everything an instruction may touch is here except the decoded code itself: the run loop (`vcpu.rs`) lends
//! operations from the code cache while it lends the CPU mutably, so a handler that changes code only leaves a
//! note (`code_changes`), and one that changes where or how code is fetched calls `leave` or `attend`.

use std::sync::Arc;

use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::{Cluster, Shared};
use crate::code::CodeChange;
use crate::debug::Debug;
use crate::dirty::DirtySink;
use crate::interrupt::InterruptController;
use crate::mmu::Regime;
use crate::monitor::Monitor;
use crate::op::SP;
use crate::order::Order;
use crate::pmu::Pmu;
use crate::sysreg::SystemRegisters;
use crate::timer::Timers;
use crate::tlb::{Table, Tlb};
use crate::vcpu::VcpuParts;
use crate::wait::Wait;

/// The condition flags, kept apart because most instructions write all of them and few read them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Flags {
    pub n: bool,
    pub z: bool,
    pub c: bool,
    pub v: bool,
}

impl Flags {
    /// From four bits, N highest.
    pub(crate) const fn from_bits(nzcv: u8) -> Flags {
        Flags { n: nzcv & 8 != 0, z: nzcv & 4 != 0, c: nzcv & 2 != 0, v: nzcv & 1 != 0 }
    }

    /// As four bits, N highest.
    pub(crate) const fn bits(self) -> u8 {
        (self.n as u8) << 3 | (self.z as u8) << 2 | (self.c as u8) << 1 | self.v as u8
    }
}

/// General registers by slot: 0-30, 31 always zero, `op::SP`, `op::SINK`; the rest pads the array to what a
/// `u8` can index, which saves every bounds check.
pub(crate) struct Registers([u64; 256]);

/// One CPU.
pub(crate) struct Cpu {
    pub regs: Registers,
    pub pc: u64,
    pub flags: Flags,
    /// Current exception level: 0 or 1. Changed by `exception.rs` only.
    pub el: u8,
    /// PSTATE.SP. Only EL1 may have it set.
    pub sp_select: bool,
    /// PSTATE.DAIF as four bits, D highest.
    pub daif: u8,
    /// PSTATE.SS, PSTATE.IL.
    pub single_step: bool,
    pub illegal_state: bool,
    /// The stack pointers that are not in `op::SP` now; the slot of the current one is stale.
    pub sp_el: [u64; 2],
    /// SIMD and floating point registers.
    pub v: [u128; 32],
    pub fpcr: u32,
    pub fpsr: u32,
    pub sys: SystemRegisters,
    pub debug: Debug,
    pub pmu: Pmu,
    pub timers: Timers,
    pub monitor: Monitor,

    /// What SCTLR, TCR, TTBR and MAIR say about translation, ready for use.
    pub regime: Regime,
    pub tlb: Tlb,
    pub code_changes: Vec<CodeChange>,
    /// A watched page that the running instruction left in the TLB (see `debug.rs`).
    pub watched_spot: Option<(Table, u64)>,
    /// What to wait for at the next DSB, per CPU; zero for nothing.
    pub tickets: Vec<u64>,
    /// Set by the placeholder of a word that was never decoded: the run loop decodes and runs it.
    pub decode_wanted: bool,
    pub order: Order,
    /// The interrupt line was high at the last check, masked or not.
    pub irq_seen: bool,
    /// On, as PSCI has it; `Inbox::power` is what others see.
    pub powered: bool,
    /// What it waits for instead of executing.
    pub wait: Wait,
    /// The machine is to be stopped or the CPU turned off.
    pub leaving: Option<Leaving>,
    /// What `leave` took from the budget, to be given back after the new look-up of the code page.
    pub rest: i64,
    /// Operations granted in all, and those of them that were not run and no longer will be.
    pub granted: u64,
    pub unused: u64,

    pub index: usize,
    pub cluster: Arc<Cluster>,
    pub interrupts: Arc<dyn InterruptController>,
    pub mmio: Arc<dyn Mmio>,
    pub dirty: Arc<dyn DirtySink>,
    pub clock: Arc<Clock>,
}

/// Why the run loop is to return, besides a kick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    PowerOff,
    Reset,
}

impl Registers {
    pub(crate) fn new() -> Registers {
        Registers([0; 256])
    }

    #[inline(always)]
    pub(crate) fn get(&self, slot: u8) -> u64 {
        self.0[usize::from(slot)]
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, slot: u8, value: u64) {
        self.0[usize::from(slot)] = value;
    }
}

impl Cpu {
    /// A CPU after reset, powered off.
    pub(crate) fn new(index: usize, parts: VcpuParts) -> Cpu {
        let VcpuParts { ram, interrupts, mmio, dirty, clock, cluster } = parts;
        let mut cpu = Cpu {
            regs: Registers::new(),
            pc: 0,
            flags: Flags::default(),
            el: 1,
            sp_select: true,
            daif: 0xf,
            single_step: false,
            illegal_state: false,
            sp_el: [0; 2],
            v: [0; 32],
            fpcr: 0,
            fpsr: 0,
            sys: SystemRegisters::at_reset(),
            debug: Debug::new(),
            pmu: Pmu::new(),
            timers: Timers::default(),
            monitor: Monitor::default(),
            regime: Regime::default(),
            tlb: Tlb::new(ram),
            code_changes: Vec::new(),
            watched_spot: None,
            tickets: vec![0; cluster.vcpu_count()],
            decode_wanted: false,
            order: Order::new(),
            irq_seen: false,
            powered: false,
            wait: Wait::None,
            leaving: None,
            rest: 0,
            granted: 0,
            unused: 0,
            index,
            cluster,
            interrupts,
            mmio,
            dirty,
            clock,
        };
        cpu.update_regime();
        cpu
    }

    /// The state after reset, all but what connects it to others. What is unknown then is zero here.
    pub(crate) fn reset(&mut self) {
        self.regs = Registers::new();
        self.flags = Flags::default();
        self.el = 1;
        self.sp_select = true;
        self.daif = 0xf;
        self.single_step = false;
        self.illegal_state = false;
        self.sp_el = [0; 2];
        self.v = [0; 32];
        self.fpcr = 0;
        self.fpsr = 0;
        self.sys = SystemRegisters::at_reset();
        self.debug = Debug::new();
        self.pmu.reset();
        self.timers.reset();
        self.monitor.clear();
        self.wait = Wait::None;
        self.decode_wanted = false;
        self.update_regime();
        self.tlb.flush_all();
    }

    /// Reads a register slot.
    #[inline(always)]
    pub(crate) fn r(&self, slot: u8) -> u64 {
        self.regs.get(slot)
    }

    /// Writes a register slot. Never slot 31: decoders translate it (see `op.rs`).
    #[inline(always)]
    pub(crate) fn w(&mut self, slot: u8, value: u64) {
        debug_assert!(slot != 31, "the zero register is not written");
        self.regs.set(slot, value);
    }

    /// The address of the instruction that is running.
    #[inline(always)]
    pub(crate) fn this_pc(&self) -> u64 {
        self.pc.wrapping_sub(4)
    }

    /// What other threads see of this CPU.
    pub(crate) fn shared(&self) -> &Shared {
        self.cluster.cpu(self.index)
    }

    /// After this instruction, look up the code page again: the address space, level or mapping changed.
    pub(crate) fn leave(&mut self) {
        let left = self.cluster.cpu(self.index).budget.take();
        self.rest = self.rest.max(left);
    }

    /// After this instruction, check interrupts, timers and requests (implies `leave`).
    pub(crate) fn attend(&mut self) {
        let left = self.cluster.cpu(self.index).budget.take();
        self.unused += (self.rest.max(0) + left) as u64;
        self.rest = 0;
    }

    /// Operations run so far.
    pub(crate) fn instructions(&self) -> u64 {
        let left = self.cluster.cpu(self.index).budget.left() + self.rest.max(0);
        self.granted.wrapping_sub(self.unused).wrapping_sub(left as u64)
    }

    /// Saves the current stack pointer in its bank, before the exception level or SPSel changes.
    pub(crate) fn bank_sp(&mut self) {
        self.sp_el[usize::from(self.sp_select)] = self.regs.get(SP);
    }

    /// Loads the stack pointer of the current exception level and SPSel into its slot.
    pub(crate) fn load_sp(&mut self) {
        let value = self.sp_el[usize::from(self.sp_select)];
        self.regs.set(SP, value);
    }
}
