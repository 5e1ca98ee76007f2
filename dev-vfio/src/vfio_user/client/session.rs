// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The version and limits negotiated with a server when its connection began, valid for the connection's lifetime.
//!
//! A connection may outlive the process that made it: the next one cannot negotiate again, and reads them from the
//! saved state.

use ipc::vfio_user::region::SmallWrite;
use ipc::vfio_user::version::{Capabilities, Version};
use ipc::vfio_user::{DATA_LEN_MAX, FDS_MAX};

use super::dma_windows::Windows;
use super::{BATCH_MAX, Client};
use crate::saved::{SessionV1, StateError};

/// The negotiated session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The protocol's minor version.
    pub minor: u16,
    /// File descriptors that the server takes in one message.
    pub msg_fds: usize,
    /// The longest transfer.
    pub data_len: usize,
    /// DMA windows that it takes at once.
    pub dma_maps: usize,
    /// Whether it takes writes in batches.
    pub write_multiple: bool,
}

impl Session {
    /// What the server answered.
    pub fn of(version: &Version) -> Session {
        let Version { major: _, minor, capabilities } = version;
        Session {
            minor: *minor,
            msg_fds: capabilities.msg_fds(),
            data_len: capabilities.data_len(),
            dma_maps: capabilities.dma_maps(),
            write_multiple: capabilities.write_multiple == Some(true),
        }
    }

    /// How many posted writes one message may have; 1 where the server takes no batches.
    pub fn batch_max(&self) -> usize {
        let room = self.data_len.saturating_sub(size_of::<u64>()) / size_of::<SmallWrite>();
        if self.write_multiple { room.clamp(1, BATCH_MAX) } else { 1 }
    }

    /// The session of a saved state, with limits no larger than this build would negotiate.
    ///
    /// # Errors
    /// If no negotiation could have had that result.
    pub fn restore(state: &SessionV1) -> Result<Session, StateError> {
        let SessionV1 { minor, msg_fds, data_len, dma_maps, write_multiple, windows } = state;
        let most = Capabilities::ours();
        let number = |what, value: u32, max: usize| {
            let fits = usize::try_from(value).ok().filter(|value| *value <= max);
            fits.ok_or(StateError::Impossible { what, found: value.into() })
        };
        let session = Session {
            minor: *minor,
            msg_fds: number("file descriptors of a message", *msg_fds, FDS_MAX)?,
            data_len: number("bytes of a transfer", *data_len, DATA_LEN_MAX)?,
            dma_maps: number("DMA windows of a server", *dma_maps, most.dma_maps())?,
            write_multiple: *write_multiple,
        };
        if windows.len() > session.dma_maps {
            return Err(StateError::Impossible { what: "declared DMA windows", found: windows.len() as u64 });
        }
        Ok(session)
    }
}

impl Client {
    /// What the next process needs to use this connection.
    pub fn save_session(&self) -> SessionV1 {
        let Session { minor, msg_fds, data_len, dma_maps, write_multiple } = self.session;
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        SessionV1 {
            minor,
            msg_fds: number(msg_fds),
            data_len: number(data_len),
            dma_maps: number(dma_maps),
            write_multiple,
            windows: self.windows().declared(),
        }
    }
}

/// The declared windows of a saved state.
pub(super) fn windows(state: &SessionV1, session: &Session) -> Windows {
    Windows::restored(state.windows.clone(), session.dma_maps)
}
