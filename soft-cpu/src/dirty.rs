// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface to the dirty log.
//!
//! A page is marked when a CPU may start to write it: when it enters the write side of a TLB. Later stores hit the
//! TLB and are not marked again, so a harvest of the log must, in this order: take or close the bits, call
//! `VcpuHandle::flush_write_tlb` on every vCPU, and only then read the pages.

/// Takes note of pages that are about to be written.
pub trait DirtySink: Send + Sync {
    /// Marks `len` bytes of guest-physical memory from `gpa`; called before the first store.
    fn mark(&self, gpa: u64, len: u64);
}

/// For a machine without a dirty log.
impl DirtySink for () {
    fn mark(&self, _gpa: u64, _len: u64) {}
}
