// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The performance monitors, PMUv3 (Arm ARM D8): a cycle counter, six event counters, and their overflow interrupt.
//!
//! An instruction takes one cycle, so cycles and retired instructions follow from the run loop's count, taken when a
//! counter is read and when the exception level changes. Memory accesses are counted by running one instruction at a
//! time while a counter asks for them. All other counting is free until a counter is enabled. The cycle counter stops
//! in WFI and WFE.
//!
//! Events: SW_INCR, INST_RETIRED, CPU_CYCLES, MEM_ACCESS (one for each load or store instruction), CHAIN. Filters by
//! exception level are PMEVTYPER.P and U; there are no others without EL2, EL3.

pub(crate) mod registers;
mod saved;

use crate::cpu::Cpu;

/// Event counters (PMCR_EL0.N).
pub(crate) const COUNTER_COUNT: usize = 6;
/// INTID of the overflow interrupt, a private peripheral one (Arm BSA).
const OVERFLOW_INTID: u32 = 23;
/// The cycle counter's place in PMCNTENSET and its like.
const CYCLES: u64 = 1 << 31;
/// The bits of all counters.
const ALL: u64 = CYCLES | ((1 << COUNTER_COUNT) - 1);

/// PMCR_EL0.E.
const ENABLE: u64 = 1;
/// PMEVTYPER.P, U: EL1, EL0 is not counted.
const NOT_EL1: u64 = 1 << 31;
const NOT_EL0: u64 = 1 << 30;
/// PMEVTYPER.evtCount.
const EVENT: u64 = 0x3ff;

mod event {
    pub const SW_INCR: u64 = 0x00;
    pub const INST_RETIRED: u64 = 0x08;
    pub const CPU_CYCLES: u64 = 0x11;
    pub const MEM_ACCESS: u64 = 0x13;
    pub const CHAIN: u64 = 0x1e;
    /// PMCEID0_EL0; PMCEID1_EL0 is zero.
    pub const COMMON: u64 = 1 << SW_INCR | 1 << INST_RETIRED | 1 << CPU_CYCLES | 1 << MEM_ACCESS | 1 << CHAIN;
}

/// An event counter.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counter {
    pub value: u32,
    /// PMEVTYPERn_EL0.
    pub kind: u64,
}

/// The registers, and how far they are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pmu {
    /// PMCR_EL0: E and DP.
    pub control: u64,
    /// PMCNTENSET_EL0, PMOVSSET_EL0, PMINTENSET_EL1.
    pub enabled: u64,
    pub overflowed: u64,
    pub interrupts: u64,
    /// PMSELR_EL0, PMUSERENR_EL0.
    pub selected: u64,
    pub user: u64,
    /// PMCCNTR_EL0, PMCCFILTR_EL0.
    pub cycles: u64,
    pub cycle_filter: u64,
    pub counters: [Counter; COUNTER_COUNT],
    /// The run loop's count of instructions up to which all is counted.
    counted: u64,
    /// The level of the overflow interrupt last signalled to the interrupt controller.
    output: bool,
}

impl Pmu {
    /// After reset: all disabled.
    pub(crate) fn new() -> Pmu {
        Pmu {
            control: 0,
            enabled: 0,
            overflowed: 0,
            interrupts: 0,
            selected: 0,
            user: 0,
            cycles: 0,
            cycle_filter: 0,
            counters: [Counter::default(); COUNTER_COUNT],
            counted: 0,
            output: false,
        }
    }

    /// Registers as after reset. The level at the interrupt controller follows at the next update.
    pub(crate) fn reset(&mut self) {
        *self = Pmu { counted: self.counted, output: self.output, ..Pmu::new() };
    }

    fn is_on(&self) -> bool {
        self.control & ENABLE != 0 && self.enabled != 0
    }

    /// Whether counter `n` counts `event` at `el` now.
    fn counts(&self, n: usize, event: u64, el: u8) -> bool {
        let Some(counter) = self.counters.get(n) else { return false };
        self.is_on()
            && self.enabled >> n & 1 == 1
            && counter.kind & EVENT == event
            && counter.kind & not_at(el) == 0
    }

    /// Whether the cycle counter counts at `el` now.
    fn counts_cycles(&self, el: u8) -> bool {
        self.is_on() && self.enabled & CYCLES != 0 && self.cycle_filter & not_at(el) == 0
    }

