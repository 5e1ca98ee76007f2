// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICR: one vCPU's redistributor (IHI 0069 §12.11, §12.12).
//!
//! RD_base holds LPI control and the wake handshake; SGI_base holds SGIs and PPIs. GICR_CTLR.CES and .IR
//! are offered: EnableLPIs can be cleared (what is pending is then written to the pending table), and
//! INVLPIR/INVALLR let a guest invalidate without a command queue. While EnableLPIs is one, PROPBASER
//! and PENDBASER cannot change.

use super::bank::{Bank, Candidate, SGI_EDGE};
use super::distributor::{read_priorities, write_priorities};
use super::lpi::{ConfigTable, PendingLpis};
use super::saved::{PendingLpisV1, RedistributorV1};
use super::spec::access::{Access, Refused};
use super::spec::dist::{self, BankRegister};
use super::spec::{self, low32, redist};
use super::{GicError, TableMemory, affinity_of};

/// SGIs, PPIs and LPIs of one vCPU.
pub struct Redistributor {
    number: usize,
    last: bool,
    /// False when the machine has no ITS: every LPI register is then RES0.
    has_lpis: bool,
    asleep: bool,
    lpis_enabled: bool,
    propbaser: u64,
    pendbaser: u64,
    private: Bank,
    lpis: PendingLpis,
}

impl Redistributor {
    /// Reset state.
    pub fn new(number: usize, last: bool, has_lpis: bool) -> Self {
        Self {
            number,
            last,
            has_lpis,
            // DEVIATION: awake at reset, as KVM's, for guests that know nothing of the handshake.
            asleep: false,
            lpis_enabled: false,
            propbaser: 0,
            pendbaser: 0,
            private: Bank::new(0, 32, SGI_EDGE),
            lpis: PendingLpis::new(),
        }
    }

    /// SGIs and PPIs.
    pub fn private(&mut self) -> &mut Bank {
        &mut self.private
    }

    /// GICR_WAKER.ProcessorSleep: nothing may be forwarded to the vCPU.
    pub fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// The most urgent private interrupt or LPI.
    pub fn best(&self) -> Option<Candidate> {
        let private = self.private.best([u32::MAX].iter());
        private.into_iter().chain(self.lpis.best()).min()
    }

    fn config_table(&self) -> ConfigTable {
        ConfigTable::new(self.propbaser)
    }

    /// An LPI arrives. It is dropped while LPIs are disabled (IHI 0069 §12.11.2, EnableLPIs).
    pub fn set_lpi(&mut self, intid: u32, memory: &dyn TableMemory) {
        if self.lpis_enabled {
            self.lpis.set(intid, self.config_table(), memory);
        }
    }

    /// Ends a pending LPI; true if it was pending.
    pub fn clear_lpi(&mut self, intid: u32) -> bool {
        self.lpis.clear(intid)
    }

    /// Reads the configuration of an LPI again.
    pub fn invalidate_lpi(&mut self, intid: u32, memory: &dyn TableMemory) {
        self.lpis.invalidate(intid, self.config_table(), memory);
    }

    /// Reads the configuration of every pending LPI again.
    pub fn invalidate_all_lpis(&mut self, memory: &dyn TableMemory) {
        self.lpis.invalidate_all(self.config_table(), memory);
    }

    /// Removes and returns all pending LPIs, to move them to another redistributor.
    pub fn take_lpis(&mut self) -> Vec<(usize, u64)> {
        self.lpis.take_words()
    }

    /// Adds LPIs that were pending elsewhere.
    pub fn add_lpis(&mut self, words: impl IntoIterator<Item = (usize, u64)>, memory: &dyn TableMemory) {
        if self.lpis_enabled {
            self.lpis.add_words(words, self.config_table(), memory);
        }
    }

    /// Writes GICR_WAKER.
    pub fn set_waker(&mut self, value: u64) {
        self.asleep = redist::WAKER_PROCESSOR_SLEEP.is_set(value);
    }

    /// Writes GICR_PROPBASER and GICR_PENDBASER, if they can be written now.
    pub fn set_table_bases(&mut self, propbaser: u64, pendbaser: u64) {
        if self.has_lpis && !self.lpis_enabled {
            self.propbaser = redist::sanitise_propbaser(propbaser);
            self.pendbaser = redist::sanitise_pendbaser(pendbaser);
        }
    }

    /// The saved form.
    pub fn save(&self) -> RedistributorV1 {
        // Number, last and LPIs are the machine's shape.
        let Self {
            number: _,
            last: _,
            has_lpis: _,
            asleep,
            lpis_enabled,
            propbaser,
            pendbaser,
            private,
            lpis,
        } = self;
        RedistributorV1 {
            waker: redist::WAKER_PROCESSOR_SLEEP.of((*asleep).into()),
            lpis_enabled: *lpis_enabled,
            propbaser: *propbaser,
            pendbaser: *pendbaser,
            private: private.save(),
            pending_lpis: lpis
                .words()
                .map(|(index, bits)| PendingLpisV1 { index: low32(index as u64), bits })
                .collect(),
        }
    }

