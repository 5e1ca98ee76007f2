// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host IOMMU by iommufd: guest RAM as stage 2, the guest's own tables as stage 1, walked by the host's SMMU.
//!
//! One context per device, with its own stage 2: an attacker in this process reaches what the device reaches and no
//! more. Made once, bottom up (address space, nesting parent, vIOMMU, vDEVICE, event queue, abort, bypass); after
//! that the only object that comes and goes is the stage 1 page table of the guest's current stream table entry. A
//! device is never detached in between: one page table replaces the other at once, and "abort" is a page table too.
//! The process never maps guest RAM: the file goes to the kernel and is closed. If this process dies all of it goes on,
//! and the next life takes it over ([`NestedIommu::adopt`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipc::addr::StreamId;
use ipc::protocol::control::Exactness;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::ram::RamLayout;
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::DirtyLog;
use rustix::io::Errno;
use smmu_arch::Model;
use smmu_arch::spec::commands::Opcode;
use smmu_arch::spec::ste::SteQw0;

use super::compat;
use super::dirty::{DirtyTracking, Method};
use super::error::{KernelError, of_events, of_map_file, of_parent, of_viommu, plain, refused};
use super::events::{DEPTH, Events};
use super::journal::{Attached, HostJournal, Made};
use super::objects::Objects;
use super::sys::iommufd::{self, ARM_SMMUV3, HwInfo, ObjectId};
use super::sys::{self, cdev};
use crate::iommu::fault_queue::Entry;
use crate::iommu::{AttachError, HostIommu, Invalidated};

/// Words 0 of stream table entries: V, and Config 0b000 (abort) or 0b100 (bypass).
const STE_ABORT: u64 = 0b0001;
const STE_BYPASS: u64 = 0b1001;

/// Counters for `inspect` and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    attached: u64,
    invalidated: u64,
    refused: u64,
}

/// One device's stage 2, and the stage 1 of its stream.
#[derive(Debug)]
pub struct NestedIommu {
    cdev: Arc<OwnedFd>,
    /// Closed before the objects are destroyed: the queue's file keeps its object alive.
    events: Events,
    objects: Objects,
    made: Made,
    stream: StreamId,
    attached: Attached,
    /// Whether it is known to be attached so: the life before may have died while it exchanged that.
    is_sure: bool,
    /// Where the next life finds all this, if there may be one.
    journal: Option<HostJournal>,
    hw: HwInfo,
    dirty: DirtyTracking,
    counters: Counters,
}

impl NestedIommu {
    /// Over a device that is bound to `objects` as `device`, for the guest whose RAM is in `ram` and that knows the
    /// device as `stream`; attached to abort. `ram` is not needed any more when this returns.
    ///
    /// # Errors
    /// If the host lacks something; the error names it.
    pub fn new(
        cdev: Arc<OwnedFd>,
        mut objects: Objects,
        device: ObjectId,
        ram: BorrowedFd<'_>,
        layout: &RamLayout,
        stream: StreamId,
        model: &Model,
    ) -> Result<NestedIommu, KernelError> {
        let hw = check(&objects, device, model)?;
        let ioas = iommufd::ioas_alloc(objects.as_fd());
        let ioas = objects.keep(ioas).map_err(refused("IOMMU_IOAS_ALLOC", plain))?;
        for region in layout.regions() {
            let (start, len, iova) = (region.file_offset, region.len, region.gpa.0);
            iommufd::ioas_map_file(objects.as_fd(), ioas, ram, start, len, iova)
                .map_err(refused("IOMMU_IOAS_MAP_FILE", of_map_file))?;
        }
        let (parent, logs) = parent(&mut objects, device, ioas)?;
        let viommu = iommufd::viommu_alloc(objects.as_fd(), &ARM_SMMUV3, device, parent);
        let viommu = objects.keep(viommu).map_err(refused("IOMMU_VIOMMU_ALLOC", of_viommu))?;
        let vdevice = iommufd::vdevice_alloc(objects.as_fd(), device, viommu, stream.0);
        let vdevice = objects.keep(vdevice).map_err(refused("IOMMU_VDEVICE_ALLOC", plain))?;
        let (queue, file) = event_queue(&mut objects, viommu)?;
        let nested = |objects: &mut Objects, word0| {
            stage1(objects, device, viommu, [word0, 0]).map_err(refused("IOMMU_HWPT_ALLOC (nested)", plain))
        };
        let abort = nested(&mut objects, STE_ABORT)?;
        let bypass = nested(&mut objects, STE_BYPASS)?;
        cdev::attach(cdev.as_fd(), abort).map_err(refused("VFIO_DEVICE_ATTACH_IOMMUFD_PT", plain))?;
        let dirty = DirtyTracking::choose(cdev.as_fd(), logs.then_some(parent), layout);
        let made = Made { device, ioas, parent, parent_logs: logs, viommu, vdevice, queue, abort, bypass };
        Ok(NestedIommu {
            cdev,
            events: Events::new(file),
            objects,
            made,
            stream,
            attached: Attached::Abort,
            is_sure: true,
            journal: None,
            hw,
            dirty,
            counters: Counters::default(),
        })
    }

