// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes a store visible to a guest whose loads go past the data caches.
//!
//! A register page is cached memory to the processes that share it, and Device memory to the guest that reads it. On
//! arm64 without FEAT_S2FWB the stricter of the two stages' attributes counts (DDI 0487, combining stage 1 and stage 2
//! memory types): such loads are answered by memory, not by a cache. For locations with such mismatched attributes the
//! manual keeps coherency if the writer cleans them to the point of coherency after each store and before it notifies
//! anyone (DDI 0487, mismatched memory attributes). With FEAT_S2FWB the guest's loads are cached and the clean is not
//! needed; it is made nevertheless, for a few nanoseconds, since a process cannot read whether the CPU has the feature.
//! A software CPU shares the caches, and no other architecture has such guests.

#![cfg_attr(target_arch = "aarch64", expect(unsafe_code, reason = "one instruction of cache maintenance"))]
// UNSAFETY: DC CVAC has no safe form in Rust.

/// Cleans the line of `word` to the point of coherency; done when this returns.
#[cfg(target_arch = "aarch64")]
pub(crate) fn clean<T>(word: &T) {
    // SAFETY: cleaning changes no value, and the address is that of a live reference; Linux lets processes do it
    // (SCTLR_EL1.UCI). The barrier waits for the clean as every observer sees it.
    unsafe {
        core::arch::asm!("dc cvac, {word}", "dsb sy", word = in(reg) core::ptr::from_ref(word), options(nostack, preserves_flags));
    }
}

/// Not needed: every reader is coherent with the caches.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) const fn clean<T>(_word: &T) {}
