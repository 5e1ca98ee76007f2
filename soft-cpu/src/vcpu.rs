// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The run loop of one vCPU.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::{Cluster, Inbox, Maintenance, Power};
use crate::code::{CodeCache, CodeChange};
use crate::cpu::{Cpu, Flags, Leaving, Registers};
use crate::dirty::DirtySink;
use crate::exclusive::Monitor;
use crate::interrupt::InterruptController;
use crate::mmu::{Access, Fault, Regime};
use crate::ram::{GuestRam, PAGE_LEN};
use crate::sysreg::SystemRegisters;
use crate::timer::Timers;
use crate::tlb::Tlb;

/// Operations between two checks for interrupts: about 20 us, which bounds their latency when a wake-up is lost.
const SLICE: i64 = 4096;

/// What a vCPU works with.
#[derive(Clone)]
pub struct VcpuParts {
    /// Memory it reaches directly.
    pub ram: GuestRam,
    /// Its interrupt controller.
    pub interrupts: Arc<dyn InterruptController>,
    /// Everything else in the physical address space.
    pub mmio: Arc<dyn Mmio>,
    /// Where it reports pages it is about to write.
    pub dirty: Arc<dyn DirtySink>,
    /// The system counter.
    pub clock: Arc<Clock>,
    /// What it shares with its siblings.
    pub cluster: Arc<Cluster>,
}

/// Why `Vcpu::run` returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// `VcpuHandle::kick` was called.
    Kicked,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset of the machine.
    Reset,
}

/// One virtual CPU. It runs on the thread that calls `run`.
pub struct Vcpu {
    cpu: Box<Cpu>,
    code: CodeCache,
    retired: u64,
}

impl Vcpu {
    /// A CPU after reset, powered off until `start` or a sibling's CPU_ON.
    ///
    /// `index` is below the cluster's `vcpu_count`, and no other `Vcpu` has it.
    pub fn new(index: usize, parts: VcpuParts) -> Vcpu {
        let VcpuParts { ram, interrupts, mmio, dirty, clock, cluster } = parts;
        let mut cpu = Box::new(Cpu {
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
            sys: SystemRegisters::default(),
            timers: Timers::default(),
            monitor: Monitor::default(),
            regime: Regime::default(),
            tlb: Tlb::new(ram),
            code_changes: Vec::new(),
            decode_wanted: false,
            release_pending: false,
            irq_seen: false,
            waiting: false,
            leaving: None,
            rest: 0,
            unused: 0,
            index,
            cluster,
            interrupts,
            mmio,
            dirty,
            clock,
        });
        cpu.update_regime();
        Vcpu { cpu, code: CodeCache::new(), retired: 0 }
    }

    /// Powers the CPU on at `entry` with `context` in x0, at EL1 with everything masked and translation off.
    pub fn start(&mut self, entry: u64, context: u64) {
        self.cpu.shared().inbox().power = Power::Pending { entry, context };
        self.cpu.shared().wake();
    }

    /// Operations run so far, about.
    pub fn retired(&self) -> u64 {
        self.retired.saturating_sub(self.cpu.unused)
    }

    /// Runs guest code until there is a reason to stop.
    pub fn run(&mut self) -> Exit {
        loop {
            self.cpu.shared().budget.store(0, Relaxed);
            return Exit::Kicked;
        }
    }
}

impl Cpu {
    /// Leaves guest execution for a call that may take long: requests count as served meanwhile.
    pub(crate) fn step_outside(&mut self) {
        self.shared().executing.store(false, SeqCst);
    }

    /// Comes back from `step_outside`, and looks at what was asked meanwhile.
    pub(crate) fn step_inside(&mut self) {
        self.shared().executing.store(true, SeqCst);
        self.attend();
    }
}
