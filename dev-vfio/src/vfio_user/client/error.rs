// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a vfio-user server is not asked any more, or has refused one request.
//!
//! A refusal is the server's answer, and the next request may be made; everything else ends the connection, and with it
//! the device.

use ipc::vfio_user::Malformed;
use ipc::vfio_user::connection::ConnectionError;
use thiserror::Error;

/// Why the server is not asked any more, or has refused.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The connection is over, or the server said no.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The device is not one we can use.
    #[error("the device has {0}")]
    Unusable(&'static str),
    /// Its DMA could not reach all that the guest may map for it.
    #[error(
        "the server takes no more than {count} DMA windows of {len:#x} bytes: not all addresses of the guest's SMMU"
    )]
    DmaWindows {
        /// How many it took.
        count: usize,
        /// How long they are.
        len: u64,
    },
}

impl From<Malformed> for ClientError {
    fn from(malformed: Malformed) -> Self {
        Self::Connection(ConnectionError::Violation(malformed))
    }
}

impl ClientError {
    /// Whether the server only refused one request, and may be asked for the next.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Connection(ConnectionError::Remote { .. } | ConnectionError::Refused(_))
                | Self::DmaWindows { .. }
        )
    }
}
