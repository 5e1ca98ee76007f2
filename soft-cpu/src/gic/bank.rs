// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State of wired interrupts, 32 to a word: the distributor's SPIs, or one vCPU's SGIs and PPIs.
//!
//! Pending has two sources. The *latch* is set by an edge, an SGI or ISPENDR, and cleared when the
//! interrupt is acknowledged or by ICPENDR. The *line* is the input wire; a level-sensitive interrupt is
//! pending while its line is high (IHI 0069 §4.1.2). An active interrupt is never a candidate.
//! Invariant: no bit outside `implemented` is ever set in any field.

use super::GicError;
use super::priority;
use super::saved::{IrqBankV1, IrqWordV1};
use super::spec::bit_of;
use super::spec::dist::BitBlock;
use super::spec::field::{gather_odd, spread_to_odd};

/// A pending interrupt that could be signalled. Ordered as the architecture chooses: by priority, then by
/// INTID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Lower is more urgent.
    pub priority: u8,
    /// INTID.
    pub intid: u32,
}

/// 32 interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Which bits exist; fixed at creation.
    pub implemented: u32,
    /// Which bits are edge-triggered whatever the guest configures (SGIs); fixed at creation.
    pub always_edge: u32,
    /// IGROUPR: group 1.
    pub group1: u32,
    /// ISENABLER.
    pub enabled: u32,
    /// Pending by an event.
    pub latch: u32,
    /// ISACTIVER.
    pub active: u32,
    /// Input wires.
    pub line: u32,
    /// ICFGR: edge-triggered.
    pub edge: u32,
}

impl Word {
    /// What ISPENDR reads.
    pub const fn pending(&self) -> u32 {
        self.latch | (self.line & !self.edge)
    }

    /// Those that may be signalled: pending, enabled, not active, in group 1 (group 0 would be FIQ).
    const fn ready(&self) -> u32 {
        self.pending() & self.enabled & self.group1 & !self.active
    }

    /// Forces the fixed bits; live writes and restore both end here.
    pub const fn sanitise(&mut self) {
        self.edge = (self.edge | self.always_edge) & self.implemented;
        self.group1 &= self.implemented;
        self.enabled &= self.implemented;
        self.latch &= self.implemented;
        self.active &= self.implemented;
        self.line &= self.implemented;
    }
}

/// Consecutive words and their priorities.
#[derive(Clone, Debug)]
pub struct Bank {
    first_intid: u32,
    words: Vec<Word>,
    priorities: Vec<u8>,
}

impl Bank {
    /// `count` interrupts from `first_intid` (a multiple of 32), all at their reset values.
    pub fn new(first_intid: u32, count: u32, always_edge: u32) -> Self {
        let word = |index: u32| {
            let existing = (count - index * 32).min(32);
            let mut word = Word { implemented: u32::MAX >> (32 - existing), always_edge, ..Word::default() };
            word.sanitise();
            word
        };
        Self {
            first_intid,
            words: (0..count.div_ceil(32)).map(word).collect(),
            priorities: vec![0; count as usize],
        }
    }

    /// How many words there are.
    pub fn word_count(&self) -> usize {
        self.words.len()
    }

    fn index_of(&self, intid: u32) -> Option<usize> {
        intid.checked_sub(self.first_intid).map(|index| index as usize)
    }

    /// The word that holds `intid`, if the interrupt exists.
    fn word_of(&mut self, intid: u32) -> Option<&mut Word> {
        let index = self.index_of(intid)? / 32;
        self.words.get_mut(index).filter(|word| word.implemented & bit_of(intid) != 0)
    }

    /// Reads a one-bit register; `word` counts from INTID 0 as the offset does.
    pub fn read_bits(&self, block: BitBlock, word: u32) -> u32 {
        let Some(word) = self.index_of(word * 32).and_then(|at| self.words.get(at / 32)) else { return 0 };
        match block {
            BitBlock::Group => word.group1,
            BitBlock::SetEnable | BitBlock::ClearEnable => word.enabled,
            BitBlock::SetPending | BitBlock::ClearPending => word.pending(),
            BitBlock::SetActive | BitBlock::ClearActive => word.active,
        }
    }

    /// Writes a one-bit register.
    pub fn write_bits(&mut self, block: BitBlock, word: u32, value: u32) {
        let Some(at) = self.index_of(word * 32) else { return };
        let Some(word) = self.words.get_mut(at / 32) else { return };
        match block {
            BitBlock::Group => word.group1 = value,
            BitBlock::SetEnable => word.enabled |= value,
            BitBlock::ClearEnable => word.enabled &= !value,
            BitBlock::SetPending => word.latch |= value,
            BitBlock::ClearPending => word.latch &= !value,
            BitBlock::SetActive => word.active |= value,
            BitBlock::ClearActive => word.active &= !value,
        }
        word.sanitise();
    }

    /// Reads ICFGR number `index`: two bits an interrupt, the upper one says edge.
    pub fn read_config(&self, index: u32) -> u32 {
        let Some(word) = self.index_of(index * 16).and_then(|at| self.words.get(at / 32)) else { return 0 };
        spread_to_odd(word.edge >> (16 * (index % 2)))
    }

