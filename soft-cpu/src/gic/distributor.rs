// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICD: shared interrupts and where each is routed (IHI 0069 §12.9).
//!
//! Affinity routing is always on and there is one security state, so the registers of INTIDs 0..=31,
//! the legacy target and SGI registers, IGRPMODR and NSACR read as zero and ignore writes.
//! Invariant: bit n of `targets[vcpu]` is set exactly when IROUTER of that SPI names the vCPU.

use super::bank::{Bank, Candidate};
use super::saved::DistributorV1;
use super::spec::access::{Access, Refused};
use super::spec::dist::{self, BankRegister};
use super::spec::{self, SPI_END, SPI_FIRST, bit_of, low32};
use super::{GicError, affinity_of};

/// State of the SPIs, and which vCPU each is routed to.
pub struct Distributor {
    group0_enabled: bool,
    group1_enabled: bool,
    lpis: bool,
    spis: Bank,
    /// GICD_IROUTER, by SPI.
    routes: Vec<u64>,
    /// For each vCPU the SPIs routed to it.
    targets: Vec<Vec<u32>>,
}

impl Distributor {
    /// Reset state. `spi_count` is rounded up to whole registers, as far as INTIDs go.
    pub fn new(vcpu_count: usize, spi_count: u32, lpis: bool) -> Self {
        let count = spi_count.next_multiple_of(32).min(SPI_END - SPI_FIRST);
        let spis = Bank::new(SPI_FIRST, count, 0);
        let mut this = Self {
            group0_enabled: false,
            group1_enabled: false,
            lpis,
            targets: vec![vec![0; spis.word_count()]; vcpu_count],
            spis,
            routes: vec![0; count as usize],
        };
        for intid in SPI_FIRST..SPI_FIRST + count {
            this.set_route(intid, 0);
        }
        this
    }

    /// GICD_CTLR.EnableGrp1.
    pub fn group1_enabled(&self) -> bool {
        self.group1_enabled
    }

    /// The SPIs.
    pub fn spis(&mut self) -> &mut Bank {
        &mut self.spis
    }

    /// The most urgent SPI for a vCPU.
    pub fn best(&self, vcpu: usize) -> Option<Candidate> {
        self.spis.best(self.targets.get(vcpu)?.iter())
    }

    /// True if an SPI goes to the vCPU.
    pub fn is_routed_to(&self, intid: u32, vcpu: usize) -> bool {
        let word = intid.checked_sub(SPI_FIRST).map(|index| index as usize / 32);
        let targets = self.targets.get(vcpu).zip(word).and_then(|(words, word)| words.get(word));
        targets.is_some_and(|word| word & bit_of(intid) != 0)
    }

    /// GICD_CTLR.
    pub fn ctlr(&self) -> u64 {
        dist::CTLR_ENABLE_GRP0.of(self.group0_enabled.into())
            | dist::CTLR_ENABLE_GRP1.of(self.group1_enabled.into())
            | dist::CTLR_ARE.of(1)
            | dist::CTLR_DS.of(1)
    }

    /// Writes GICD_CTLR: only the group enables can change.
    pub fn set_ctlr(&mut self, value: u64) {
        self.group0_enabled = dist::CTLR_ENABLE_GRP0.is_set(value);
        self.group1_enabled = dist::CTLR_ENABLE_GRP1.is_set(value);
    }

    /// Writes GICD_IROUTER. An affinity that no vCPU has is kept and routes nowhere.
    pub fn set_route(&mut self, intid: u32, value: u64) {
        let Some(index) = intid.checked_sub(SPI_FIRST) else { return };
        let Some(route) = self.routes.get_mut(index as usize) else { return };
        *route = value & dist::IROUTER_AFFINITY;
        for (vcpu, words) in self.targets.iter_mut().enumerate() {
            let Some(word) = words.get_mut(index as usize / 32) else { continue };
            let packed = u64::from(affinity_of(vcpu));
            if *route == (packed & 0x00ff_ffff) | ((packed >> 24) << 32) {
                *word |= bit_of(intid);
            } else {
                *word &= !bit_of(intid);
            }
        }
    }

    fn route(&self, intid: u32) -> u64 {
        let index = intid.checked_sub(SPI_FIRST).map(|index| index as usize);
        index.and_then(|index| self.routes.get(index)).copied().unwrap_or(0)
    }