    /// From now on, what a next life needs is kept in `journal`.
    #[must_use]
    pub fn kept_in(mut self, journal: Option<HostJournal>) -> NestedIommu {
        if let Some(journal) = &journal {
            journal.keep_made(&self.made);
        }
        self.journal = journal;
        self
    }

    /// Leaves it as a process does that dies: all goes on, and its files of the device and of events are closed; one of
    /// the context stays open. For tests of [`Self::adopt`] in one process.
    ///
    /// # Errors
    /// If the kernel gives no descriptor.
    pub fn abandon(mut self) -> std::io::Result<()> {
        let context = || self.objects.as_fd().try_clone_to_owned();
        let (device, events) = (Arc::new(context()?), Events::new(context()?));
        (self.cdev, self.events) = (device, events);
        std::mem::forget(self);
        Ok(())
    }

    /// Takes over what an earlier life has made and attached the device to. Nothing is detached, and no page table
    /// destroyed but what a life that died in an exchange has left over. Only the queue of events is made anew: its
    /// file was that life's, and what was in it is lost.
    ///
    /// # Errors
    /// If the objects are not what the journal says.
    pub fn adopt(
        cdev: Arc<OwnedFd>,
        mut objects: Objects,
        (mut made, attached): (Made, Option<Attached>),
        journal: HostJournal,
        layout: &RamLayout,
        stream: StreamId,
        model: &Model,
    ) -> Result<NestedIommu, KernelError> {
        let Made { device, ioas, parent, parent_logs, viommu, vdevice, queue, abort, bypass } = made;
        let hw = check(&objects, device, model)?;
        let is_sure = attached.is_some();
        let attached = attached.unwrap_or_else(|| {
            let found = objects.destroy_others(&[device, ioas, parent, viommu, vdevice, abort, bypass]);
            found.map_or(Attached::Abort, |table| Attached::Stage1 { table, words: [0; 2] })
        });
        journal.begin_exchange();
        // Gone already, if a life died here.
        let _ = iommufd::destroy(objects.as_fd(), queue);
        objects.take_over([ioas, parent, viommu, vdevice]);
        let (queue, file) = event_queue(&mut objects, viommu)?;
        made.queue = queue;
        journal.keep_made(&made);
        objects.take_over([abort, bypass]);
        if let Attached::Stage1 { table, .. } = attached {
            objects.take_over([table]);
        }
        if is_sure {
            journal.keep_attached(attached);
        }
        let mut dirty = DirtyTracking::choose(cdev.as_fd(), parent_logs.then_some(parent), layout);
        if dirty.method() == Method::DeviceLog {
            // A log that the life before had begun is on, and would refuse another beginning; mostly there is none.
            let _ = cdev::dma_logging_stop(cdev.as_fd());
        }
        dirty.attached(is_sure && attached == Attached::Bypass);
        let (events, journal) = (Events::new(file), Some(journal));
        let counters = Counters::default();
        let adopted = NestedIommu {
            cdev,
            events,
            objects,
            made,
            stream,
            attached,
            is_sure,
            journal,
            hw,
            dirty,
            counters,
        };
        // That it is the guest's SMMU the kernel says when it is asked to do something; this is always allowed.
        adopted.command(&adopted.drop_all()).1.map_err(refused("IOMMU_HWPT_INVALIDATE", plain))?;
        Ok(adopted)
    }

    /// The descriptor to poll: readable when there are faults.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// The method of dirty tracking.
    pub fn dirty_method(&self) -> Method {
        self.dirty.method()
    }

