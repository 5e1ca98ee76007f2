// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads and stores as instructions make them: virtual address in, value out, or an exception taken.
//!
//! The fast path is one TLB compare and serves aligned accesses only. Everything else comes here: misses,
//! unaligned accesses (which must fault on device memory or under SCTLR_EL1.A), accesses that span two pages,
//! and device memory. An access that faults in its second page has stored nothing in the first.
//! Every function returns `None` when an exception was taken; the handler then returns at once.

use crate::cpu::Cpu;
use crate::debug::Watched;
use crate::mmu::{Access, Fault};
use crate::op::{Op, SP};
use crate::ram::{PAGE_LEN, WriteSpot};
use crate::tlb::Table;

impl Cpu {
    /// Loads `1 << LOG2` bytes (LOG2 up to 3), zero-extended.
    #[inline(always)]
    pub(crate) fn load<const LOG2: usize>(&mut self, va: u64) -> Option<u64> {
        self.load_in::<LOG2>(self.tlb.table(), va)
    }

    /// Stores the low `1 << LOG2` bytes (LOG2 up to 3) of `value`.
    #[inline(always)]
    pub(crate) fn store<const LOG2: usize>(&mut self, va: u64, value: u64) -> Option<()> {
        self.store_in::<LOG2>(self.tlb.table(), va, value)
    }

    /// Loads sixteen bytes. Only each half is single-copy atomic.
    pub(crate) fn load_wide(&mut self, va: u64) -> Option<u128> {
        let low = self.load::<3>(va)?;
        let high = self.load::<3>(va.wrapping_add(8))?;
        Some(u128::from(high) << 64 | u128::from(low))
    }

    /// Stores sixteen bytes. Only each half is single-copy atomic.
    pub(crate) fn store_wide(&mut self, va: u64, value: u128) -> Option<()> {
        if (va ^ va.wrapping_add(15)) & !(PAGE_LEN - 1) != 0 {
            self.probe_store(va.wrapping_add(15))?;
        }
        self.store::<3>(va, value as u64)?;
        self.store::<3>(va.wrapping_add(8), (value >> 64) as u64)
    }

    /// `load` with the rights of the level that `table` belongs to.
    #[inline(always)]
    pub(crate) fn load_in<const LOG2: usize>(&mut self, table: Table, va: u64) -> Option<u64> {
        match self.tlb.read::<LOG2>(table, va) {
            Some(spot) => Some(spot.load()),
            None => self.load_slow(table, va, LOG2),
        }
    }

    /// `store` with the rights of the level that `table` belongs to.
    #[inline(always)]
    pub(crate) fn store_in<const LOG2: usize>(&mut self, table: Table, va: u64, value: u64) -> Option<()> {
        match self.tlb.write::<LOG2>(table, va) {
            Some(spot) => {
                spot.store(value);
                Some(())
            }
            None => self.store_slow(table, va, LOG2, value),
        }
    }

    /// The base register of a load or store, with the stack alignment check when it is the stack pointer.
    #[inline(always)]
    pub(crate) fn base(&mut self, op: &Op) -> Option<u64> {
        let value = self.r(op.n);
        if op.n == SP && value & 15 != 0 && self.regime.stack_check(self.el) {
            self.stack_alignment();
            return None;
        }
        Some(value)
    }

    /// Takes the fault that a store to `va` would take, if any.
    pub(crate) fn probe_store(&mut self, va: u64) -> Option<()> {
        match self.translate(va, Access::Write, self.el) {
            Ok(_) => Some(()),
            Err(fault) => self.data_abort(va, Access::Write, fault),
        }
    }