    /// The saved form.
    pub fn save(&self) -> DistributorV1 {
        // CTLR has both enables; targets follow from the routes; LPIs are the machine's shape.
        let Self { group0_enabled: _, group1_enabled: _, lpis: _, spis, routes, targets: _ } = self;
        DistributorV1 { ctlr: self.ctlr(), spis: spis.save(), routes: routes.clone() }
    }

    /// Takes the saved values over.
    pub fn restore(&mut self, saved: &DistributorV1) -> Result<(), GicError> {
        let DistributorV1 { ctlr, spis, routes } = saved;
        if routes.len() != self.routes.len() {
            return Err(GicError::Shape("SPI routes"));
        }
        self.spis.restore(spis)?;
        self.set_ctlr(*ctlr);
        for (intid, route) in (SPI_FIRST..).zip(routes) {
            self.set_route(intid, *route);
        }
        Ok(())
    }

    /// A guest read.
    pub fn read(&self, access: Access) -> Result<u64, Refused> {
        if let Some(intid) = dist::irouter_intid(access.offset) {
            return access.read_qw(self.route(intid));
        }
        match dist::bank_register(access.offset) {
            Some(BankRegister::Priority(first)) => return read_priorities(&self.spis, first, access),
            Some(BankRegister::Bits(block, word)) => {
                access.only_word()?;
                return Ok(self.spis.read_bits(block, word).into());
            }
            Some(BankRegister::Config(index)) => {
                access.only_word()?;
                return Ok(self.spis.read_config(index).into());
            }
            None => access.only_word()?,
        }
        Ok(match access.offset {
            dist::CTLR => self.ctlr(),
            dist::TYPER => {
                let words = u32::try_from(self.spis.word_count()).unwrap_or(0);
                dist::typer(words, self.lpis)
            }
            dist::IIDR => spec::IIDR.into(),
            offset => spec::id_register(offset).unwrap_or(0).into(),
        })
    }

    /// A guest write.
    pub fn write(&mut self, access: Access, value: u64) -> Result<(), Refused> {
        if let Some(intid) = dist::irouter_intid(access.offset) {
            let merged = access.merge_qw(self.route(intid), value)?;
            self.set_route(intid, merged);
            return Ok(());
        }
        match dist::bank_register(access.offset) {
            Some(BankRegister::Priority(first)) => {
                return write_priorities(&mut self.spis, first, access, value);
            }
            Some(BankRegister::Bits(block, word)) => {
                access.only_word()?;
                self.spis.write_bits(block, word, low32(value));
                return Ok(());
            }
            Some(BankRegister::Config(index)) => {
                access.only_word()?;
                self.spis.write_config(index, low32(value));
                return Ok(());
            }
            None => {}
        }
        match access.offset {
            // The message registers also take 16-bit writes, as an MSI may be (IHI 0069 §12.9.2).
            dist::SETSPI_NSR | dist::CLRSPI_NSR if matches!(access.size, 2 | 4) => {
                let intid = low32(dist::SPI_NSR_INTID.get(value));
                if access.offset == dist::SETSPI_NSR {
                    self.spis.message(intid);
                } else {
                    self.spis.retract(intid);
                }
            }
            dist::CTLR => {
                access.only_word()?;
                self.set_ctlr(value);
            }
            _ => access.only_word()?,
        }
        Ok(())
    }
}

/// Reads IPRIORITYR bytes: a byte or a word (wider or narrower legal sizes work alike).
pub fn read_priorities(bank: &Bank, first: u32, access: Access) -> Result<u64, Refused> {
    let mut bytes = [0; 8];
    for (byte, intid) in bytes.iter_mut().zip(first..).take(access.size.into()) {
        *byte = bank.priority(intid);
    }
    Ok(u64::from_le_bytes(bytes))
}

/// Writes IPRIORITYR bytes.
pub fn write_priorities(bank: &mut Bank, first: u32, access: Access, value: u64) -> Result<(), Refused> {
    for (byte, intid) in value.to_le_bytes().into_iter().zip(first..).take(access.size.into()) {
        bank.set_priority(intid, byte.into());
    }
    Ok(())
}
