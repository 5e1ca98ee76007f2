// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Self-hosted debug: hardware breakpoints and watchpoints (Arm ARM D2.8 to D2.10).
//!
//! Nothing is paid for them while none is armed. A page that an armed breakpoint may stop in is run one instruction at
//! a time, with a look at the breakpoints before each. A page with an armed watchpoint never stays in the TLB, so every
//! access to it takes the slow path (`access.rs`), which looks at the watchpoints.
//!
//! Without AArch32, EL2 and EL3 there are four kinds of breakpoints: address match and context match, linked or not.
//! Address mismatch, VMID and EL2 kinds are reserved and behave as disabled, and so does a control value whose
//! combination of HMC, SSC and PMC needs a level that is not there.

use crate::cpu::Cpu;
use crate::exception::Class;
use crate::mmu::Access;
use crate::ram::PAGE_LEN;
use crate::tlb::Table;

/// Breakpoints, as ID_AA64DFR0_EL1.BRPs says (less one).
pub(crate) const BREAKPOINT_COUNT: usize = 6;
/// The last of them compare CONTEXTIDR_EL1 too (ID_AA64DFR0_EL1.CTX_CMPs, less one).
pub(crate) const CONTEXT_AWARE_COUNT: usize = 2;
/// Watchpoints, as ID_AA64DFR0_EL1.WRPs says (less one).
pub(crate) const WATCHPOINT_COUNT: usize = 4;

/// MDSCR_EL1.MDE: breakpoints and watchpoints are enabled.
const MDE: u64 = 1 << 15;
/// DBGBCR_EL1: E, PMC, BAS, HMC, SSC, LBN, BT. BAS reads as one: all instructions are words.
const BREAKPOINT_WRITABLE: u64 = 0x00ff_e007;
const BREAKPOINT_ONE: u64 = 0xf << 5;
/// DBGWCR_EL1: E, PAC, LSC, BAS, HMC, SSC, LBN, WT, MASK.
const WATCHPOINT_WRITABLE: u64 = 0x1f1f_ffff;
/// An address in a value register: what is above bit 48 is its sign.
const ADDRESS: u64 = 0x0001_ffff_ffff_ffff;
/// The watched range is at most 2 GiB (MASK 31).
const MASK_MIN: u64 = 3;

/// A pair of control and value register.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Point {
    pub control: u64,
    pub value: u64,
}

/// The breakpoint and watchpoint registers of a CPU, and what of them is armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Debug {
    breakpoints: [Point; BREAKPOINT_COUNT],
    watchpoints: [Point; WATCHPOINT_COUNT],
    /// Some breakpoint, some watchpoint is enabled, MDSCR_EL1.MDE is set, and the OS lock is open.
    code_armed: bool,
    data_armed: bool,
}

/// A register of a breakpoint or watchpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DebugRegister {
    /// DBGBVRn_EL1.
    BreakpointValue(usize),
    /// DBGBCRn_EL1.
    BreakpointControl(usize),
    /// DBGWVRn_EL1.
    WatchpointValue(usize),
    /// DBGWCRn_EL1.
    WatchpointControl(usize),
}

/// What an access to watched memory does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watched {
    Load,
    Store,
    /// An atomic read-modify-write: both.
    Update,
    /// DC IVAC.
    Invalidate,
}

impl Point {
    fn enabled(self) -> bool {
        self.control & 1 == 1
    }

    /// BT, or WT in its lowest bit.
    fn kind(self) -> u64 {
        self.control >> 20 & 0xf
    }

    /// LBN: the breakpoint that this one is linked to.
    fn linked_to(self) -> usize {
        (self.control >> 16 & 0xf) as usize
    }

    /// Whether HMC, SSC and PMC (or PAC) choose this level. Only their forms without EL2 and EL3 exist here.
    fn chooses(self, privileged: bool) -> bool {
        let higher_or_secure = self.control >> 13 & 7 != 0;
        !higher_or_secure
            && match self.control >> 1 & 3 {
                0b01 => privileged,
                0b10 => !privileged,
                0b11 => true,
                _ => false,
            }
    }

    /// The bytes that a watchpoint watches, first and last; `None` where MASK and BAS have no meaning together.
    fn watched_range(self) -> Option<(u64, u64)> {
        let (mask, bytes) = (self.control >> 24 & 0x1f, self.control >> 5 & 0xff);
        let address = self.value & ADDRESS;
        if mask != 0 {
            let low = (1 << mask) - 1;
            return (mask >= MASK_MIN && bytes == 0xff).then_some((address & !low, address | low));
        }
        // Byte select: one run of ones; an address that is a multiple of four only has four bytes.
        let bytes = if address & 4 != 0 { bytes & 0xf } else { bytes };
        if bytes == 0 {
            return None;
        }
        let first = bytes.trailing_zeros();
        let run = (bytes >> first).trailing_ones();
        if bytes >> first >> run != 0 {
            return None;
        }
        let start = address + u64::from(first);
        Some((start, start + u64::from(run) - 1))
    }
}

