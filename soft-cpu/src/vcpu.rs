// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The run loop of one vCPU: slices of guest code, with a check for requests and interrupts between them.
//!
//! A slice runs operations until its budget is used up, or an operation or another thread took the budget away.
//! Inside it the loop touches the page of operations, the program counter and the budget, and nothing else.

use std::sync::Arc;

use crate::budget::Budget;
use crate::bus::Mmio;
use crate::clock::Clock;
use crate::cluster::{Cluster, Power, Shared};
use crate::code::{CodeCache, CodePage};
use crate::cpu::{Cpu, Leaving};
use crate::dirty::DirtySink;
use crate::interrupt::InterruptController;
use crate::mmu::{Access, Fault};
use crate::ram::{GuestRam, PAGE_LEN};
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::wait::Wait;

/// Operations between two checks: about 20 us, which bounds the latency when another thread's request is lost.
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
    pub(crate) cpu: Box<Cpu>,
    code: CodeCache,
}

impl Vcpu {
    /// A CPU that is powered off until `start` or a sibling's CPU_ON.
    ///
    /// `index` is below the cluster's `vcpu_count`, and no other `Vcpu` has it.
    pub fn new(index: usize, parts: VcpuParts) -> Vcpu {
        Vcpu { cpu: Box::new(Cpu::new(index, parts)), code: CodeCache::new() }
    }

    /// Powers the CPU on at `entry` with `context` in x0, at EL1 with everything masked and translation off.
    pub fn start(&mut self, entry: u64, context: u64) {
        self.cpu.shared().inbox().power = Power::Pending { entry, context };
        self.cpu.shared().wake();
    }

    /// Operations run so far.
    pub fn retired(&self) -> u64 {
        self.cpu.instructions()
    }

    /// Runs guest code until there is a reason to stop. A CPU that is off, or waits, sleeps here.
    pub fn run(&mut self) -> Exit {
        let cluster = Arc::clone(&self.cpu.cluster);
        let shared = cluster.cpu(self.cpu.index);
        shared.step_inside(|what| self.cpu.apply_maintenance(what));
        let exit = loop {
            if let Some(exit) = check(&mut self.cpu, shared) {
                break exit;
            }
            let budget = if self.cpu.step_active() { 1 } else { self.cpu.slice_until_overflow(SLICE) };
            self.cpu.granted += budget as u64;
            shared.budget.grant(budget);
            // A request between the check and the store must not wait for the whole slice.
            if shared.attention.load(Relaxed) {
                self.cpu.attend();
                continue;
            }
            self.slice(&shared.budget);
            if budget == 1 && !self.cpu.decode_wanted {
                self.cpu.single_step = false;
            }
        };
        shared.step_outside();
        // A save of the CPU must find its counters up to date.
        self.cpu.count_instructions();
        exit
    }

    /// Runs `steps` operations or exceptions, for tests and fuzz targets: no sleep, no wait for anyone.
    #[doc(hidden)]
    pub fn run_steps(&mut self, steps: u32) {
        let cluster = Arc::clone(&self.cpu.cluster);
        let shared = cluster.cpu(self.cpu.index);
        let mut done = 0;
        while done < steps {
            self.cpu.wait = Wait::None;
            self.cpu.powered = true;
            self.cpu.leaving = None;
            if check(&mut self.cpu, shared).is_some() {
                break;
            }
            self.cpu.granted += 1;
            shared.budget.grant(1);
            self.slice(&shared.budget);
            if !self.cpu.decode_wanted {
                self.cpu.single_step = false;
                done += 1;
            }
        }
        shared.step_outside();
    }

    /// Runs operations until the budget is gone. Not inlined: the inner loop needs the registers for itself.
    #[inline(never)]
    fn slice(&mut self, budget: &Budget) {
        let (cpu, code) = (&mut *self.cpu, &mut self.code);
        loop {
            if !cpu.code_changes.is_empty() {
                cpu.code_changes.drain(..).for_each(|change| code.apply(change));
            }
            if let Some((table, va)) = cpu.watched_spot.take() {
                cpu.tlb.forget(table, va);
            }
            if cpu.rest > 0 {
                budget.grant(std::mem::take(&mut cpu.rest));
            }
            if !budget.allows_one() {
                // What another thread cut off is not run.
                cpu.unused += budget.take() as u64;
                return;
            }
            let Some(page) = fetch(cpu, code) else {
                // The exception costs budget like an operation: a guest whose vectors fault too would else never leave
                // the loop.
                cpu.rest -= 1;
                continue;
            };
            if std::mem::take(&mut cpu.decode_wanted) {
                // The placeholder was paid for and did nothing.
                cpu.unused += 1;
                code.decode(page, cpu.pc, cpu.tlb.ram());
            }
            if cpu.steps_through_page() || cpu.counts_accesses() {
                run_one(cpu, code.ops(page), budget);
            } else {
                run_page(cpu, code.ops(page), budget);
            }
        }
    }
}

