// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A function's state units: structs of plain integers, frozen once released; [`crate::pci`] converts from and to them.
//!
//! A stream is one `vfio-function`, the guest-visible state of the function; one `vfio-user`, the session with the
//! server, or one `vfio-physical`; and, if the device's own state is moved, `vfio-data` units with its bytes unchanged,
//! and one `vfio-data-end` with their total length. All of it is untrusted: it is checked against the device that the
//! new life has opened. Derived state is left out: shown windows and Bus Master Enable (command register), routes of
//! vectors (MSI-X table), the stream's attachment (from the vSMMU, at `Replay`).

use ipc::saved::stream::StreamError;
use ipc::saved::{SavedError, SavedState, UnitKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The bytes of a device's state, in pieces.
pub const DATA: UnitKind = UnitKind::new("vfio-data");
/// Their version: the bytes are opaque.
pub const DATA_VERSION: u16 = 1;
/// The most bytes of one piece.
pub const DATA_PIECE_MAX: usize = ipc::vfio_user::DATA_LEN_MAX;

/// The PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionV1 {
    /// The first 64 bytes and the shown capabilities, less what the other fields have; 256 bytes.
    pub config: Vec<u8>,
    /// The BARs, by register.
    pub bars: Vec<BarV1>,
    /// BAR registers that read as their size, one bit each.
    pub bars_sizing: u8,
    /// The function is in D3hot.
    pub sleeps: bool,
    /// MSI-X, if the function has it.
    pub msix: Option<MsixV1>,
    /// The pin, if the function has one.
    pub intx: Option<IntxV1>,
}

/// A BAR: must be equal where the function is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarV1 {
    /// The register of its low half.
    pub index: u8,
    /// The low bits of that.
    pub kind: u32,
    /// Where the guest sees it.
    pub start: u64,
    /// A power of two.
    pub len: u64,
    /// Bytes of the region behind it.
    pub region_len: u64,
}

/// MSI-X.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixV1 {
    /// MSI-X Enable.
    pub enabled: bool,
    /// Function Mask.
    pub masked: bool,
    /// The table.
    pub vectors: Vec<VectorV1>,
}

/// An entry of the table, and its pending bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorV1 {
    /// Message Address.
    pub address: u64,
    /// Message Data.
    pub data: u32,
    /// Vector Control.
    pub control: u32,
    /// Its bit in the Pending Bit Array.
    pub pending: bool,
}

/// The pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntxV1 {
    /// The device masks itself when it signals.
    pub automasked: bool,
    /// The device has signalled.
    pub pending: bool,
    /// The pin is asserted.
    pub raised: bool,
    /// The device has signalled once more since.
    pub again: bool,
}

/// The session with the device's server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerV1 {
    /// The next life connects to another server and restores the device's state into it: it follows in the stream.
    Anew,
    /// The next life takes over the same connection to the same server, which keeps the device, stopped.
    Kept(SessionV1),
}

/// What was agreed with a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionV1 {
    /// The protocol's minor version.
    pub minor: u16,
    /// File descriptors that it takes in one message.
    pub msg_fds: u32,
    /// The longest transfer.
    pub data_len: u32,
    /// DMA windows that it takes.
    pub dma_maps: u32,
    /// Whether it takes writes in batches.
    pub write_multiple: bool,
    /// Its DMA windows: beginning and length of each.
    pub windows: Vec<(u64, u64)>,
}

/// What a next life needs to go on with the connection, if this one dies: in the checkpoint beside the function, never
/// in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionV1 {
    /// What was agreed, and the device as its server has described it: it may not answer before it is answered itself.
    Kept(SessionV1, DeviceV1),
    /// It cannot be gone on with, for this reason.
    Lost(String),
}

/// A device as its server has described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceV1 {
    /// Whether it can be reset.
    pub resettable: bool,
    /// Whether it can be stopped.
    pub stoppable: bool,
    /// Its regions, from BAR 0 to configuration space: length, whether it can be read, and written.
    pub regions: Vec<(u64, bool, bool)>,
    /// How many MSI-X vectors it can signal.
    pub vectors: u16,
    /// Whether its pin masks itself when it signals, if it has one.
    pub intx: Option<bool>,
    /// Its configuration space when it was opened, 256 bytes.
    pub config: Vec<u8>,
}

/// A physical device of the host, whose own state follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalV1 {
    /// The number of its character device on that host (`st_rdev`): a next life that was handed the very device finds
    /// the state in it.
    pub device: u64,
}

/// The end of the device's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataEndV1 {
    /// How many bytes it has.
    pub len: u64,
}

impl SavedState for FunctionV1 {
    const KIND: UnitKind = UnitKind::new("vfio-function");
    const VERSION: u16 = 1;
}

impl SavedState for ServerV1 {
    const KIND: UnitKind = UnitKind::new("vfio-user");
    const VERSION: u16 = 1;
}

impl SavedState for ConnectionV1 {
    const KIND: UnitKind = UnitKind::new("vfio-connection");
    const VERSION: u16 = 1;
}

impl SavedState for PhysicalV1 {
    const KIND: UnitKind = UnitKind::new("vfio-physical");
    const VERSION: u16 = 1;
}

impl SavedState for DataEndV1 {
    const KIND: UnitKind = UnitKind::new("vfio-data-end");
    const VERSION: u16 = 1;
}

/// Why a state cannot be that of this function.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// Another device.
    #[error("the state is of another device: {what} is {found}, this device has {expected}")]
    OtherDevice {
        /// What differs.
        what: &'static str,
        /// In the state.
        found: String,
        /// Here.
        expected: String,
    },
    /// A value that no function ever has.
    #[error("saved state of a function: invalid value {found:#x}: {what}")]
    Impossible {
        /// Name of the saved field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
}

impl StateError {
    /// Refuses the state as another device's, if these two differ.
    pub(crate) fn unless_equal<T: PartialEq + std::fmt::Debug>(
        what: &'static str,
        found: &T,
        expected: &T,
    ) -> Result<(), StateError> {
        if found == expected {
            return Ok(());
        }
        Err(StateError::OtherDevice {
            what,
            found: format!("{found:x?}"),
            expected: format!("{expected:x?}"),
        })
    }
}

/// The error for a unit of the wrong kind in a stream.
pub(crate) fn out_of_place(kind: UnitKind) -> StreamError {
    SavedError::UnitsLeftOver { count: 1, kind }.into()
}

#[cfg(test)]
mod tests;