impl Debug {
    /// After reset: all disabled.
    pub(crate) fn new() -> Debug {
        Debug::with([Point::default(); BREAKPOINT_COUNT], [Point::default(); WATCHPOINT_COUNT])
    }

    /// Saved registers, through the masks of their writes. `arm` has to follow.
    pub(crate) fn with(
        breakpoints: [Point; BREAKPOINT_COUNT],
        watchpoints: [Point; WATCHPOINT_COUNT],
    ) -> Debug {
        let mut debug = Debug {
            breakpoints: [Point::default(); BREAKPOINT_COUNT],
            watchpoints: [Point::default(); WATCHPOINT_COUNT],
            code_armed: false,
            data_armed: false,
        };
        for (n, point) in breakpoints.into_iter().enumerate() {
            debug.write(DebugRegister::BreakpointValue(n), point.value);
            debug.write(DebugRegister::BreakpointControl(n), point.control);
        }
        for (n, point) in watchpoints.into_iter().enumerate() {
            debug.write(DebugRegister::WatchpointValue(n), point.value);
            debug.write(DebugRegister::WatchpointControl(n), point.control);
        }
        debug
    }

    pub(crate) fn points(&self) -> ([Point; BREAKPOINT_COUNT], [Point; WATCHPOINT_COUNT]) {
        (self.breakpoints, self.watchpoints)
    }

    /// The register's value. Its number is below the count of its kind.
    pub(crate) fn read(&self, register: DebugRegister) -> u64 {
        match register {
            DebugRegister::BreakpointValue(n) => self.breakpoints[n].value,
            DebugRegister::BreakpointControl(n) => self.breakpoints[n].control,
            DebugRegister::WatchpointValue(n) => self.watchpoints[n].value,
            DebugRegister::WatchpointControl(n) => self.watchpoints[n].control,
        }
    }

    /// Writes what of `value` exists. `arm` has to follow.
    pub(crate) fn write(&mut self, register: DebugRegister, value: u64) {
        match register {
            // The lowest bits are part of a context, not of an address.
            DebugRegister::BreakpointValue(n) if is_context_aware(n) => self.breakpoints[n].value = value,
            DebugRegister::BreakpointValue(n) => self.breakpoints[n].value = value & !3,
            DebugRegister::BreakpointControl(n) => {
                self.breakpoints[n].control = value & BREAKPOINT_WRITABLE | BREAKPOINT_ONE;
            }
            DebugRegister::WatchpointValue(n) => self.watchpoints[n].value = value & !3,
            DebugRegister::WatchpointControl(n) => {
                self.watchpoints[n].control = value & WATCHPOINT_WRITABLE;
            }
        }
    }

    /// Whether an armed breakpoint may match an instruction of the page of `pc`.
    #[inline(always)]
    fn may_stop_in(&self, pc: u64) -> bool {
        self.code_armed && self.is_armed_in_page_of(pc)
    }

    #[cold]
    fn is_armed_in_page_of(&self, pc: u64) -> bool {
        self.breakpoints.iter().any(|point| {
            let same_page = (point.value ^ pc) & ADDRESS & !(PAGE_LEN - 1) == 0;
            point.enabled() && (same_page || point.kind() == CONTEXT)
        })
    }

    /// Whether an armed watchpoint watches a byte of the page of `va`.
    #[inline(always)]
    pub(crate) fn watches_page_of(&self, va: u64) -> bool {
        self.data_armed && self.is_watching_page_of(va)
    }

    #[cold]
    fn is_watching_page_of(&self, va: u64) -> bool {
        let first = va & ADDRESS & !(PAGE_LEN - 1);
        self.watched().any(|(_, low, high)| low < first + PAGE_LEN && first <= high)
    }

    /// The enabled watchpoints and their bytes.
    fn watched(&self) -> impl Iterator<Item = (Point, u64, u64)> {
        self.watchpoints.into_iter().filter(|point| point.enabled()).filter_map(|point| {
            let (low, high) = point.watched_range()?;
            Some((point, low, high))
        })
    }

    /// Whether breakpoint `n`, which another is linked to, matches the context.
    fn linked_context_matches(&self, n: usize, context: u64) -> bool {
        let Some(point) = self.breakpoints.get(n) else { return false };
        is_context_aware(n)
            && point.enabled()
            && point.kind() == LINKED_CONTEXT
            && same_context(point, context)
    }

    /// Whether a breakpoint matches the instruction at `pc`.
    fn breakpoint_matches(&self, pc: u64, privileged: bool, context: u64) -> bool {
        let matches = |(n, point): (usize, &Point)| {
            let same_address = (point.value ^ pc) & ADDRESS & !3 == 0;
            point.enabled()
                && point.chooses(privileged)
                && match point.kind() {
                    ADDRESS_MATCH => same_address,
                    LINKED_ADDRESS => same_address && self.linked_context_matches(point.linked_to(), context),
                    CONTEXT => is_context_aware(n) && same_context(point, context),
                    // A linked context match alone generates nothing, and the rest is reserved.
                    _ => false,
                }
        };
        self.breakpoints.iter().enumerate().any(matches)
    }

