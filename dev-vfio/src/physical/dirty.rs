// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages a physical device has written: the most exact method that the host has, chosen once and shown by `inspect`.
//!
//! (c) The nesting parent logs by guest physical page: exact. (b) The device logs by its own addresses: exact as long as those
//! are guest physical ones (the stream is in bypass); behind the guest's stage 1 they could be any page, since a page
//! table may have changed by the time its log is read. (a) Every page may have been written. What is not known
//! is said to be so ([`Exactness`]): of one round, where a log failed or there was an attachment in between, or until the
//! device is stopped, where nothing tells.

use std::os::fd::BorrowedFd;

use ipc::addr::{Gpa, PAGE_LEN};
use ipc::protocol::control::Exactness;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::DirtyLog;
use ipc::vfio_user::feature::DMA_LOGGING_START;
use rustix::io::Errno;

use super::sys::cdev;
use super::sys::iommufd::{self, BITMAP_WORDS_MAX, ObjectId};

/// How written pages are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// (c) The IOMMU's stage 2 says.
    Stage2,
    /// (b) The device says, by its own addresses.
    DeviceLog,
    /// (a) Nothing says: all of RAM, until the device is stopped.
    Everything,
}

impl Method {
    /// For people.
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
    /// Whether what logs was switched on, if anything does.
    logs: bool,
    /// Whether what the log says since it was last read can be believed.
    exact: bool,
    bypass: bool,
    /// The device's granule.
    page_len: u64,
}

impl DirtyTracking {
    /// The best method there is. `parent` is the nesting parent, if it was made with a log.
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

    /// How written pages are found.
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
            ipc::log::warn!(
                "vfio: the log of written pages cannot be switched, all of RAM counts as written: {errno}"
            );
        }
        self.enabled = enabled;
        self.logs = enabled && result.is_ok();
        self.exact = self.can_be_exact();
    }

    /// All of RAM in one range: of addresses that are not RAM the guest has nothing to migrate.
    fn start(&mut self, cdev: BorrowedFd<'_>) -> Result<(), Errno> {
        let regions = self.layout.regions();
        let (Some(first), Some(last)) = (regions.first(), regions.last()) else { return Ok(()) };
        let start = first.gpa.0;
        let len = last.gpa.0.saturating_add(last.len).saturating_sub(start);
        self.page_len = cdev::dma_logging_start(cdev, start, len, PAGE_LEN)?;
        Ok(())
    }

    /// Marks what was written since the log was begun or last read, and says what that is worth.
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
            ipc::log::warn!(
                "vfio: the log of written pages cannot be read, all of RAM counts as written: {errno}"
            );
        }
        // Read and cleared: from here on it can be believed again.
        let was_exact = std::mem::replace(&mut self.exact, true);
        if was_exact && read.is_ok() { Exactness::Exact } else { Exactness::Everything }
    }

    /// Whether what is written from now on can be known exactly, while the attachment stays.
    fn can_be_exact(&self) -> bool {
        match self.method {
            Method::Stage2 => self.logs,
            Method::DeviceLog => self.logs && self.bypass,
            Method::Everything => false,
        }
    }

    /// Asks for the bitmap of each part of RAM that is short enough for one call, and marks its pages.
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
