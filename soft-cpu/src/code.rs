// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decoded-code cache of one CPU: for each physical page that was executed, one operation per word.
//!
//! A word is decoded when it is first run; until then its operation asks for that. The cache is keyed by
//! physical address, so it survives every change of address space, and is invalidated by instruction cache
//! maintenance alone, as the architecture has it (CTR_EL0.DIC is 0). The run loop owns it and lends operations
//! to handlers, which therefore cannot change it: they leave a `CodeChange`.

use std::collections::HashMap;

use crate::cpu::Cpu;
use crate::isa;
use crate::op::Op;
use crate::ram::{GuestRam, PAGE_LEN};

/// Operations in a page.
const PAGE_OPS: usize = 1024;
/// Pages kept: 96 MiB of operations, room for 16 MiB of executed code. Past it the cache starts afresh.
const PAGES_MAX: usize = 4096;
/// Words decoded ahead at most. A run ends at a branch that is always taken, and at the page.
const AHEAD_MAX: usize = 16;
/// Bytes of an instruction cache line, as in CTR_EL0.IminLine.
pub(crate) const LINE_LEN: u64 = 64;

/// A request to forget decoded code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodeChange {
    /// One line of physical memory.
    Line(u64),
    All,
}

/// The operations of one page.
pub(crate) type CodePage = [Op; PAGE_OPS];

struct Cached {
    frame: u64,
    ops: Box<CodePage>,
}

/// Decoded pages by physical address.
pub(crate) struct CodeCache {
    pages: Vec<Cached>,
    by_frame: HashMap<u64, u32>,
    /// Lent when an index has no page.
    empty: Box<CodePage>,
}

impl CodeCache {
    pub(crate) fn new() -> CodeCache {
        CodeCache { pages: Vec::new(), by_frame: HashMap::new(), empty: undecoded_page() }
    }

    /// The page of index `page`.
    #[inline(always)]
    pub(crate) fn ops(&self, page: u32) -> &CodePage {
        match self.pages.get(page as usize) {
            Some(cached) => &cached.ops,
            None => &self.empty,
        }
    }

    /// The index for the page at `gpa`, if it is cached or there is room.
    pub(crate) fn find_or_add(&mut self, gpa: u64) -> Option<u32> {
        let frame = gpa & !(PAGE_LEN - 1);
        if let Some(&page) = self.by_frame.get(&frame) {
            return Some(page);
        }
        if self.pages.len() >= PAGES_MAX {
            return None;
        }
        let page = self.pages.len() as u32;
        self.pages.push(Cached { frame, ops: undecoded_page() });
        self.by_frame.insert(frame, page);
        Some(page)
    }

    /// Drops all pages. Every index becomes invalid.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.by_frame.clear();
    }

    pub(crate) fn apply(&mut self, change: CodeChange) {
        match change {
            CodeChange::Line(pa) => {
                let Some(&page) = self.by_frame.get(&(pa & !(PAGE_LEN - 1))) else { return };
                let first = slot(pa & !(LINE_LEN - 1));
                let Some(cached) = self.pages.get_mut(page as usize) else { return };
                cached.ops[first..first + (LINE_LEN / 4) as usize].fill(undecoded());
            }
            CodeChange::All => {
                for cached in &mut self.pages {
                    cached.ops.fill(undecoded());
                }
            }
        }
    }

    /// Decodes the word at `pc` in `page`, and some that follow it.
    pub(crate) fn decode(&mut self, page: u32, pc: u64, ram: &GuestRam) {
        let Some(cached) = self.pages.get_mut(page as usize) else { return };
        let first = slot(pc);
        for (ahead, op) in cached.ops[first..].iter_mut().take(AHEAD_MAX).enumerate() {
            let gpa = cached.frame + ((first + ahead) * 4) as u64;
            let word = ram.read::<2>(gpa).unwrap_or(0) as u32;
            *op = isa::decode(word);
            if isa::ends_run(word) {
                break;
            }
        }
    }
}

fn slot(address: u64) -> usize {
    (address >> 2) as usize & (PAGE_OPS - 1)
}

fn undecoded() -> Op {
    fn handler(cpu: &mut Cpu, _: &Op) {
        cpu.pc = cpu.this_pc();
        cpu.decode_wanted = true;
        cpu.leave();
    }
    Op { run: handler, imm: 0, d: 0, n: 0, m: 0, a: 0, word: 0 }
}

fn undecoded_page() -> Box<CodePage> {
    match vec![undecoded(); PAGE_OPS].into_boxed_slice().try_into() {
        Ok(page) => page,
        Err(_) => unreachable!("the vector has PAGE_OPS elements"),
    }
}
