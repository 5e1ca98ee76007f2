// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking of a physical device's DMA: the most exact method that the host has, chosen once and shown by
//! `inspect`.
//!
//! (c) The nesting parent logs by guest physical page: exact. (b) The device logs by IOVA: exact while IOVAs are
//! guest physical addresses (the stream is in bypass); behind the guest's stage 1 they could be any page, since page
//! tables may have changed by the time the log is read. (a) No log: every page may have been written. Inexactness is
//! reported ([`Exactness`]): for one round, if a log failed or the attachment changed during it; with (a) until the
//! device is stopped.

use std::os::fd::BorrowedFd;

use ipc::addr::{Gpa, PAGE_LEN};
use ipc::protocol::control::Exactness;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::DirtyLog;
use ipc::vfio_user::feature::DMA_LOGGING_START;
use rustix::io::Errno;

use super::sys::cdev;
use super::sys::iommufd::{self, BITMAP_WORDS_MAX, ObjectId};

/// The method of dirty tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// (c) Dirty bits of the IOMMU's stage 2.
    Stage2,
    /// (b) The device's log (`DMA_LOGGING`), by IOVA.
    DeviceLog,
    /// (a) No log: all of RAM counts as written until the device is stopped.
    Everything,
}

impl Method {
    /// For `inspect`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stage2 => "stage 2 (exact)",
            Self::DeviceLog => "device log (exact in bypass, else all RAM)",
            Self::Everything => "none: all RAM until the device is stopped",
        }
    }
}

/// The log.
#[derive(Debug)]
pub struct DirtyTracking {
    method: Method,
    parent: Option<ObjectId>,
    layout: RamLayout,
    enabled: bool,
    /// Whether the kernel's or device's log was switched on.
    logs: bool,
    /// Whether the log has been complete since it was last read.
    exact: bool,
    bypass: bool,
    /// The device's granule.
    page_len: u64,
}

impl DirtyTracking {
    /// Takes the best available method. `parent` is the nesting parent, if it was made with a log.
    pub fn choose(cdev: BorrowedFd<'_>, parent: Option<ObjectId>, layout: &RamLayout) -> DirtyTracking {
        let device_logs = cdev::probe_feature(cdev, DMA_LOGGING_START, false).is_ok();
        let method = match (parent, device_logs) {
            (Some(_), _) => Method::Stage2,
            (None, true) => Method::DeviceLog,
            (None, false) => Method::Everything,
        };
        let layout = layout.clone();
        DirtyTracking {
            method,
            parent,
            layout,
            enabled: false,
            logs: false,
            exact: false,
            bypass: false,
            page_len: PAGE_LEN,
        }
    }

    /// The method of dirty tracking.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The stream was attached: to bypass, or to something else.
    pub fn attached(&mut self, bypass: bool) {
        self.bypass = bypass;
        self.exact &= self.can_be_exact();
    }

    /// Switches the log.
    pub fn set_enabled(&mut self, cdev: BorrowedFd<'_>, iommu: BorrowedFd<'_>, enabled: bool) {
        if enabled == self.enabled {
            return;
        }
        let result = match (self.method, self.parent) {
            (Method::Stage2, Some(parent)) => iommufd::set_dirty_tracking(iommu, parent, enabled),
            (Method::DeviceLog, _) if enabled => self.start(cdev),
            (Method::DeviceLog, _) => cdev::dma_logging_stop(cdev),
            _ => Ok(()),
        };
        if let Err(errno) = &result {
            ipc::log::warn!("vfio: switching the dirty log failed, all of RAM counts as written: {errno}");
        }
        self.enabled = enabled;
        self.logs = enabled && result.is_ok();
        self.exact = self.can_be_exact();
    }

    /// All of RAM in one range; addresses in it that are not RAM are not migrated.
    fn start(&mut self, cdev: BorrowedFd<'_>) -> Result<(), Errno> {
        let regions = self.layout.regions();
        let (Some(first), Some(last)) = (regions.first(), regions.last()) else { return Ok(()) };
        let start = first.gpa.0;
        let len = last.gpa.0.saturating_add(last.len).saturating_sub(start);
        self.page_len = cdev::dma_logging_start(cdev, start, len, PAGE_LEN)?;
        Ok(())
    }

    /// Marks the pages written since the log was started or last read, and returns how exact that is.
    pub fn read(&mut self, cdev: BorrowedFd<'_>, iommu: BorrowedFd<'_>, log: &DirtyLog) -> Exactness {
        if !self.enabled {
            return Exactness::Exact;
        }
        if !self.can_be_exact() {
            return Exactness::Unseen;
        }
        let read = match (self.method, self.parent) {
            (Method::Stage2, Some(parent)) => self.for_each_run(PAGE_LEN, log, |start, len, bitmap| {
                iommufd::get_dirty_bitmap(iommu, parent, start, len, bitmap)
            }),
            (Method::DeviceLog, _) => self.for_each_run(self.page_len, log, |start, len, bitmap| {
                cdev::dma_logging_report(cdev, start, len, self.page_len, bitmap)
            }),
            _ => Ok(()),
        };
        if let Err(errno) = &read {
            ipc::log::warn!("vfio: reading the dirty log failed, all of RAM counts as written: {errno}");
        }
        // Read and cleared: complete again from here on.
        let was_exact = std::mem::replace(&mut self.exact, true);
        if was_exact && read.is_ok() { Exactness::Exact } else { Exactness::Everything }
    }

    /// Whether writes from now on are logged exactly, while the attachment stays.
    fn can_be_exact(&self) -> bool {
        match self.method {
            Method::Stage2 => self.logs,
            Method::DeviceLog => self.logs && self.bypass,
            Method::Everything => false,
        }
    }

    /// Reads the bitmap of RAM in parts that are short enough for one call, and marks the pages.
    fn for_each_run(
        &self,
        page_len: u64,
        log: &DirtyLog,
        mut ask: impl FnMut(u64, u64, &mut [u64]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let words_max = u64::try_from(BITMAP_WORDS_MAX).unwrap_or(1);
        let run_max = words_max.saturating_mul(64).checked_mul(page_len).ok_or(Errno::INVAL)?;
        for RamRegion { gpa, len, .. } in self.layout.regions() {
            let mut done = 0;
            while done < *len {
                let run = (len - done).min(run_max);
                let words = run.div_ceil(page_len).div_ceil(64);
                let mut bitmap = vec![0; usize::try_from(words).unwrap_or(0)];
                let start = gpa.0.saturating_add(done);
                ask(start, run, &mut bitmap)?;
                mark(start, page_len, &bitmap, log);
                done += run;
            }
        }
        Ok(())
    }
}

/// Marks the pages whose bits are set.
fn mark(start: u64, page_len: u64, bitmap: &[u64], log: &DirtyLog) {
    let mut at = start;
    for word in bitmap {
        for bit in 0..64 {
            if word >> bit & 1 != 0 {
                log.mark(Gpa(at), page_len);
            }
            at = at.saturating_add(page_len);
        }
    }
}

#[cfg(test)]
mod tests;