    /// Switches dirty tracking.
    pub fn set_dirty_tracking(&mut self, enabled: bool) {
        self.dirty.set_enabled(self.cdev.as_fd(), self.objects.as_fd(), enabled);
    }

    /// Moves the pages written since the last time into `log`, and returns how exact that is.
    pub fn read_dirty(&mut self, log: &DirtyLog) -> Exactness {
        self.dirty.read(self.cdev.as_fd(), self.objects.as_fd(), log)
    }

    /// Counters and states for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let Counters { attached, invalidated, refused } = self.counters;
        inspect.text("iommu", "iommufd, nested");
        inspect.text(
            "stage1.attached",
            match self.attached {
                Attached::Abort => "abort",
                Attached::Bypass => "bypass",
                Attached::Stage1 { .. } => "stage 1",
            },
        );
        inspect.counter("stage1.attachments", attached);
        inspect.counter("stage1.invalidations", invalidated);
        inspect.counter("stage1.invalidations.refused", refused);
        inspect.counter("stage1.invalidations.ioctls", sys::calls(sys::Kind::Invalidate));
        inspect.counter("kernel.other_ioctls", sys::calls(sys::Kind::Other));
        inspect.counter("faults.events", self.events.count);
        inspect.counter("faults.misread_bytes", self.events.misread);
        inspect.text("dirty.method", self.dirty.method().as_str());
        if let Some(smmu) = self.hw.smmu {
            for (index, value) in smmu.idr.into_iter().enumerate() {
                inspect.hex(format!("host.idr{index}"), value.into());
            }
        }
    }

    /// Attaches the device to what `make` returns; the page table before is destroyed after that, if it was a guest's
    /// stage 1.
    fn exchange(
        &mut self,
        make: impl FnOnce(&mut Self) -> Result<(ObjectId, Attached), AttachError>,
    ) -> Result<(), AttachError> {
        if let Some(journal) = &self.journal {
            journal.begin_exchange();
        }
        let exchanged = make(self).and_then(|(table, now)| self.replace(table, now));
        if let Some(journal) = self.journal.as_ref().filter(|_| self.is_sure) {
            journal.keep_attached(self.attached);
        }
        exchanged
    }

    fn replace(&mut self, table: ObjectId, now: Attached) -> Result<(), AttachError> {
        let attached = cdev::attach(self.cdev.as_fd(), table);
        if let Err(errno) = attached {
            if matches!(now, Attached::Stage1 { .. }) {
                self.objects.destroy(table);
            }
            return Err(AttachError::Host { call: "VFIO_DEVICE_ATTACH_IOMMUFD_PT", errno });
        }
        let before = std::mem::replace(&mut self.attached, now);
        self.is_sure = true;
        if let Attached::Stage1 { table, .. } = before {
            self.objects.destroy(table);
        }
        Ok(())
    }

    /// The page table for a stream table entry's first words.
    fn make_stage1(&mut self, words: [u64; 2]) -> Result<(ObjectId, Attached), AttachError> {
        let Made { device, viommu, .. } = self.made;
        let made = stage1(&mut self.objects, device, viommu, words);
        let table = made.map_err(|errno| match errno {
            Errno::IO => AttachError::Words(words),
            errno => AttachError::Host { call: "IOMMU_HWPT_ALLOC", errno },
        })?;
        Ok((table, Attached::Stage1 { table, words }))
    }

    fn is_attached_to(&self, wanted: [u64; 2]) -> bool {
        matches!(self.attached, Attached::Stage1 { words, .. } if words == wanted)
    }

    /// Invalidates all that the SMMU has cached for the stream, as an attachment has to. The kernel does that only
    /// for entries that it changed itself, not for an unchanged entry whose context descriptor changed.
    fn flush(&mut self) {
        let (done, result) = self.command(&self.drop_all());
        if let Err(errno) = result {
            ipc::log::warn!(
                "vfio: IOMMU_HWPT_INVALIDATE at an attachment failed after {done} of 2 commands: {errno}"
            );
        }
    }

    /// The commands for that.
    fn drop_all(&self) -> [[u64; 2]; 2] {
        let stream = u64::from(self.stream.0);
        [[u64::from(Opcode::CfgiCdAll.0) | stream << 32, 0], [u64::from(Opcode::TlbiNhAll.0), 0]]
    }

    /// Both architectures that this runs on are little-endian, as the commands must be.
    fn command(&self, commands: &[[u64; 2]]) -> (usize, Result<(), Errno>) {
        iommufd::invalidate(self.objects.as_fd(), &ARM_SMMUV3, self.made.viommu, commands)
    }
}

