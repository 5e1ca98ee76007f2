// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM, and the only way to its bytes.
//!
//! Guest memory is written by several vCPU threads and by other processes at any time, so no Rust reference to
//! it ever exists: every access is one relaxed atomic operation of its own size through a `ReadSpot` or a
//! `WriteSpot`. A spot is aligned to its size, lies inside a mapping, and borrows what keeps the mapping alive.
//! Ranges mapped read-only (a device's register page) answer reads; writes to them belong to the bus.

#![expect(
    unsafe_code,
    reason = "guest memory is shared with other threads and processes: raw atomic access only"
)]
// UNSAFETY: this file turns guest-physical addresses into host pointers and uses them. `tlb.rs` is its one
// partner: it caches such pointers. Nothing else in the crate holds a pointer.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use portable_atomic::AtomicU128;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

/// Smallest unit of mapping and of TLB entries, in bytes.
pub(crate) const PAGE_LEN: u64 = 4096;

/// Why guest memory cannot be used by a CPU.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// A region's address, length or host mapping is not a multiple of the page length.
    #[error("guest memory region at {gpa:#x} ({len:#x} bytes) is not page aligned")]
    Unaligned {
        /// Where the region starts.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A region has no address in this process.
    #[error("guest memory region at {gpa:#x} is not mapped")]
    NotMapped {
        /// Where the region starts.
        gpa: u64,
    },
}

/// The guest-physical ranges a CPU reaches without leaving: RAM, and read-only register pages.
#[derive(Clone)]
pub struct GuestRam {
    inner: Arc<Inner>,
}

struct Inner {
    spans: Vec<Span>,
    /// Keeps the host mappings that `spans` points into.
    _mappings: Vec<Arc<GuestMemoryMmap>>,
}

struct Span {
    gpa: u64,
    len: u64,
    host: *mut u8,
    writable: bool,
}

// SAFETY: the pointers are to shared memory that `_mappings` keeps mapped, and are used for atomic access only.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

/// One page of a mapping: where it is, and whether the CPU may store to it.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    pub host: *mut u8,
    pub writable: bool,
}

impl GuestRam {
    /// Uses `ram` as RAM, and answers reads of the regions of `read_only`, each at its own address.
    ///
    /// # Errors
    /// If a region is not aligned to pages, or has no mapping in this process.
    pub fn new(
        ram: Arc<GuestMemoryMmap>,
        read_only: Option<Arc<GuestMemoryMmap>>,
    ) -> Result<GuestRam, RamError> {
        let mut spans = Vec::new();
        add_spans(&mut spans, &ram, true)?;
        let mut mappings = vec![ram];
        if let Some(window) = read_only {
            add_spans(&mut spans, &window, false)?;
            mappings.push(window);
        }
        Ok(GuestRam { inner: Arc::new(Inner { spans, _mappings: mappings }) })
    }

    /// The page that holds `gpa`.
    pub(crate) fn page(&self, gpa: u64) -> Option<Page> {
        for span in &self.inner.spans {
            let offset = gpa.wrapping_sub(span.gpa) & !(PAGE_LEN - 1);
            if gpa >= span.gpa && offset < span.len {
                return Some(Page { host: span.host.wrapping_add(offset as usize), writable: span.writable });
            }
        }
        None
    }

    /// Whether `gpa` is ordinary RAM: only there may code and translation tables be.
    pub(crate) fn is_ram(&self, gpa: u64) -> bool {
        self.page(gpa).is_some_and(|page| page.writable)
    }

    /// Reads an aligned value of `1 << LOG2` bytes; `None` outside RAM.
    pub(crate) fn read<const LOG2: usize>(&self, gpa: u64) -> Option<u64> {
        let page = self.page(gpa)?;
        let offset = gpa & (PAGE_LEN - 1) & !((1 << LOG2) - 1);
        // SAFETY: the page is mapped for as long as `self` is, and the masked offset keeps the value inside it
        // and aligned.
        let spot = unsafe { ReadSpot::<LOG2>::new(page.host.wrapping_add(offset as usize)) };
        Some(spot.load())
    }

