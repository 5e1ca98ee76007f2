// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface to the physical address space outside RAM.
//!
//! The CPU calls it on its own thread, at most once per access, and handles no request meanwhile: an implementation
//! that may wait for another process must return early when its vCPU is kicked.

/// Device memory as the CPU sees it.
pub trait Mmio: Send + Sync {
    /// Reads `size` (1, 2, 4 or 8) bytes, zero-extended. Unclaimed addresses read as zero.
    fn read(&self, vcpu: usize, gpa: u64, size: u8) -> u64;
    /// Writes the low `size` (1, 2, 4 or 8) bytes of `value`. Unclaimed addresses ignore it.
    fn write(&self, vcpu: usize, gpa: u64, size: u8, value: u64);
}