    fn each_counting(&self, event: u64, el: u8) -> impl Iterator<Item = usize> + use<> {
        let counting: [bool; COUNTER_COUNT] = std::array::from_fn(|n| self.counts(n, event, el));
        (0..COUNTER_COUNT).filter(move |&n| counting[n])
    }

    /// Adds to counter `n`; an overflow of an even one is the event of a chained odd one.
    fn add(&mut self, n: usize, count: u64, el: u8) {
        let sum = u64::from(self.counters[n].value) + count;
        self.counters[n].value = sum as u32;
        if sum >> 32 == 0 {
            return;
        }
        self.overflowed |= 1 << n;
        if n.is_multiple_of(2) && self.counts(n + 1, event::CHAIN, el) {
            self.add(n + 1, sum >> 32, el);
        }
    }

    fn add_all(&mut self, event: u64, count: u64, el: u8) {
        for n in self.each_counting(event, el) {
            self.add(n, count, el);
        }
    }

    /// Counts instructions that ran at `el`.
    fn add_instructions(&mut self, count: u64, el: u8) {
        if self.counts_cycles(el) {
            let (sum, wrapped) = self.cycles.overflowing_add(count);
            self.cycles = sum;
            self.overflowed |= if wrapped { CYCLES } else { 0 };
        }
        self.add_all(event::INST_RETIRED, count, el);
        self.add_all(event::CPU_CYCLES, count, el);
    }

    /// Instructions at `el` until a counter overflows, at most `most`, which is positive.
    fn until_overflow(&self, el: u8, most: i64) -> i64 {
        let timed =
            self.each_counting(event::INST_RETIRED, el).chain(self.each_counting(event::CPU_CYCLES, el));
        let nearest = timed.map(|n| (1 << 32) - i64::from(self.counters[n].value)).min();
        nearest.map_or(most, |distance| distance.min(most))
    }

    /// The overflow interrupt's level.
    fn line(&self) -> bool {
        self.control & ENABLE != 0 && self.overflowed & self.interrupts != 0
    }
}

const fn not_at(el: u8) -> u64 {
    if el == 0 { NOT_EL0 } else { NOT_EL1 }
}

/// Whether an instruction is of the encoding group "Loads and Stores" (Arm ARM C4.1): bit 27 set and bit 25 clear.
const fn accesses_memory(word: u32) -> bool {
    word >> 27 & 1 == 1 && word >> 25 & 1 == 0
}

impl Cpu {
    /// Counts what ran at a level that is about to change. Nothing while all counters are off: a write that
    /// enables one counts from there.
    pub(crate) fn count_before_level_changes(&mut self) {
        if self.pmu.is_on() {
            self.count_instructions();
        }
    }

    /// Brings the counters up to the present instruction, before they are read.
    pub(crate) fn count_instructions(&mut self) {
        let now = self.instructions();
        let count = now.wrapping_sub(self.pmu.counted);
        self.pmu.counted = now;
        if self.pmu.is_on() {
            self.pmu.add_instructions(count, self.el);
        }
    }

    /// Between slices: counts, and signals a change of the overflow interrupt's level to the interrupt controller.
    pub(crate) fn update_pmu(&mut self) {
        if !self.pmu.is_on() && !self.pmu.output && self.pmu.overflowed == 0 {
            return;
        }
        self.count_instructions();
        if self.pmu.line() != self.pmu.output {
            self.announce_pmu();
        }
    }

    /// Signals the level to the interrupt controller, changed or not.
    pub(crate) fn announce_pmu(&mut self) {
        self.pmu.output = self.pmu.line();
        self.interrupts.set_ppi_level(self.index, OVERFLOW_INTID, self.pmu.output);
    }

    /// The length of the next slice: an overflow ends it.
    pub(crate) fn slice_until_overflow(&self, most: i64) -> i64 {
        if self.pmu.is_on() { self.pmu.until_overflow(self.el, most) } else { most }
    }

    /// Whether memory accesses are counted here, so that instructions run one by one.
    pub(crate) fn counts_accesses(&self) -> bool {
        self.pmu.is_on() && self.pmu.each_counting(event::MEM_ACCESS, self.el).next().is_some()
    }

    /// Counts the access of an instruction that ran alone; `el` is where it began.
    pub(crate) fn count_access(&mut self, word: u32, el: u8) {
        if accesses_memory(word) {
            let before = self.pmu.overflowed;
            self.pmu.add_all(event::MEM_ACCESS, 1, el);
            if self.pmu.overflowed != before {
                self.attend();
            }
        }
    }
}
