// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The messages of a PCI function, as its process brings them: bits of a board in shared memory, and a doorbell.
//!
//! A bit that is set twice before it is taken is one interrupt, as with an ITS. The device's number comes from the system
//! table, never from the function.

use super::controller::InterruptController;
use ipc::doorbell::Doorbell;
use ipc::shm::msi_board::MsiBoard;

/// Where the MSIs of a PCI function come in.
#[derive(Debug)]
pub struct Board {
    /// Pending events.
    pub board: MsiBoard,
    /// Rings when there is one.
    pub doorbell: Doorbell,
    /// The DeviceID that all of them are signalled with.
    pub device_id: u32,
}

impl Board {
    /// Brings what is pending to the interrupt controller.
    pub fn deliver(&self, controller: &dyn InterruptController) {
        self.board.take(|event| controller.signal_msi(self.device_id, event));
    }
}
