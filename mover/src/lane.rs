// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection of a migration as a sequence of frames, in either direction.
//!
//! A frame is made whole in one buffer and sent by one call; one is read into one buffer and checked before it is
//! looked at. The buffers are the only memory of a lane. A peer that takes or gives nothing for [`STALL_SPAN`] is lost.

use std::io;
use std::time::Duration;

use ipc::migration::frame::{BODY_LEN_MAX, HEADER_LEN, Header, Kind, StreamError};
use ipc::protocol::budget;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// For how long a connection may stand still while a frame is under way.
pub const STALL_SPAN: Duration = budget::mover::STALL;

/// Why a lane is not used any more.
#[derive(Debug, Error)]
pub enum LaneError {
    /// The connection is gone.
    #[error("the connection to the other host is lost: {0}")]
    Io(#[from] io::Error),
    /// The other end has closed it.
    #[error("the other host has closed the connection")]
    Closed,
    /// It stands still.
    #[error("the other host neither takes nor gives anything for {} s", STALL_SPAN.as_secs())]
    Stalled,
    /// What comes is no stream of this release.
    #[error("what the other host sends: {0}")]
    Stream(#[from] StreamError),
    /// A frame that this end must not get, or not now.
    #[error("the other host sends {0:?} where it has no place")]
    Unexpected(Kind),
}

/// The sending end.
#[derive(Debug)]
pub struct Sender<W> {
    to: W,
    sequence: u64,
    buffer: Vec<u8>,
    /// Bytes that were sent, as they travelled on this lane.
    sent_len: u64,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<R> {
    from: R,
    sequence: u64,
    body: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Nothing was sent yet.
    pub const fn new(to: W) -> Self {
        Self { to, sequence: 0, buffer: Vec::new(), sent_len: 0 }
    }

    /// Bytes that were sent.
    pub const fn sent_len(&self) -> u64 {
        self.sent_len
    }

    /// Sends a frame whose body `fill` appends.
    ///
    /// # Errors
    /// If the connection is lost or stands still: nothing more can be sent.
    pub async fn send(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), LaneError> {
        let filled = |body: &mut Vec<u8>| {
            fill(body);
            Ok::<_, LaneError>(Some(kind))
        };
        self.send_as(filled).await
    }

    /// The same of a kind that is known when its body is there; or none, if there is nothing to be sent.
    ///
    /// # Errors
    /// What `fill` says; or as before.
    pub async fn send_as<E: From<LaneError>>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<Option<Kind>, E>,
    ) -> Result<(), E> {
        self.buffer.clear();
        self.buffer.resize(HEADER_LEN, 0);
        let Some(kind) = fill(&mut self.buffer)? else { return Ok(()) };
        Ok(self.send_filled(kind).await?)
    }

    async fn send_filled(&mut self, kind: Kind) -> Result<(), LaneError> {
        if let Some((head, body)) = self.buffer.split_first_chunk_mut::<HEADER_LEN>() {
            *head = Header::of(kind, self.sequence, &[body]).to_bytes();
        }
        self.sequence = self.sequence.saturating_add(1);
        timeout(STALL_SPAN, self.to.write_all(&self.buffer)).await.map_err(|_| LaneError::Stalled)??;
        self.sent_len = self.sent_len.saturating_add(self.buffer.len() as u64);
        Ok(())
    }

    /// Hands over what the layers below hold back.
    ///
    /// # Errors
    /// If the connection is lost or stands still.
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        Ok(timeout(STALL_SPAN, self.to.flush()).await.map_err(|_| LaneError::Stalled)??)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// If the connection is lost or stands still.
    pub async fn shutdown(&mut self) -> Result<(), LaneError> {
        Ok(timeout(STALL_SPAN, self.to.shutdown()).await.map_err(|_| LaneError::Stalled)??)
    }
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// Nothing was received yet.
    pub const fn new(from: R) -> Self {
        Self { from, sequence: 0, body: Vec::new() }
    }

    /// The next frame, checked; `None` if the connection was closed between two. Waits for as long as it takes until
    /// the first byte is there.
    ///
    /// # Errors
    /// If the connection is lost or stands still in the middle of a frame, or the bytes are none.
    pub async fn next(&mut self) -> Result<Option<(Kind, &[u8])>, LaneError> {
        let mut head = [0; HEADER_LEN];
        let begun = self.from.read(&mut head).await?;
        if begun == 0 {
            return Ok(None);
        }
        let rest = head.get_mut(begun..).unwrap_or_default();
        timeout(STALL_SPAN, self.from.read_exact(rest)).await.map_err(|_| LaneError::Stalled)??;
        let header = Header::decode(&head, self.sequence)?;
        self.sequence = self.sequence.saturating_add(1);
        if self.body.len() < BODY_LEN_MAX {
            // Once: no frame makes this end allocate.
            self.body.resize(BODY_LEN_MAX, 0);
        }
        let body = self.body.get_mut(..header.body_len).unwrap_or_default();
        timeout(STALL_SPAN, self.from.read_exact(body)).await.map_err(|_| LaneError::Stalled)??;
        header.check(body)?;
        Ok(Some((header.kind, body)))
    }
}

#[cfg(test)]
mod tests;