    /// The first watched byte of an access, if a watchpoint matches it.
    fn watchpoint_matches(
        &self,
        va: u64,
        len: u64,
        does: Watched,
        privileged: bool,
        context: u64,
    ) -> Option<u64> {
        let (first, last) = (va & ADDRESS, (va & ADDRESS) + (len - 1));
        let matches = |(point, low, high): (Point, u64, u64)| {
            let (load, store) = (point.control >> 3 & 1 == 1, point.control >> 4 & 1 == 1);
            let kind = match does {
                Watched::Load => load,
                Watched::Store | Watched::Invalidate => store,
                Watched::Update => load || store,
            };
            let linked = point.kind() & 1 == 1;
            let hit = kind
                && low <= last
                && first <= high
                && point.chooses(privileged)
                && (!linked || self.linked_context_matches(point.linked_to(), context));
            hit.then(|| va.wrapping_add(low.saturating_sub(first)))
        };
        self.watched().find_map(matches)
    }
}

/// DBGBCR_EL1.BT.
const ADDRESS_MATCH: u64 = 0b0000;
const LINKED_ADDRESS: u64 = 0b0001;
const CONTEXT: u64 = 0b0010;
const LINKED_CONTEXT: u64 = 0b0011;

fn is_context_aware(n: usize) -> bool {
    n >= BREAKPOINT_COUNT - CONTEXT_AWARE_COUNT
}

fn same_context(point: &Point, context: u64) -> bool {
    point.value as u32 == context as u32
}

impl Cpu {
    /// Follows a change of breakpoints, watchpoints, MDSCR_EL1 or the OS lock.
    pub(crate) fn arm_debug(&mut self) {
        let enabled = self.sys.mdscr & MDE != 0 && !self.sys.os_locked;
        let had_watchpoints = self.debug.data_armed;
        self.debug.code_armed = enabled && self.debug.breakpoints.iter().any(|point| point.enabled());
        self.debug.data_armed = enabled && self.debug.watched().next().is_some();
        if had_watchpoints || self.debug.data_armed {
            // What is watched now must not be in the TLB.
            self.tlb.flush_all();
        }
        self.attend();
    }

    /// Whether a debug exception other than BRK may be taken from the current level.
    pub(crate) fn debug_enabled_here(&self) -> bool {
        self.el == 0 || (self.sys.kernel_debug_enabled() && self.daif & 8 == 0)
    }

    /// Whether instructions of the current page run one by one.
    #[inline(always)]
    pub(crate) fn steps_through_page(&self) -> bool {
        self.debug.may_stop_in(self.pc)
    }

    /// Takes the Breakpoint exception if one matches the instruction at the program counter.
    #[inline(always)]
    pub(crate) fn take_breakpoint_if_due(&mut self) -> bool {
        let due = self.debug.may_stop_in(self.pc)
            && self.debug_enabled_here()
            && self.debug.breakpoint_matches(self.pc, self.el == 1, self.sys.contextidr);
        if due {
            let pc = self.pc;
            self.take_synchronous(Class::Breakpoint, DEBUG_STATUS, None, pc);
        }
        due
    }

    /// Takes the Watchpoint exception if one matches an access that would otherwise be made. `None`: it was taken.
    pub(crate) fn watch(&mut self, table: Table, va: u64, len: u64, does: Watched) -> Option<()> {
        if !self.debug.data_armed || !self.debug_enabled_here() {
            return Some(());
        }
        let privileged = table.level() == 1;
        let context = self.sys.contextidr;
        let Some(address) = self.debug.watchpoint_matches(va, len, does, privileged, context) else {
            return Some(());
        };
        let would_read = does == Watched::Load
            || (does == Watched::Update
                && self.debug.watchpoint_matches(va, len, Watched::Load, privileged, context).is_some());
        // The page was entered when the access was found to be possible.
        self.forget_watched(table, va, len);
        let (maintenance, write) = (does == Watched::Invalidate, !would_read);
        let iss = u64::from(maintenance) << 8 | u64::from(write) << 6 | DEBUG_STATUS;
        let pc = self.this_pc();
        self.take_synchronous(Class::Watchpoint, iss, Some(address), pc);
        None
    }

    /// Takes watched pages of an access that was made out of the TLB again.
    pub(crate) fn forget_watched(&mut self, table: Table, va: u64, len: u64) {
        for at in [va, va.wrapping_add(len - 1)] {
            if self.debug.watches_page_of(at) {
                self.tlb.forget(table, at);
            }
        }
    }

    /// The same for an access that is yet to be made: its page goes when the instruction has ended.
    pub(crate) fn forget_watched_later(&mut self, table: Table, va: u64) {
        if self.debug.watches_page_of(va) {
            self.watched_spot = Some((table, va));
            self.leave();
        }
    }
}

impl Watched {
    /// What an access that starts with `first` does to memory that it updates.
    pub(crate) fn by_atomic(first: Access) -> Watched {
        if first == Access::Read { Watched::Update } else { Watched::Store }
    }
}

/// The fault status of debug exceptions in ESR_EL1.
const DEBUG_STATUS: u64 = 0b100010;
