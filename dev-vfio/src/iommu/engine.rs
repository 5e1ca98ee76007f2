// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOMMU that a function has: in software for a device whose DMA comes as messages, the host's for a real one.

use std::os::fd::BorrowedFd;

use ipc::addr::{Gpa, Iova, StreamId};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::{DirtyLog, DirtyPages};

use super::fault_queue::Entry;
use super::software::{Counters, SoftIommu};
use super::{AttachError, HostIommu, Invalidated};
use crate::kernel::nested::NestedIommu;

/// One of the two.
#[derive(Debug)]
pub enum Engine {
    /// The guest's tables are walked here.
    Software(Box<SoftIommu>),
    /// They are walked by the host's SMMU.
    Nested(Box<NestedIommu>),
}

/// Where a message of the device's has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// To the interrupt controller: it is an interrupt.
    Doorbell,
    /// To RAM, as any write.
    Memory,
    /// Nowhere: it met a fault.
    Nowhere,
}

impl Engine {
    /// Sends the message that the guest gave for an interrupt: a write of the device, translated like any other.
    ///
    /// A real device's message has arrived already when this is called: it went by the host's window, which the guest's stage 1
    /// maps flat, and came out as the eventfd. The address that the guest wrote into its table was never the device's.
    pub fn send(&mut self, address: Iova, data: u32, doorbell: Gpa) -> Arrival {
        let Self::Software(iommu) = self else { return Arrival::Doorbell };
        match iommu.write_target(address) {
            Ok(gpa) if gpa == doorbell => Arrival::Doorbell,
            Ok(_) if iommu.write(address, &data.to_le_bytes()).is_ok() => Arrival::Memory,
            Ok(_) | Err(_) => Arrival::Nowhere,
        }
    }

    /// The engine whose DMA comes as messages, if it is that one.
    pub fn software(&mut self) -> Option<&mut SoftIommu> {
        match self {
            Self::Software(iommu) => Some(iommu),
            Self::Nested(_) => None,
        }
    }

    /// The file that tells of faults, if they come from elsewhere than our own calls.
    pub fn fault_file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Software(_) => None,
            Self::Nested(iommu) => Some(iommu.events()),
        }
    }

    /// Moves what the host's log says into ours. In software every write marks its page there itself.
    pub fn gather_dirty(&mut self, log: &DirtyLog) {
        if let Self::Nested(iommu) = self {
            let mut pages = DirtyPages::none(log.layout());
            iommu.read_dirty(&mut pages);
            for range in pages.ranges() {
                log.mark(range.start(), range.len());
            }
        }
    }

    /// Counters and states, for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let iommu = match self {
            Self::Software(iommu) => iommu,
            Self::Nested(iommu) => return iommu.inspect(inspect),
        };
        let Counters { bytes_read, bytes_written, terminated, attached, invalidated } = *iommu.counters();
        for (name, value) in [
            ("dma.bytes_read", bytes_read),
            ("dma.bytes_written", bytes_written),
            ("dma.terminated", terminated),
            ("stage1.attachments", attached),
            ("stage1.invalidations", invalidated),
            ("iotlb.entries", u64::try_from(iommu.cached_translations()).unwrap_or(u64::MAX)),
        ] {
            inspect.counter(name, value);
        }
        inspect.text("stage1.attached", iommu.attached());
    }

    fn verbs(&mut self) -> &mut dyn HostIommu {
        match self {
            Self::Software(iommu) => iommu.as_mut(),
            Self::Nested(iommu) => iommu.as_mut(),
        }
    }
}

impl HostIommu for Engine {
    fn attach(&mut self, stream: StreamId, to: Attachment) -> Result<(), AttachError> {
        self.verbs().attach(stream, to)
    }

    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated {
        self.verbs().invalidate(commands)
    }

    fn next_fault(&mut self) -> Option<Entry> {
        self.verbs().next_fault()
    }

    fn set_dirty_tracking(&mut self, enabled: bool) {
        self.verbs().set_dirty_tracking(enabled);
    }

    fn read_dirty(&mut self, pages: &mut DirtyPages) {
        self.verbs().read_dirty(pages);
    }
}