    /// A place for an atomic access: in RAM, writable, aligned; anything else is an exception.
    pub(crate) fn atomic_spot<const LOG2: usize>(
        &mut self,
        va: u64,
        first: Access,
    ) -> Option<WriteSpot<'_, LOG2>> {
        let table = self.tlb.table();
        if va & ((1 << LOG2) - 1) != 0 {
            return self.data_abort(va, first, Fault::Alignment).and(None);
        }
        if self.tlb.write::<LOG2>(table, va).is_none() {
            if first == Access::Read
                && let Err(fault) = self.translate(va, Access::Read, self.el)
            {
                return self.data_abort(va, Access::Read, fault).and(None);
            }
            match self.fill(table, va, Access::Write) {
                Ok(None) => {}
                Ok(Some(_)) => return self.data_abort(va, Access::Write, Fault::Exclusive).and(None),
                Err(fault) => return self.data_abort(va, Access::Write, fault).and(None),
            }
            self.watch(table, va, 1 << LOG2, Watched::by_atomic(first))?;
            self.forget_watched_later(table, va);
        }
        self.tlb.write::<LOG2>(table, va)
    }

    /// Takes a data abort. Always `None`, for the caller to return.
    #[cold]
    pub(crate) fn data_abort(&mut self, va: u64, access: Access, fault: Fault) -> Option<()> {
        self.take_data_abort(va, access, fault);
        None
    }

    /// Enters a page into the TLB; the address of the access if it is device memory on the bus instead.
    fn fill(&mut self, table: Table, va: u64, access: Access) -> Result<Option<u64>, Fault> {
        let el = table.level();
        let found = self.translate(va, access, el)?;
        let write = access == Access::Write;
        if !self.tlb.fill(table, va, found.pa, write, found.traits) {
            return Ok(Some(found.pa));
        }
        if write {
            self.dirty.mark(found.pa & !(PAGE_LEN - 1), PAGE_LEN);
        }
        Ok(None)
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, table: Table, va: u64, log2: usize) -> Option<u64> {
        let len = 1u64 << log2;
        if va & (len - 1) != 0 {
            return self.load_unaligned(table, va, len);
        }
        match self.fill(table, va, Access::Read) {
            Err(fault) => self.data_abort(va, Access::Read, fault).and(None),
            Ok(on_bus) => {
                self.watch(table, va, len, Watched::Load)?;
                let value = match on_bus {
                    Some(pa) => Some(self.bus_read(pa, len)),
                    None => self.load_filled(table, va, log2),
                };
                self.forget_watched(table, va, len);
                value
            }
        }
    }

    fn load_filled(&mut self, table: Table, va: u64, log2: usize) -> Option<u64> {
        match log2 {
            0 => self.tlb.read::<0>(table, va).map(|spot| spot.load()),
            1 => self.tlb.read::<1>(table, va).map(|spot| spot.load()),
            2 => self.tlb.read::<2>(table, va).map(|spot| spot.load()),
            _ => self.tlb.read::<3>(table, va).map(|spot| spot.load()),
        }
    }

    /// Makes the one or two pages of an unaligned access present, or takes the exception that the access causes.
    /// True if all of it is in RAM.
    fn prepare_unaligned(&mut self, table: Table, va: u64, len: u64, access: Access) -> Option<bool> {
        if self.regime.alignment_check() {
            return self.data_abort(va, access, Fault::Alignment).and(None);
        }
        let last = va.wrapping_add(len - 1);
        let mut in_ram = true;
        for at in [va, last] {
            let present = match access {
                Access::Write => self.tlb.write::<0>(table, at).is_some(),
                Access::Read | Access::Execute | Access::Maintain => self.tlb.read::<0>(table, at).is_some(),
            };
            if !present {
                // The second page is reported at its own start, where the access first touches it.
                let reported = if at == va { va } else { last & !(PAGE_LEN - 1) };
                match self.fill(table, at, access) {
                    Err(fault) => {
                        let reported = if (at ^ va) & !(PAGE_LEN - 1) == 0 { va } else { reported };
                        return self.data_abort(reported, access, fault).and(None);
                    }
                    Ok(in_bus) => in_ram &= in_bus.is_none(),
                }
            }
            let device = match self.translate_device(table, at, in_ram) {
                Ok(device) => device,
                Err(fault) => return self.data_abort(va, access, fault).and(None),
            };
            if device {
                return self.data_abort(va, access, Fault::Alignment).and(None);
            }
        }
        let does = if access == Access::Write { Watched::Store } else { Watched::Load };
        self.watch(table, va, len, does)?;
        Some(in_ram)
    }

    fn translate_device(&mut self, table: Table, va: u64, in_ram: bool) -> Result<bool, Fault> {
        if in_ram {
            return Ok(self.tlb.is_device(table, va));
        }
        Ok(self.translate(va, Access::Read, table.level())?.traits.device)
    }

    fn load_unaligned(&mut self, table: Table, va: u64, len: u64) -> Option<u64> {
        if self.prepare_unaligned(table, va, len, Access::Read)? {
            // Both words that hold the value lie in present pages; the two pages are one or do not collide
            // in the direct-mapped table.
            let low = va & !7;
            let high = va.wrapping_add(len - 1) & !7;
            let shift = (va & 7) * 8;
            let first = self.tlb.read::<3>(table, low)?.load() >> shift;
            let value = if high == low {
                first
            } else {
                first | self.tlb.read::<3>(table, high)?.load() << (64 - shift)
            };
            self.forget_watched(table, va, len);
            return Some(value & (u64::MAX >> (64 - len * 8)));
        }
        let mut value = 0;
        for i in 0..len {
            value |= self.load_in::<0>(table, va.wrapping_add(i))? << (8 * i);
        }
        Some(value)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, table: Table, va: u64, log2: usize, value: u64) -> Option<()> {
        let len = 1u64 << log2;
        if va & (len - 1) != 0 {
            return self.store_unaligned(table, va, len, value);
        }
        match self.fill(table, va, Access::Write) {
            Err(fault) => self.data_abort(va, Access::Write, fault),
            Ok(on_bus) => {
                self.watch(table, va, len, Watched::Store)?;
                match (on_bus, log2) {
                    (Some(pa), _) => self.bus_write(pa, len, value),
                    (None, 0) => self.tlb.write::<0>(table, va)?.store(value),
                    (None, 1) => self.tlb.write::<1>(table, va)?.store(value),
                    (None, 2) => self.tlb.write::<2>(table, va)?.store(value),
                    (None, _) => self.tlb.write::<3>(table, va)?.store(value),
                }
                self.forget_watched(table, va, len);
                Some(())
            }
        }
    }

    fn store_unaligned(&mut self, table: Table, va: u64, len: u64, value: u64) -> Option<()> {
        self.prepare_unaligned(table, va, len, Access::Write)?;
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done);
            let piece = value >> (8 * done);
            let left = len - done;
            if at & 3 == 0 && left >= 4 {
                self.store_in::<2>(table, at, piece)?;
                done += 4;
            } else if at & 1 == 0 && left >= 2 {
                self.store_in::<1>(table, at, piece)?;
                done += 2;
            } else {
                self.store_in::<0>(table, at, piece)?;
                done += 1;
            }
        }
        self.forget_watched(table, va, len);
        Some(())
    }

    fn bus_read(&mut self, pa: u64, len: u64) -> u64 {
        self.step_outside();
        let value = self.mmio.read(self.index, pa, len as u8) & (u64::MAX >> (64 - len * 8));
        self.step_inside();
        value
    }

    fn bus_write(&mut self, pa: u64, len: u64, value: u64) {
        self.step_outside();
        self.mmio.write(self.index, pa, len as u8, value & (u64::MAX >> (64 - len * 8)));
        self.step_inside();
    }
}
