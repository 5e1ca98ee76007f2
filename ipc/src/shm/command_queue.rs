// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Command queue of an SMMU, as far as its register page shows it: which commands wait. IHI 0070 §3.5.1, §4.1.
//!
//! For the vCPU process, which writes `CMDQ_PROD` and sees `CMDQ_CONS` follow, or not. The values are the guest's and
//! another process's: they are read each time anew, every combination has a meaning, and none leads out of the page.

use smmu_arch::queue::Queue;
use smmu_arch::spec::commands::COMMAND_LEN;
use smmu_arch::spec::control::{Cr0, Gerror};
use smmu_arch::spec::id::Idr1;
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::{CmdqCons, CmdqProd, QueueBase};

use crate::shm::register_page::RegisterPage;

/// The queue of one SMMU.
#[derive(Clone, Debug)]
pub struct CommandQueue {
    page: RegisterPage,
}

/// Commands that wait, at one moment: from where, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    cons: u32,
    count: u32,
    /// Of the pointers, wrap flag included.
    mask: u32,
}

impl CommandQueue {
    /// That of the SMMU with this page.
    #[must_use]
    pub const fn new(page: RegisterPage) -> Self {
        Self { page }
    }

    /// Whether a register at `offset` says how far the guest has filled the queue.
    #[must_use]
    pub fn is_prod(offset: u64) -> bool {
        offset == Register::CMDQ_PROD.offset()
    }

    /// The commands that the SMMU is to consume now. None: there are none, the queue is disabled, or an error has
    /// stopped it, which is the guest's to acknowledge.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        let word = |register: Register| self.page.load_u32(register.offset());
        let gerror = Gerror::from_bits(word(Register::GERROR)?);
        let gerrorn = Gerror::from_bits(word(Register::GERRORN)?);
        let is_stopped = gerror.cmdq_err() != gerrorn.cmdq_err();
        if is_stopped || !Cr0::from_bits(word(Register::CR0ACK)?).cmdqen() {
            return None;
        }
        let base = QueueBase::from_bits(self.page.load_u64(Register::CMDQ_BASE.offset())?);
        let size = base.log2size().min(Idr1::from_bits(word(Register::IDR1)?).cmdqs());
        let queue = Queue::new(0, size.into(), COMMAND_LEN);
        let mask = (queue.capacity() << 1).wrapping_sub(1);
        // CONS before PROD: what is consumed between the two counts as waiting, and not the other way round.
        let cons = queue.pointer(CmdqCons::from_bits(word(Register::CMDQ_CONS)?).rd());
        let prod = queue.pointer(CmdqProd::from_bits(word(Register::CMDQ_PROD)?).wr());
        let count = prod.bits().wrapping_sub(cons.bits()) & mask;
        (count != 0).then_some(Waiting { cons: cons.bits(), count, mask })
    }
}

impl Waiting {
    /// Whether all of them have been consumed by the time that `later` was seen. A queue of another size is another
    /// queue.
    #[must_use]
    pub const fn are_consumed_at(&self, later: &Self) -> bool {
        later.mask != self.mask || later.cons.wrapping_sub(self.cons) & self.mask >= self.count
    }
}

#[cfg(test)]
mod tests;
