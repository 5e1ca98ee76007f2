// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configuration space: a type 0 header, class 01 08 02, with the PM, MSI-X and PCI Express capabilities.
//!
//! Two tables of bytes hold the contents and the write mask; the one side effect that a write can have (a function
//! level reset) is returned to the caller. Beyond 256 bytes all is zero: no extended capability. The client may keep
//! a configuration space of its own and show the guest that: nothing in the controller depends on what is written
//! here. PCI Local Bus 3.0 section 6; PCI Express 3.0 section 7.8; NVMe 1.4 section 2.

use crate::pci::{BAR0_LEN, MSIX_PBA, MSIX_TABLE, VECTORS};

/// An unassigned vendor ID, so that no guest applies another controller's quirks.
pub const VENDOR_ID: u16 = 0xf1b7;
/// The device ID.
pub const DEVICE_ID: u16 = 0x0001;

/// Length of the whole.
pub const CONFIG_LEN: u64 = 4096;
/// Length of the part that is not always zero.
const USED_LEN: usize = 256;

const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const PM: usize = 0x40;
const MSIX: usize = 0x50;
const EXPRESS: usize = 0x60;
const DEVICE_CONTROL: usize = EXPRESS + 8;
/// In the upper byte of Device Control: Initiate Function Level Reset, reads as 0.
const INITIATE_FLR: u8 = 0x80;

/// The side effect of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigEffect {
    /// Nothing.
    None,
    /// A function level reset.
    Reset,
}

/// Configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; USED_LEN],
    writable: [u8; USED_LEN],
}

impl Default for ConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSpace {
    /// As after a reset.
    #[must_use]
    pub fn new() -> Self {
        let mut space = Self { bytes: [0; USED_LEN], writable: [0; USED_LEN] };
        space.put(0x00, &VENDOR_ID.to_le_bytes());
        space.put(0x02, &DEVICE_ID.to_le_bytes());
        // Memory Space, Bus Master, Parity Error Response, SERR, Interrupt Disable.
        space.allow(0x04, &[0x46, 0x05]);
        space.put(STATUS, &[0x10, 0]);
        // Revision 0; interface 02, subclass 08, class 01.
        space.put(0x08, &[0, 0x02, 0x08, 0x01]);
        // Cache line size.
        space.allow(0x0c, &[0xff]);
        // 64-bit memory; the address bits above the BAR's length.
        space.put(BAR0, &[0x04]);
        space.allow(BAR0, &(!(BAR0_LEN - 1)).to_le_bytes());
        space.put(0x2c, &VENDOR_ID.to_le_bytes());
        space.put(0x2e, &DEVICE_ID.to_le_bytes());
        space.put(CAPABILITIES, &[0x40]);
        // Interrupt line; no pin.
        space.allow(0x3c, &[0xff]);
        space.power_management();
        space.msix();
        space.express();
        space
    }

    fn power_management(&mut self) {
        // Version 3; no PME, no D1, no D2; No_Soft_Reset.
        self.put(PM, &[0x01, 0x50, 0x03, 0x00, 0x08, 0, 0, 0]);
        self.allow(PM + 4, &[0x03]);
    }

    fn msix(&mut self) {
        self.put(MSIX, &[0x11, 0x60]);
        self.put(MSIX + 2, &(VECTORS - 1).to_le_bytes());
        // MSI-X Enable, Function Mask.
        self.allow(MSIX + 3, &[0xc0]);
        // Both in BAR 0; the offsets are below 4 GiB.
        for (at, offset) in [(4, MSIX_TABLE), (8, MSIX_PBA)] {
            let offset = offset.to_le_bytes();
            self.put(MSIX + at, offset.first_chunk::<4>().unwrap_or(&[0; 4]));
        }
    }

    fn express(&mut self) {
        // Version 2, endpoint; the last capability.
        self.put(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
        // Role-based error reporting, function level reset.
        self.put(EXPRESS + 4, &0x1000_8000_u32.to_le_bytes());
        // Error reporting, relaxed ordering, payload, tags, no snoop, read request size.
        self.put(DEVICE_CONTROL, &0x2810_u16.to_le_bytes());
        self.allow(DEVICE_CONTROL, &[0xff, 0xff]);
        // 8 GT/s, four lanes.
        self.put(EXPRESS + 0x0c, &0x0000_0043_u32.to_le_bytes());
        self.allow(EXPRESS + 0x10, &[0xc3, 0x0f]);
        self.put(EXPRESS + 0x12, &0x0043_u16.to_le_bytes());
        // Completion timeout disable is supported.
        self.put(EXPRESS + 0x24, &0x10_u32.to_le_bytes());
        self.allow(EXPRESS + 0x28, &[0x1f]);
        self.put(EXPRESS + 0x2c, &0x0e_u32.to_le_bytes());
        self.put(EXPRESS + 0x30, &0x03_u16.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (cell, byte) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *cell = *byte;
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (cell, byte) in self.writable.iter_mut().skip(at).zip(mask) {
            *cell = *byte;
        }
    }

    /// Reads any range; zero beyond the used part.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, cell) in bytes.iter_mut().zip(self.bytes.iter().skip(start)) {
            *byte = *cell;
        }
    }

    /// Writes the writable bits of any range.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> ConfigEffect {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let cells = self.bytes.iter_mut().zip(&self.writable).enumerate().skip(start);
        let mut effect = ConfigEffect::None;
        for ((at, (cell, mask)), byte) in cells.zip(bytes) {
            *cell = *cell & !mask | byte & mask;
            if at == DEVICE_CONTROL + 1 && *cell & INITIATE_FLR != 0 {
                *cell &= !INITIATE_FLR;
                effect = ConfigEffect::Reset;
            }
        }
        effect
    }

    /// The bytes, for saving.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Restores the writable bits of saved bytes.
    pub fn restore(&mut self, bytes: &[u8]) {
        *self = Self::new();
        let _ = self.write(0, bytes);
    }
}
