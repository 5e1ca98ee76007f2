// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What translates a physical device's DMA: the host's SMMU ([`NestedIommu`]), or nothing, for a device in software
//! (an mdev), which is given no memory at all.
//!
//! The kernel offers no stage 1 for such a device. It is attached to an address space without a mapping, so every
//! access of the device to memory is refused by the kernel, whatever the guest's tables say: it does no DMA, and needs
//! none to be stopped, logged or followed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ipc::addr::StreamId;
use ipc::protocol::control::Exactness;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::DirtyLog;

use super::error::{KernelError, plain, refused};
use super::nested::NestedIommu;
use super::objects::Objects;
use super::sys::{cdev, iommufd};
use crate::iommu::fault_queue::Entry;
use crate::iommu::{AttachError, HostIommu, Invalidated};

/// The translation of one device.
#[derive(Debug)]
pub enum Translation {
    /// By the host's SMMU.
    Nested(Box<NestedIommu>),
    /// None: it reaches no memory.
    Nothing(NoMemory),
}

/// A device that reaches no memory.
#[derive(Debug)]
pub struct NoMemory {
    /// Holds the address space, of the life that has attached the device. It stays attached beyond that.
    _objects: Objects,
    stream: StreamId,
}

impl NoMemory {
    /// Attaches the device to an empty address space, unless an earlier life has (`anew` is false).
    ///
    /// # Errors
    /// If the kernel refuses that.
    pub fn new(
        cdev: &Arc<OwnedFd>,
        mut objects: Objects,
        stream: StreamId,
        anew: bool,
    ) -> Result<NoMemory, KernelError> {
        if anew {
            let ioas = iommufd::ioas_alloc(objects.as_fd());
            let ioas = objects.keep(ioas).map_err(refused("IOMMU_IOAS_ALLOC", plain))?;
            cdev::attach(cdev.as_fd(), ioas).map_err(refused("VFIO_DEVICE_ATTACH_IOMMUFD_PT", plain))?;
        }
        Ok(NoMemory { _objects: objects, stream })
    }
}

impl Translation {
    /// The host's SMMU, if it translates.
    pub fn nested(&self) -> Option<&NestedIommu> {
        match self {
            Self::Nested(iommu) => Some(iommu),
            Self::Nothing(_) => None,
        }
    }

    /// Switches dirty tracking.
    pub fn set_dirty_tracking(&mut self, enabled: bool) {
        if let Self::Nested(iommu) = self {
            iommu.set_dirty_tracking(enabled);
        }
    }

    /// Moves the pages written since the last time into `log`, and returns how exact that is.
    pub fn read_dirty(&mut self, log: &DirtyLog) -> Exactness {
        match self {
            Self::Nested(iommu) => iommu.read_dirty(log),
            Self::Nothing(_) => Exactness::Exact,
        }
    }

    /// Counters and states for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        match self {
            Self::Nested(iommu) => iommu.inspect(inspect),
            Self::Nothing(_) => {
                inspect.text("iommu", "none: the device is in software and reaches no memory")
            }
        }
    }
}

impl HostIommu for Translation {
    fn attach(&mut self, stream: StreamId, to: Attachment) -> Result<(), AttachError> {
        match self {
            Self::Nested(iommu) => iommu.attach(stream, to),
            Self::Nothing(nothing) if nothing.stream == stream => Ok(()),
            Self::Nothing(_) => Err(AttachError::Stream(stream)),
        }
    }

    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated {
        match self {
            Self::Nested(iommu) => iommu.invalidate(commands),
            Self::Nothing(_) => Invalidated { done: commands.len(), refused: false },
        }
    }

    fn next_fault(&mut self) -> Option<Entry> {
        match self {
            Self::Nested(iommu) => iommu.next_fault(),
            Self::Nothing(_) => None,
        }
    }

    fn fault_count(&self) -> u64 {
        match self {
            Self::Nested(iommu) => iommu.fault_count(),
            Self::Nothing(_) => 0,
        }
    }
}
