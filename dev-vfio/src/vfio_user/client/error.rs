// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors of a vfio-user server: a refused request, or the end of the connection.
//!
//! A refusal is the server's answer, and the next request may be made; everything else ends the connection, and with it
//! the device.

use ipc::saved::stream::StreamError;
use ipc::vfio_user::Malformed;
use ipc::vfio_user::connection::{ConnectionError, InFlight};
use thiserror::Error;

use crate::saved::StateError;

/// Why a request failed.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The connection failed, or the server refused.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The device is not supported.
    #[error("the device has {0}")]
    Unusable(&'static str),
    /// Its DMA could not reach all addresses that the guest may map for it.
    #[error(
        "the server takes no more than {count} DMA windows of {len:#x} bytes: not all addresses of the guest's SMMU"
    )]
    DmaWindows {
        /// How many it accepted.
        count: usize,
        /// How long they are.
        len: u64,
    },
    /// A transition of the migration state failed.
    #[error("its server failed {step}: {source}")]
    Step {
        /// The request.
        step: &'static str,
        /// Its error.
        source: Box<ClientError>,
    },
    /// Its state is too long.
    #[error("its server's state has more than {len_max:#x} bytes")]
    StateLong {
        /// The limit.
        len_max: u64,
    },
    /// Its state takes too long.
    #[error("its server's state took longer than it may")]
    StateSlow,
    /// It has no migration v2.
    #[error("its server has no migration states: it cannot take the device's state")]
    NoMigration,
    /// Requests are in flight although it is stopped, and would be lost.
    #[error(
        "its server is active although its device is stopped: {} commands, {} requests in flight, partial message: {}",
        .0.commands, .0.requests, .0.torn
    )]
    NotStill(InFlight),
    /// A connection that was not kept cannot be gone on with.
    #[error("the connection of the life before was not kept")]
    NotKept,
    /// The state is not one of this device.
    #[error(transparent)]
    State(#[from] StateError),
    /// The stream of the state.
    #[error("the saved state: {0}")]
    Stream(String),
}

impl From<StreamError> for ClientError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error.to_string())
    }
}

impl From<Malformed> for ClientError {
    fn from(malformed: Malformed) -> Self {
        Self::Connection(ConnectionError::Violation(malformed))
    }
}

impl ClientError {
    /// Whether only this request was refused and the next may be made.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Connection(error) => {
                matches!(error, ConnectionError::Remote { .. } | ConnectionError::Refused(_))
            }
            Self::Step { source, .. } => source.is_refusal(),
            Self::DmaWindows { .. } => true,
            Self::Unusable(_)
            | Self::StateLong { .. }
            | Self::StateSlow
            | Self::NoMigration
            | Self::NotStill(_)
            | Self::NotKept
            | Self::State(_)
            | Self::Stream(_) => false,
        }
    }

    /// Whether the connection can be used after this.
    pub fn leaves_connection(&self) -> bool {
        match self {
            Self::Connection(_) => self.is_refusal(),
            Self::Step { source, .. } => source.leaves_connection(),
            Self::Unusable(_)
            | Self::DmaWindows { .. }
            | Self::StateLong { .. }
            | Self::StateSlow
            | Self::NoMigration
            | Self::NotStill(_)
            | Self::NotKept
            | Self::State(_)
            | Self::Stream(_) => true,
        }
    }

    /// Whether the server has closed the connection: it is gone.
    pub fn is_of_the_end(&self) -> bool {
        match self {
            Self::Connection(error) => {
                matches!(error, ConnectionError::Closed | ConnectionError::Io { .. })
            }
            Self::Step { source, .. } => source.is_of_the_end(),
            _ => false,
        }
    }

    /// Adds the request to the error.
    pub(super) fn at(self, step: &'static str) -> Self {
        Self::Step { step, source: Box::new(self) }
    }
}
