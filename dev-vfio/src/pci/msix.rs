// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The MSI-X table and pending bits, emulated: the device never sees the guest's addresses and data.
//!
//! The device signals an eventfd per vector; a signal becomes a message at once, or a pending bit until vector and
//! function are unmasked. Where the vCPU process takes the eventfd (irqfd), only the vector's route is decided here,
//! and a signal waiting in the eventfd is the pending bit. PCI 3.0 section 6.8.2.

use crate::saved::{MsixV1, StateError, VectorV1};

/// Bytes of a table entry.
pub const ENTRY_LEN: u64 = 16;
/// The most vectors emulated. Each costs an eventfd here and at the device.
pub use ipc::protocol::function_link::VECTORS_MAX;

/// Message control: the function is enabled for MSI-X.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const CONTROL_MASK: u16 = 1 << 14;

const VECTOR_MASKED: u32 = 1;

/// A message to be sent: a 32-bit write of `data` at `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Message Address, an IOVA.
    pub address: u64,
    /// Message Data.
    pub data: u32,
}

#[derive(Clone, Copy, Debug)]
struct Vector {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

impl Vector {
    /// Masked out of reset (section 6.8.2.9).
    const RESET: Vector = Vector { address: 0, data: 0, control: VECTOR_MASKED, pending: false };
}

/// The table, the pending bits, and the two bits of message control.
#[derive(Clone, Debug)]
pub struct Msix {
    vectors: Vec<Vector>,
    enabled: bool,
    masked: bool,
    /// Bus Master Enable is clear: a message is a memory write, so it is held.
    held: bool,
}

impl Msix {
    /// A table of `count` vectors out of reset; at most [`VECTORS_MAX`].
    pub fn new(count: u16) -> Msix {
        let vectors = vec![Vector::RESET; usize::from(count.min(VECTORS_MAX))];
        Msix { vectors, enabled: false, masked: false, held: false }
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Out of reset again.
    pub fn reset(&mut self) {
        self.vectors.fill(Vector::RESET);
        self.enabled = false;
        self.masked = false;
    }

    /// The enable and mask bits of message control.
    pub fn control(&self) -> u16 {
        (if self.enabled { CONTROL_ENABLE } else { 0 }) | (if self.masked { CONTROL_MASK } else { 0 })
    }

    /// The guest writes message control. Call [`Msix::released`] next.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.masked = control & CONTROL_MASK != 0;
    }

    /// Holds messages back while Bus Master Enable is clear. Call [`Msix::released`] next.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The doubleword at `offset` into the table; 0 beyond its end.
    pub fn read_table(&self, offset: u64) -> u32 {
        let Some((vector, field)) = self.locate(offset) else { return 0 };
        let [low, high] = halves(vector.address);
        match field {
            0 => low,
            1 => high,
            2 => vector.data,
            _ => vector.control,
        }
    }

    /// A 32-bit write of the table. Call [`Msix::released`] next.
    pub fn write_table(&mut self, offset: u64, value: u32) {
        let Some((index, field)) = position(offset) else { return };
        let Some(vector) = self.vectors.get_mut(index) else { return };
        let [low, high] = halves(vector.address);
        match field {
            // Bits 1:0 are zero: the address is DWORD-aligned.
            0 => vector.address = whole([value & !3, high]),
            1 => vector.address = whole([low, value]),
            2 => vector.data = value,
            _ => vector.control = value & VECTOR_MASKED,
        }
    }

    /// A read of 32 pending bits. `waits` says whether a vector has a signal in its eventfd; it is called for masked
    /// vectors only.
    pub fn read_pending(&self, offset: u64, waits: impl Fn(usize) -> bool) -> u32 {
        let first = usize::try_from(offset / 4).unwrap_or(usize::MAX).saturating_mul(32);
        let bits = self.vectors.iter().enumerate().skip(first).take(32);
        bits.fold(0, |word, (index, vector)| {
            let held = self.enabled && self.message(vector).is_none();
            let pending = vector.pending || held && waits(index);
            word | u32::from(pending) << (index - first)
        })
    }

    /// The route of each vector: the message that its signal sends, or none while it is masked.
    pub fn messages(&self) -> impl Iterator<Item = Option<Message>> {
        self.vectors.iter().map(|vector| self.message(vector))
    }

    fn message(&self, vector: &Vector) -> Option<Message> {
        let open = self.enabled && !self.masked && !self.held && vector.control & VECTOR_MASKED == 0;
        open.then_some(Message { address: vector.address, data: vector.data })
    }

    /// The device signals a vector. Returns the message to send now; none if it becomes pending, or MSI-X is
    /// disabled.
    pub fn signal(&mut self, index: usize) -> Option<Message> {
        let message = self.message(self.vectors.get(index)?);
        if message.is_some() {
            return message;
        }
        let vector = self.vectors.get_mut(index)?;
        // With MSI-X disabled nothing becomes pending.
        vector.pending = self.enabled;
        None
    }

    /// The pending messages that are neither masked nor held any more.
    pub fn released(&mut self) -> Vec<Message> {
        if !self.enabled || self.masked || self.held {
            return Vec::new();
        }
        let open = self.vectors.iter_mut().filter(|v| v.pending && v.control & VECTOR_MASKED == 0);
        open.map(|vector| {
            vector.pending = false;
            Message { address: vector.address, data: vector.data }
        })
        .collect()
    }

    /// Its state.
    pub fn save(&self) -> MsixV1 {
        // `held` follows from the command register.
        let Msix { vectors, enabled, masked, held: _ } = self;
        let vectors = vectors.iter().map(|vector| {
            let Vector { address, data, control, pending } = *vector;
            VectorV1 { address, data, control, pending }
        });
        MsixV1 { enabled: *enabled, masked: *masked, vectors: vectors.collect() }
    }

    /// Restores a state, through the checks of guest writes. Call [`Msix::hold`] next.
    ///
    /// # Errors
    /// If the table has another size.
    pub fn restore(&mut self, state: &MsixV1) -> Result<(), StateError> {
        let MsixV1 { enabled, masked, vectors } = state;
        StateError::unless_equal("number of MSI-X vectors", &vectors.len(), &self.vectors.len())?;
        for ((at, saved), vector) in (0..).step_by(16).zip(vectors).zip(0..self.vectors.len()) {
            let VectorV1 { address, data, control, pending } = *saved;
            let [low, high] = halves(address);
            for (offset, value) in (at..).step_by(4).zip([low, high, data, control]) {
                self.write_table(offset, value);
            }
            if let Some(vector) = self.vectors.get_mut(vector) {
                // Without MSI-X there is none.
                vector.pending = pending && *enabled;
            }
        }
        (self.enabled, self.masked) = (*enabled, *masked);
        Ok(())
    }

    fn locate(&self, offset: u64) -> Option<(&Vector, u64)> {
        let (index, field) = position(offset)?;
        Some((self.vectors.get(index)?, field))
    }
}

/// The entry and the 32-bit field in it.
fn position(offset: u64) -> Option<(usize, u64)> {
    Some((usize::try_from(offset / ENTRY_LEN).ok()?, offset % ENTRY_LEN / 4))
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests;
