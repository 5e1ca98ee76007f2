// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arithmetic of the circular queues: index, wrap, empty, full, advance. Pure, on plain numbers.
//!
//! A pointer register holds an index in its low `log2_size` bits and a wrap flag in the next one. The two pointers
//! are equal when the queue is empty; they differ in the wrap flag alone when it is full (IHI 0070 §3.5.1). Pointers
//! come from the guest, so a pair may also describe more entries than the queue has (§3.21.2 forbids it): `len` then
//! returns `None`, and the caller decides what to do.

use crate::spec::tables::QUEUE_LOG2_SIZE_MAX;

/// The shape of one queue: where it lies and how many entries it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    base: u64,
    log2_size: u32,
    entry_len: u64,
}

/// A read or write pointer: index and wrap flag, already cut to the queue's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer(u32);

impl Pointer {
    /// The bits as they stand in the register's RD or WR field.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Queue {
    /// A queue of `2^log2_size` entries at `base`. The size is cut to the architecture's maximum (2^19
    /// entries) and the base aligned down to the larger of the queue and 32 bytes (§6.3.26, §6.3.29).
    pub const fn new(base: u64, log2_size: u32, entry_len: u64) -> Queue {
        let log2_size = if log2_size > QUEUE_LOG2_SIZE_MAX { QUEUE_LOG2_SIZE_MAX } else { log2_size };
        let bytes = entry_len << log2_size;
        let align = if bytes < 32 { 32 } else { bytes };
        Queue { base: base & !(align - 1), log2_size, entry_len }
    }

    /// Number of entries.
    pub const fn capacity(&self) -> u32 {
        1 << self.log2_size
    }

    /// Cuts a register's RD or WR field to the index and wrap bits this size has.
    pub const fn pointer(&self, bits: u32) -> Pointer {
        Pointer(bits & ((self.capacity() << 1) - 1))
    }

    /// No entry between the two.
    pub const fn is_empty(&self, prod: Pointer, cons: Pointer) -> bool {
        prod.0 == cons.0
    }

    /// No room: same index, different wrap flag.
    pub const fn is_full(&self, prod: Pointer, cons: Pointer) -> bool {
        prod.0 ^ cons.0 == self.capacity()
    }

    /// How many entries wait, or `None` when the pointers describe more than the queue can hold.
    pub const fn len(&self, prod: Pointer, cons: Pointer) -> Option<u32> {
        let len = prod.0.wrapping_sub(cons.0) & ((self.capacity() << 1) - 1);
        if len <= self.capacity() { Some(len) } else { None }
    }

    /// The pointer after this one; passing the last index toggles the wrap flag.
    pub const fn next(&self, pointer: Pointer) -> Pointer {
        Pointer((pointer.0 + 1) & ((self.capacity() << 1) - 1))
    }

    /// Address of the entry a pointer designates. Never leaves the queue.
    pub const fn entry_address(&self, pointer: Pointer) -> u64 {
        let index = (pointer.0 & (self.capacity() - 1)) as u64;
        self.base.wrapping_add(index * self.entry_len)
    }
}

#[cfg(test)]
mod tests;