    /// Writes ICFGR number `index`.
    pub fn write_config(&mut self, index: u32, value: u32) {
        let Some(at) = self.index_of(index * 16) else { return };
        let Some(word) = self.words.get_mut(at / 32) else { return };
        let shift = 16 * (index % 2);
        word.edge = (word.edge & !(0xffff << shift)) | (gather_odd(value) << shift);
        word.sanitise();
    }

    /// Priority of an interrupt; zero if it does not exist.
    pub fn priority(&self, intid: u32) -> u8 {
        self.index_of(intid).and_then(|at| self.priorities.get(at)).copied().unwrap_or(0)
    }

    /// Sets a priority, keeping the implemented bits.
    pub fn set_priority(&mut self, intid: u32, value: u64) {
        if let Some(at) = self.index_of(intid)
            && let Some(slot) = self.priorities.get_mut(at)
        {
            *slot = priority::sanitise(value);
        }
    }

    /// Drives an input wire; true if anything changed. A rising edge latches an edge-triggered interrupt.
    pub fn set_line(&mut self, intid: u32, high: bool) -> bool {
        let bit = bit_of(intid);
        let Some(word) = self.word_of(intid) else { return false };
        let was_high = word.line & bit != 0;
        if high == was_high {
            return false;
        }
        word.line ^= bit;
        if high {
            word.latch |= bit & word.edge;
        }
        true
    }

    /// The wire rises and falls at once: latches an edge-triggered interrupt, leaves no trace on a
    /// level-sensitive one.
    pub fn pulse(&mut self, intid: u32) -> bool {
        let bit = bit_of(intid);
        let Some(word) = self.word_of(intid) else { return false };
        word.latch |= bit & word.edge;
        word.edge & bit != 0
    }

    /// A message: latches an edge-triggered interrupt, holds a level-sensitive one high until
    /// [`Self::retract`].
    pub fn message(&mut self, intid: u32) -> bool {
        self.pulse(intid) || self.set_line(intid, true)
    }

    /// The opposite of [`Self::message`].
    pub fn retract(&mut self, intid: u32) -> bool {
        let bit = bit_of(intid);
        let Some(word) = self.word_of(intid) else { return false };
        word.latch &= !(bit & word.edge);
        word.line &= !(bit & !word.edge);
        true
    }

    /// Latches an SGI.
    pub fn latch(&mut self, intid: u32) {
        if let Some(word) = self.word_of(intid) {
            word.latch |= bit_of(intid);
        }
    }

    /// The CPU interface took the interrupt: pending ends (unless the line stays high) and active begins.
    pub fn acknowledge(&mut self, intid: u32) {
        if let Some(word) = self.word_of(intid) {
            word.latch &= !bit_of(intid);
            word.active |= bit_of(intid);
        }
    }

    /// Active ends.
    pub fn deactivate(&mut self, intid: u32) {
        if let Some(word) = self.word_of(intid) {
            word.active &= !bit_of(intid);
        }
    }

    /// True when the interrupt exists and is in group 0.
    pub fn is_group0(&self, intid: u32) -> bool {
        self.index_of(intid)
            .and_then(|at| self.words.get(at / 32))
            .is_some_and(|word| word.implemented & !word.group1 & bit_of(intid) != 0)
    }

    /// The most urgent candidate among those whose bits `masks` has (one mask a word).
    /// Cost: one test a word, and one comparison a ready interrupt.
    pub fn best<'a>(&self, masks: impl Iterator<Item = &'a u32>) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        let mut base = self.first_intid;
        for (word, mask) in self.words.iter().zip(masks) {
            let mut ready = word.ready() & mask;
            while ready != 0 {
                let intid = base + ready.trailing_zeros();
                let found = Candidate { priority: self.priority(intid), intid };
                best = Some(best.map_or(found, |so_far| so_far.min(found)));
                ready &= ready - 1;
            }
            base += 32;
        }
        best
    }

    /// The saved form.
    pub fn save(&self) -> IrqBankV1 {
        // The first INTID is the machine's shape.
        let Self { first_intid: _, words, priorities } = self;
        let words = words.iter().map(|word| {
            // What is fixed at creation is the machine's shape.
            let Word { implemented: _, always_edge: _, group1, enabled, latch, active, line, edge } = *word;
            IrqWordV1 { group1, enabled, latch, active, line, edge }
        });
        IrqBankV1 { words: words.collect(), priorities: priorities.clone() }
    }

    /// Takes the saved values over, if there are as many as this bank has.
    pub fn restore(&mut self, saved: &IrqBankV1) -> Result<(), GicError> {
        let IrqBankV1 { words, priorities } = saved;
        if words.len() != self.words.len() || priorities.len() != self.priorities.len() {
            return Err(GicError::Shape("wired interrupts"));
        }
        for (word, saved) in self.words.iter_mut().zip(words) {
            let IrqWordV1 { group1, enabled, latch, active, line, edge } = *saved;
            *word = Word { group1, enabled, latch, active, line, edge, ..*word };
            word.sanitise();
        }
        for (to, from) in self.priorities.iter_mut().zip(priorities) {
            *to = priority::sanitise(u64::from(*from));
        }
        Ok(())
    }
}

/// SGIs are edge-triggered, PPIs are configurable.
pub const SGI_EDGE: u32 = 0xffff;
