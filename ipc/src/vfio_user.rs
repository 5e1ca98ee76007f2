// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vfio-user protocol, 0.1 and 0.2: a PCI device in another process, driven over a Unix stream socket.
//!
//! One codec for both ends: the client (`dev-vfio`) and the server (`dev-nvme`) share these types, and either may have
//! a foreign peer. A peer is never trusted: lengths, counts, offsets and ids are checked before they are used, bodies
//! by pure functions from bytes to values, the stream by [`connection`]. Two fates for a bad message: one whose *body*
//! is wrong is answered with an error and the connection lives ([`Malformed`]); one whose *framing* is wrong ends the
//! connection ([`connection::ConnectionError::Violation`]). Public specification: `docs/interop/vfio-user.rst` of QEMU.
//! The bytes are little-endian on every host we build for.

pub mod connection;
pub mod device;
pub mod dma;
pub mod feature;
pub mod header;
pub mod migration;
pub mod region;
pub mod version;
mod wire;

use thiserror::Error;

/// The most bytes of data in one transfer (`max_data_xfer_size`), ours and the specification's default.
pub const DATA_LEN_MAX: usize = 1 << 20;

/// The longest message: a transfer of [`DATA_LEN_MAX`] with its headers. The longest header of any message with
/// data is below 64 bytes; the rest of the page is room for the capabilities of other versions.
pub const MESSAGE_LEN_MAX: usize = DATA_LEN_MAX + 4096;

/// The most fds in one message (`max_msg_fds`): all the vectors of an NVMe controller fit at once.
pub const FDS_MAX: usize = 32;

/// The page that DMA windows and dirty bitmaps are counted in.
pub const PAGE_LEN: u64 = 4096;

/// A message body that breaks a rule. The receiver answers `EINVAL`; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("vfio-user {message}: {rule}, found {found:#x}")]
pub struct Malformed {
    /// Which message, or which structure in it.
    pub message: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
    /// The value that breaks it.
    pub found: u64,
}

impl Malformed {
    pub(crate) fn new(message: &'static str, rule: &'static str, found: impl TryInto<u64>) -> Self {
        Self { message, rule, found: found.try_into().unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests;