    /// Writes an aligned value of `1 << LOG2` bytes; false outside RAM. Not marked in the dirty log.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn write<const LOG2: usize>(&self, gpa: u64, value: u64) -> bool {
        let Some(page) = self.page(gpa).filter(|page| page.writable) else { return false };
        let offset = gpa & (PAGE_LEN - 1) & !((1 << LOG2) - 1);
        // SAFETY: as in `read`, and the page is writable.
        let spot = unsafe { WriteSpot::<LOG2>::new(page.host.wrapping_add(offset as usize)) };
        spot.store(value);
        true
    }
}

fn add_spans(spans: &mut Vec<Span>, memory: &GuestMemoryMmap, writable: bool) -> Result<(), RamError> {
    for region in memory.iter() {
        let (gpa, len) = (region.start_addr().0, region.len());
        let host =
            region.get_host_address(MemoryRegionAddress(0)).map_err(|_| RamError::NotMapped { gpa })?;
        if (gpa | len | host as u64) & (PAGE_LEN - 1) != 0 {
            return Err(RamError::Unaligned { gpa, len });
        }
        spans.push(Span { gpa, len, host, writable });
    }
    Ok(())
}

/// A place in guest memory that may be read: `1 << LOG2` bytes, aligned.
pub(crate) struct ReadSpot<'a, const LOG2: usize> {
    host: *mut u8,
    memory: PhantomData<&'a GuestRam>,
}

/// A place in guest memory that may be read and written: `1 << LOG2` bytes, aligned.
pub(crate) struct WriteSpot<'a, const LOG2: usize> {
    host: *mut u8,
    memory: PhantomData<&'a GuestRam>,
}

impl<const LOG2: usize> ReadSpot<'_, LOG2> {
    /// # Safety
    /// `host` is aligned to `1 << LOG2` and mapped readable for the life of the spot.
    #[inline(always)]
    pub(crate) unsafe fn new(host: *mut u8) -> Self {
        ReadSpot { host, memory: PhantomData }
    }

    /// The value, zero-extended. LOG2 is at most 3.
    #[inline(always)]
    pub(crate) fn load(&self) -> u64 {
        // SAFETY: by the promise of `new`.
        unsafe { load::<LOG2>(self.host) }
    }
}

/// # Safety
/// `host` is aligned to `1 << LOG2`, mapped, and accessed by atomic operations only.
#[inline(always)]
unsafe fn load<const LOG2: usize>(host: *mut u8) -> u64 {
    match LOG2 {
        // SAFETY: by the caller's promise, for this arm's size.
        0 => u64::from(unsafe { AtomicU8::from_ptr(host) }.load(Ordering::Relaxed)),
        // SAFETY: as above.
        1 => u64::from(unsafe { AtomicU16::from_ptr(host.cast()) }.load(Ordering::Relaxed)),
        // SAFETY: as above.
        2 => u64::from(unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Relaxed)),
        // SAFETY: as above.
        _ => unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Relaxed),
    }
}

/// What an atomic read-modify-write does with the old value and its operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Update {
    Add,
    /// Clear the bits that the operand has.
    Clear,
    Xor,
    Set,
    SignedMax,
    SignedMin,
    UnsignedMax,
    UnsignedMin,
    Swap,
}

macro_rules! update {
    ($place:expr, $unsigned:ty, $signed:ty, $what:expr, $operand:expr) => {{
        let place = $place;
        let operand = $operand as $unsigned;
        let order = Ordering::SeqCst;
        u64::from(match $what {
            Update::Add => place.fetch_add(operand, order),
            Update::Clear => place.fetch_and(!operand, order),
            Update::Xor => place.fetch_xor(operand, order),
            Update::Set => place.fetch_or(operand, order),
            Update::UnsignedMax => place.fetch_max(operand, order),
            Update::UnsignedMin => place.fetch_min(operand, order),
            Update::Swap => place.swap(operand, order),
            Update::SignedMax => signed(place.fetch_update(order, order, |old| {
                Some((old as $signed).max(operand as $signed) as $unsigned)
            })),
            Update::SignedMin => signed(place.fetch_update(order, order, |old| {
                Some((old as $signed).min(operand as $signed) as $unsigned)
            })),
        })
    }};
}