/// Runs operations of one page until control leaves it or the budget is gone.
///
/// The next operation is the one that follows in memory, unless the program counter says otherwise: so finding it
/// does not wait for the program counter's way through memory.
#[inline(always)]
fn run_page(cpu: &mut Cpu, ops: &CodePage, budget: &Budget) {
    let mut pc = cpu.pc;
    let page_va = pc & !(PAGE_LEN - 1);
    // Another page, or an address that is not a multiple of four, is not here.
    while (pc ^ page_va) & !(PAGE_LEN - 4) == 0 {
        for op in &ops[(pc >> 2) as usize & (ops.len() - 1)..] {
            if !budget.pay() {
                return;
            }
            pc = pc.wrapping_add(4);
            cpu.pc = pc;
            (op.run)(cpu, op);
            if cpu.pc != pc {
                pc = cpu.pc;
                break;
            }
        }
    }
}

/// Runs the next operation alone: what was granted beyond it is given back afterwards.
fn run_one(cpu: &mut Cpu, ops: &CodePage, budget: &Budget) {
    let (word, el) = (ops[(cpu.pc >> 2) as usize & (ops.len() - 1)].word, cpu.el);
    cpu.rest = budget.take() - 1;
    budget.grant(1);
    run_page(cpu, ops, budget);
    if !cpu.decode_wanted {
        cpu.count_access(word, el);
    }
}

/// The code page of the program counter. `None`: an exception was taken instead, in the order of their priorities
/// (Arm ARM D1.13.4): alignment, abort, breakpoint, illegal state.
#[inline(never)]
fn fetch(cpu: &mut Cpu, code: &mut CodeCache) -> Option<u32> {
    if cpu.pc & 3 != 0 {
        cpu.take_pc_alignment();
        return None;
    }
    let page = match cpu.tlb.code(cpu.tlb.table(), cpu.pc) {
        Some(page) => page,
        None => find_code(cpu, code)?,
    };
    if cpu.take_breakpoint_if_due() {
        return None;
    }
    if cpu.illegal_state {
        cpu.take_illegal_state();
        return None;
    }
    Some(page)
}

/// The same for a page that the TLB does not know.
fn find_code(cpu: &mut Cpu, code: &mut CodeCache) -> Option<u32> {
    let table = cpu.tlb.table();
    cpu.pc = cpu.regime.canonical_pc(cpu.pc);
    let pc = cpu.pc;
    let found = match cpu.translate(pc, Access::Execute, cpu.el) {
        Ok(found) if cpu.tlb.ram().is_ram(found.pa) => found,
        Ok(_) => {
            cpu.take_instruction_abort(pc, Fault::External);
            return None;
        }
        Err(fault) => {
            cpu.take_instruction_abort(pc, fault);
            return None;
        }
    };
    let page = match code.find_or_add(found.pa) {
        Some(page) => page,
        None => {
            code.clear();
            cpu.tlb.flush_code();
            code.find_or_add(found.pa)?
        }
    };
    cpu.tlb.fill_code(table, pc, page, found.traits);
    Some(page)
}

/// Applies requests of other threads, and takes an interrupt or a step exception that is due.
fn check(cpu: &mut Cpu, shared: &Shared) -> Option<Exit> {
    if let Some(leaving) = cpu.leaving.take() {
        return Some(match leaving {
            Leaving::PowerOff => Exit::PowerOff,
            Leaving::Reset => Exit::Reset,
        });
    }
    loop {
        if shared.look(|what| cpu.apply_maintenance(what)) {
            // A wait may end at any time; this way it is no part of the saved state.
            cpu.wait = Wait::None;
            return Some(Exit::Kicked);
        }
        if !is_powered(cpu, shared) {
            cpu.sleep();
            continue;
        }
        cpu.update_timers();
        cpu.update_pmu();
        let irq = cpu.interrupts.irq_line(cpu.index).load(Acquire);
        cpu.irq_seen = irq;
        if cpu.wait != Wait::None {
            if !cpu.wait_is_over(irq) {
                cpu.sleep();
                continue;
            }
            cpu.wait = Wait::None;
        }
        if cpu.step_active() && !cpu.single_step && !cpu.illegal_state {
            cpu.take_software_step();
        } else if irq && cpu.daif & 2 == 0 {
            cpu.take_irq();
        }
        return None;
    }
}

/// Whether the CPU is on; takes up a pending power-on.
fn is_powered(cpu: &mut Cpu, shared: &Shared) -> bool {
    if cpu.powered {
        return true;
    }
    let mut inbox = shared.inbox();
    if let Power::Pending { entry, context } = inbox.power {
        inbox.power = Power::On;
        drop(inbox);
        cpu.reset();
        cpu.interrupts.reset_cpu_interface(cpu.index);
        cpu.powered = true;
        cpu.pc = entry;
        cpu.w(0, context);
    }
    cpu.powered
}