/// The HWPT of a stream table entry's first two words.
fn stage1(
    objects: &mut Objects,
    device: ObjectId,
    viommu: ObjectId,
    words: [u64; 2],
) -> Result<ObjectId, Errno> {
    let words = words.map(u64::to_le);
    let made = iommufd::hwpt_alloc_nested(objects.as_fd(), &ARM_SMMUV3, device, viommu, &words);
    objects.keep(made)
}

impl HostIommu for NestedIommu {
    fn attach(&mut self, stream: StreamId, to: Attachment) -> Result<(), AttachError> {
        if stream != self.stream {
            return Err(AttachError::Stream(stream));
        }
        let Made { abort, bypass, .. } = self.made;
        match to {
            // Attached so already, as a next life finds it: what follows is done for it all the same.
            Attachment::Stage1(wanted) if self.is_sure && self.is_attached_to(wanted) => Ok(()),
            // An entry with V=0 is abort, which has an HWPT already.
            Attachment::Stage1(words) if SteQw0::from_bits(words[0]).v() => {
                self.exchange(|iommu| iommu.make_stage1(words))
            }
            Attachment::Bypass => self.exchange(|_| Ok((bypass, Attached::Bypass))),
            Attachment::Abort | Attachment::Stage1(_) => self.exchange(|_| Ok((abort, Attached::Abort))),
        }?;
        self.dirty.attached(self.attached == Attached::Bypass);
        self.flush();
        self.counters.attached += 1;
        Ok(())
    }

    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated {
        let (done, result) = self.command(commands);
        self.counters.invalidated += u64::try_from(done).unwrap_or(0);
        if let Err(errno) = result {
            self.counters.refused += 1;
            if errno != Errno::IO {
                ipc::log::warn!(
                    "vfio: IOMMU_HWPT_INVALIDATE failed after {done} of {} commands: {errno}",
                    commands.len()
                );
            }
        }
        Invalidated { done, refused: result.is_err() }
    }

    fn next_fault(&mut self) -> Option<Entry> {
        self.events.take()
    }

    /// The queue is the kernel's.
    fn fault_count(&self) -> u64 {
        0
    }
}

impl Drop for NestedIommu {
    fn drop(&mut self) {
        if let Some(journal) = &self.journal {
            journal.forget();
        }
        // Blocks all DMA; the objects go in their own order after it. A device that is gone has no DMA to block.
        let _ = cdev::detach(self.cdev.as_fd());
    }
}

/// The queue of a guest's events, and its file.
fn event_queue(objects: &mut Objects, viommu: ObjectId) -> Result<(ObjectId, OwnedFd), KernelError> {
    let made = iommufd::veventq_alloc(objects.as_fd(), &ARM_SMMUV3, viommu, DEPTH);
    let (queue, file) = made.map_err(refused("IOMMU_VEVENTQ_ALLOC", of_events))?;
    objects.take_over([queue]);
    Ok((queue, file))
}

/// Whether the device is behind an SMMU with all features of the guest's model.
fn check(objects: &Objects, device: ObjectId, model: &Model) -> Result<HwInfo, KernelError> {
    let hw = iommufd::get_hw_info(objects.as_fd(), device).map_err(refused("IOMMU_GET_HW_INFO", plain))?;
    let lacking = compat::lacking(model, &hw.smmu.ok_or(KernelError::NotSmmu)?);
    if lacking.is_empty() { Ok(hw) } else { Err(KernelError::Lacking(lacking)) }
}

/// Allocates the nesting parent, with dirty tracking if the kernel has it; and returns whether it has.
///
/// # Errors
/// If the IOMMU does not nest.
pub fn parent(
    objects: &mut Objects,
    device: ObjectId,
    ioas: ObjectId,
) -> Result<(ObjectId, bool), KernelError> {
    let logging = iommufd::hwpt_alloc_parent(objects.as_fd(), device, ioas, true);
    let logs = logging.is_ok();
    let made = logging.or_else(|_| iommufd::hwpt_alloc_parent(objects.as_fd(), device, ioas, false));
    Ok((objects.keep(made).map_err(refused("IOMMU_HWPT_ALLOC (nesting parent)", of_parent))?, logs))
}
