// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The MSI-X table, PCI Local Bus 3.0 section 6.8.2: storage only, without effect here.
//!
//! A vfio-user client sets an eventfd per vector and emulates masking and pending bits itself, as a VFIO client does.
//! So a vector's mask bit has no effect on this side, and the Pending Bit Array always reads as zero.

use crate::pci::VECTORS;

const ENTRY_LEN: usize = 16;
const TABLE_LEN: usize = VECTORS as usize * ENTRY_LEN;

/// The MSI-X table's bytes, which the controller itself does not act upon.
#[derive(Clone, Debug)]
pub struct MsixTable {
    bytes: [u8; TABLE_LEN],
}

impl Default for MsixTable {
    fn default() -> Self {
        Self::new()
    }
}

impl MsixTable {
    /// As after a reset: every vector masked.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = [0; TABLE_LEN];
        for entry in bytes.as_chunks_mut::<ENTRY_LEN>().0 {
            let [.., control, _, _, _] = entry;
            *control = 1;
        }
        Self { bytes }
    }

    /// Reads at an offset from the table's beginning.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, cell) in bytes.iter_mut().zip(self.bytes.iter().skip(start)) {
            *byte = *cell;
        }
    }

    /// Writes at an offset from the table's beginning; reserved bits stay zero.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let cells = self.bytes.iter_mut().enumerate().skip(start);
        for ((at, cell), byte) in cells.zip(bytes) {
            let mask = match at % ENTRY_LEN {
                0 => 0xfc,
                1..=11 => 0xff,
                12 => 0x01,
                _ => 0,
            };
            *cell = byte & mask;
        }
    }

    /// The bytes, for saving.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Restores saved bytes.
    pub fn restore(&mut self, bytes: &[u8]) {
        *self = Self::new();
        self.write(0, bytes);
    }
}