/// The old value of an update whose closure always agrees.
fn signed<T>(result: Result<T, T>) -> T {
    match result {
        Ok(old) | Err(old) => old,
    }
}

macro_rules! exchange {
    ($place:expr, $unsigned:ty, $expected:expr, $new:expr) => {
        match $place.compare_exchange(
            $expected as $unsigned,
            $new as $unsigned,
            Ordering::SeqCst,
            Ordering::SeqCst,
        ) {
            Ok(old) | Err(old) => u64::from(old),
        }
    };
}

impl<const LOG2: usize> WriteSpot<'_, LOG2> {
    /// # Safety
    /// `host` is aligned to `1 << LOG2` and mapped readable and writable for the life of the spot.
    #[inline(always)]
    pub(crate) unsafe fn new(host: *mut u8) -> Self {
        WriteSpot { host, memory: PhantomData }
    }

    /// Stores the low bytes of `value`. LOG2 is at most 3.
    #[inline(always)]
    pub(crate) fn store(&self, value: u64) {
        match LOG2 {
            // SAFETY: by the promise of `new`, for this arm's size.
            0 => unsafe { AtomicU8::from_ptr(self.host) }.store(value as u8, Ordering::Relaxed),
            // SAFETY: as above.
            1 => unsafe { AtomicU16::from_ptr(self.host.cast()) }.store(value as u16, Ordering::Relaxed),
            // SAFETY: as above.
            2 => unsafe { AtomicU32::from_ptr(self.host.cast()) }.store(value as u32, Ordering::Relaxed),
            // SAFETY: as above.
            _ => unsafe { AtomicU64::from_ptr(self.host.cast()) }.store(value, Ordering::Relaxed),
        }
    }

    /// Replaces the value atomically and returns the old one, zero-extended. LOG2 is at most 3.
    pub(crate) fn update(&self, what: Update, operand: u64) -> u64 {
        match LOG2 {
            // SAFETY: by the promise of `new`, for this arm's size.
            0 => update!(unsafe { AtomicU8::from_ptr(self.host) }, u8, i8, what, operand),
            // SAFETY: as above.
            1 => update!(unsafe { AtomicU16::from_ptr(self.host.cast()) }, u16, i16, what, operand),
            // SAFETY: as above.
            2 => update!(unsafe { AtomicU32::from_ptr(self.host.cast()) }, u32, i32, what, operand),
            // SAFETY: as above.
            _ => update!(unsafe { AtomicU64::from_ptr(self.host.cast()) }, u64, i64, what, operand),
        }
    }

    /// Stores `new` if the value is `expected`; returns the old value, zero-extended. LOG2 is at most 3.
    pub(crate) fn compare_exchange(&self, expected: u64, new: u64) -> u64 {
        match LOG2 {
            // SAFETY: by the promise of `new`, for this arm's size.
            0 => exchange!(unsafe { AtomicU8::from_ptr(self.host) }, u8, expected, new),
            // SAFETY: as above.
            1 => exchange!(unsafe { AtomicU16::from_ptr(self.host.cast()) }, u16, expected, new),
            // SAFETY: as above.
            2 => exchange!(unsafe { AtomicU32::from_ptr(self.host.cast()) }, u32, expected, new),
            // SAFETY: as above.
            _ => exchange!(unsafe { AtomicU64::from_ptr(self.host.cast()) }, u64, expected, new),
        }
    }
}

impl WriteSpot<'_, 6> {
    /// Zeroes the 64 bytes.
    pub(crate) fn zero(&self) {
        for word in 0..8 {
            // SAFETY: by the promise of `new`, each aligned word of the 64 bytes is a place of its own.
            unsafe { WriteSpot::<3>::new(self.host.wrapping_add(word * 8)) }.store(0);
        }
    }
}

impl WriteSpot<'_, 4> {
    /// Stores `new` if the sixteen bytes are `expected`; returns what was there.
    pub(crate) fn compare_exchange_wide(&self, expected: u128, new: u128) -> u128 {
        // SAFETY: by the promise of `new`; `AtomicU128` has the alignment that LOG2 of 4 promises.
        let place = unsafe { AtomicU128::from_ptr(self.host.cast()) };
        match place.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(old) | Err(old) => old,
        }
    }
}
