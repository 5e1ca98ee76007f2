// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The MSIs of a PCI function, as its process delivers them: bits of a board in shared memory, and a doorbell.
//!
//! A bit that is set twice before it is read is one interrupt, as with an ITS. The DeviceID comes from the system
//! table, never from the function.

use super::controller::InterruptController;
use ipc::doorbell::Doorbell;
use ipc::shm::msi_board::MsiBoard;

/// The receiving end of a PCI function's MSIs.
#[derive(Debug)]
pub struct Board {
    /// Pending events.
    pub board: MsiBoard,
    /// Doorbell of the board.
    pub doorbell: Doorbell,
    /// The DeviceID of all of them.
    pub device_id: u32,
}

impl Board {
    /// Signals pending events at the interrupt controller.
    pub fn deliver(&self, controller: &dyn InterruptController) {
        self.board.take(|event| controller.signal_msi(self.device_id, event));
    }
}