    /// Takes the saved values over. The pending table is not read: the saved state carries what is pending.
    pub fn restore(&mut self, saved: &RedistributorV1, memory: &dyn TableMemory) -> Result<(), GicError> {
        let RedistributorV1 { waker, lpis_enabled, propbaser, pendbaser, private, pending_lpis } = saved;
        self.private.restore(private)?;
        self.set_waker(*waker);
        self.set_table_bases(*propbaser, *pendbaser);
        self.lpis_enabled = *lpis_enabled && self.has_lpis;
        let pending = pending_lpis.iter().map(|PendingLpisV1 { index, bits }| (*index as usize, *bits));
        self.add_lpis(pending, memory);
        Ok(())
    }

    fn set_ctlr(&mut self, value: u64, memory: &dyn TableMemory) {
        let enable = redist::CTLR_ENABLE_LPIS.is_set(value) && self.has_lpis;
        if enable == self.lpis_enabled {
            return;
        }
        self.lpis_enabled = enable;
        let (address, table) = (redist::pendbaser_address(self.pendbaser), self.config_table());
        if !enable {
            self.lpis.store(address, table, memory);
            // The table now holds pending LPIs: PTZ, by which the guest said that it is all zeros, no longer holds.
            self.pendbaser = redist::pendbaser_visible(self.pendbaser);
        } else if !redist::pendbaser_is_zeroed(self.pendbaser) {
            self.lpis.load(address, table, memory);
        }
    }

    /// A guest read; `access.offset` is within this redistributor's two frames.
    pub fn read(&self, access: Access) -> Result<u64, Refused> {
        if access.offset >= redist::SGI_BASE {
            let offset = access.offset - redist::SGI_BASE;
            return self.read_private(Access { offset, ..access });
        }
        match access.qw_offset() {
            redist::TYPER => {
                let affinity = affinity_of(self.number);
                return access.read_qw(redist::typer(self.number as u64, affinity, self.last, self.has_lpis));
            }
            redist::PROPBASER => return access.read_qw(self.propbaser),
            redist::PENDBASER => return access.read_qw(redist::pendbaser_visible(self.pendbaser)),
            _ => access.only_word()?,
        }
        Ok(match access.offset {
            redist::CTLR if self.has_lpis => {
                redist::CTLR_ENABLE_LPIS.of(self.lpis_enabled.into())
                    | redist::CTLR_CES.of(1)
                    | redist::CTLR_IR.of(1)
            }
            redist::IIDR => spec::IIDR.into(),
            // Busy is zero: invalidations are done when their write returns.
            redist::SYNCR => 0,
            redist::WAKER => {
                let asleep = self.asleep.into();
                redist::WAKER_PROCESSOR_SLEEP.of(asleep) | redist::WAKER_CHILDREN_ASLEEP.of(asleep)
            }
            offset => spec::id_register(offset).unwrap_or(0).into(),
        })
    }

    /// A guest write.
    pub fn write(&mut self, access: Access, value: u64, memory: &dyn TableMemory) -> Result<(), Refused> {
        if access.offset >= redist::SGI_BASE {
            let offset = access.offset - redist::SGI_BASE;
            return self.write_private(Access { offset, ..access }, value);
        }
        match access.qw_offset() {
            redist::PROPBASER => {
                self.set_table_bases(access.merge_qw(self.propbaser, value)?, self.pendbaser);
            }
            redist::PENDBASER => {
                self.set_table_bases(self.propbaser, access.merge_qw(self.pendbaser, value)?);
            }
            redist::INVLPIR => {
                let written = access.merge_qw(0, value)?;
                if access.offset == redist::INVLPIR {
                    self.invalidate_lpi(low32(redist::INVLPIR_INTID.get(written)), memory);
                }
            }
            redist::INVALLR => {
                access.merge_qw(0, value)?;
                if access.offset == redist::INVALLR {
                    self.invalidate_all_lpis(memory);
                }
            }
            _ => {
                access.only_word()?;
                match access.offset {
                    redist::CTLR => self.set_ctlr(value, memory),
                    redist::WAKER => self.set_waker(value),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn read_private(&self, access: Access) -> Result<u64, Refused> {
        match dist::bank_register(access.offset) {
            Some(BankRegister::Priority(first)) => read_priorities(&self.private, first, access),
            Some(BankRegister::Bits(block, word)) => {
                access.only_word()?;
                Ok(self.private.read_bits(block, word).into())
            }
            Some(BankRegister::Config(index)) => {
                access.only_word()?;
                Ok(self.private.read_config(index).into())
            }
            None => access.only_word().map(|()| 0),
        }
    }

    fn write_private(&mut self, access: Access, value: u64) -> Result<(), Refused> {
        match dist::bank_register(access.offset) {
            Some(BankRegister::Priority(first)) => write_priorities(&mut self.private, first, access, value),
            Some(BankRegister::Bits(block, word)) => {
                access.only_word()?;
                self.private.write_bits(block, word, low32(value));
                Ok(())
            }
            Some(BankRegister::Config(index)) => {
                access.only_word()?;
                self.private.write_config(index, low32(value));
                Ok(())
            }
            None => access.only_word(),
        }
    }
}
