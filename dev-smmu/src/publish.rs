// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeping the register page, which the guest reads as memory, equal to the registers.
//!
//! After every handled request and every step, the registers that changed are stored in an order that
//! never shows a result before what it announces: event records (already in memory) before EVENTQ_PROD,
//! EVENTQ_PROD before CMDQ_CONS (a consumed CMD_SYNC makes events visible, §4.7.3), CMDQ_CONS with its ERR
//! before GERROR (§7.1), everything before the acknowledgements of an Update, and interrupts after all.
//! CMDQ_PROD and EVENTQ_CONS are the guest's own: the vCPU side stores them before it posts the write, so
//! they are published only when the device itself sets them: at the start and after a restore. Not after a crash: the
//! guest has run meanwhile.

use crate::regfile::low32;
use crate::smmu::Smmu;
use smmu_arch::spec::registers::Register;

/// Where registers are published: a store that other processes see whole, after all stores before it.
pub trait RegisterSink {
    /// Stores a 32-bit register.
    fn store_u32(&mut self, offset: u64, value: u32);
    /// Stores a 64-bit register.
    fn store_u64(&mut self, offset: u64, value: u64);
}

/// Registers only software changes.
// DEVIATION: their RES0 bits (§6.3.27: 31:20 of CMDQ_PROD; 30:20 of EVENTQ_CONS) read back as written: the vCPU
// side stores the guest's word before the device sees it. The device ignores those bits; software must write
// them as zero anyway.
pub const GUEST_OWNED: [Register; 2] = [Register::CMDQ_PROD, Register::EVENTQ_CONS];

/// Every register that can change after the start, in the order of publication.
const ORDER: [Register; 17] = [
    Register::CR1,
    Register::CR2,
    Register::STRTAB_BASE,
    Register::STRTAB_BASE_CFG,
    Register::CMDQ_BASE,
    Register::EVENTQ_BASE,
    Register::GERRORN,
    Register::EVENTQ_PROD,
    Register::CMDQ_CONS,
    Register::GERROR,
    Register::CR0,
    Register::IRQ_CTRL,
    Register::GBPA,
    Register::CR0ACK,
    Register::IRQ_CTRLACK,
    Register::CMDQ_PROD,
    Register::EVENTQ_CONS,
];

/// What the register page holds, as far as this process stored it.
#[derive(Clone, Debug)]
pub struct Publisher {
    published: [Option<u64>; ORDER.len()],
}

impl Publisher {
    /// Stores every register there is, the guest's own included. Once, before the device serves a guest that holds
    /// still.
    pub fn publish_all(smmu: &Smmu, sink: &mut impl RegisterSink) -> Publisher {
        Publisher::publish_first(smmu, sink, |_| true)
    }

    /// The same in front of a guest that runs: its own registers are in the page, perhaps newer ones than the device
    /// has processed.
    pub fn publish_ours(smmu: &Smmu, sink: &mut impl RegisterSink) -> Publisher {
        Publisher::publish_first(smmu, sink, |register| !GUEST_OWNED.contains(&register))
    }

    fn publish_first(
        smmu: &Smmu,
        sink: &mut impl RegisterSink,
        wanted: impl Fn(Register) -> bool,
    ) -> Publisher {
        let constant = Register::ALL.iter().filter(|register| !ORDER.contains(register));
        for &register in constant {
            store(register, smmu.registers().get(register), sink);
        }
        let mut publisher = Publisher { published: [None; ORDER.len()] };
        publisher.publish_in_order(smmu, sink, wanted);
        publisher
    }

    /// Stores the registers that changed since.
    pub fn publish(&mut self, smmu: &Smmu, sink: &mut impl RegisterSink) {
        self.publish_in_order(smmu, sink, |register| !GUEST_OWNED.contains(&register));
    }

    fn publish_in_order(
        &mut self,
        smmu: &Smmu,
        sink: &mut impl RegisterSink,
        wanted: impl Fn(Register) -> bool,
    ) {
        for (register, published) in ORDER.into_iter().zip(&mut self.published) {
            let value = smmu.registers().get(register);
            if wanted(register) && *published != Some(value) {
                store(register, value, sink);
                *published = Some(value);
            }
        }
    }
}

fn store(register: Register, value: u64, sink: &mut impl RegisterSink) {
    if register.width() == 8 {
        sink.store_u64(register.offset(), value);
    } else {
        sink.store_u32(register.offset(), low32(value));
    }
}

#[cfg(test)]
mod tests;
