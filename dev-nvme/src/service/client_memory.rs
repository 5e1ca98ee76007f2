// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client's memory: mapped windows directly, others by `DMA_READ` and `DMA_WRITE`.
//!
//! Workers call this and wait for the client's answers, which the thread that reads the connection passes on. An
//! access that spans windows is made in pieces: a client behind an IOMMU of its own has a window for every page. When
//! the session ends every waiting access fails.

use std::sync::Arc;
use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::vfio_user::connection::{Connection, ConnectionError};
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::Command;
use vm_memory::VolatileSlice;
use zerocopy::IntoBytes;

use crate::dma::{DmaError, HostMemory, Loan};
use crate::prp::Segment;
use crate::service::windows::{Found, Windows};
use crate::spec::completion::COMPLETION_LEN;

/// How long a client may take to answer a DMA message. Shorter than a drain, so that a reset outlasts a silent
/// client.
const DMA_DEADLINE: Duration = Duration::from_secs(10);

/// The memory of one session.
pub struct ClientMemory {
    /// What the client declared, and the log of what was written in it.
    pub windows: Windows,
    connection: Arc<Connection>,
    /// The longest transfer the client takes part in.
    transfer_len_max: usize,
}

impl ClientMemory {
    /// Over a connection after version negotiation.
    #[must_use]
    pub fn new(connection: Arc<Connection>, transfer_len_max: usize) -> Self {
        let windows = Windows::default();
        Self { windows, connection, transfer_len_max: transfer_len_max.max(COMPLETION_LEN) }
    }

    /// Splits an access by the windows that it spans, if there are several without gaps.
    fn pieces(&self, iova: u64, len: usize) -> Option<Vec<(u64, usize)>> {
        let (mut at, mut left, mut pieces) = (iova, len, Vec::new());
        while left > 0 {
            let len = self.windows.reach(at)?.min(left);
            pieces.push((at, len));
            at = at.wrapping_add(len as u64);
            left -= len;
        }
        (pieces.len() > 1).then_some(pieces)
    }

    fn ask_to_read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), ConnectionError> {
        let mut at = iova;
        for piece in bytes.chunks_mut(self.transfer_len_max) {
            let access = DmaAccess::new(at, piece.len());
            let deadline = Deadline::after(DMA_DEADLINE);
            let answer = self.connection.request(Command::DMA_READ, &[access.as_bytes()], &[], deadline)?;
            let data = access.decode_read_reply(&answer.body).map_err(|bad| self.connection.violated(bad))?;
            for (byte, read) in piece.iter_mut().zip(data) {
                *byte = *read;
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn ask_to_write(&self, iova: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        let mut at = iova;
        for piece in bytes.chunks(self.transfer_len_max) {
            let access = DmaAccess::new(at, piece.len());
            let parts = [access.as_bytes(), piece];
            let answer =
                self.connection.request(Command::DMA_WRITE, &parts, &[], Deadline::after(DMA_DEADLINE));
            // On failure too: the client may have written some of it.
            self.windows.log.mark(at, piece.len());
            access.check_write_reply(&answer?.body).map_err(|bad| self.connection.violated(bad))?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn ask_to_publish(&self, iova: u64, entry: &[u8; COMPLETION_LEN]) -> Result<(), ConnectionError> {
        // The client executes commands in order: the first needs no answer of its own, and one that fails the first
        // fails the second, in the same page.
        let (body, last) = entry.split_at(entry.len() - 4);
        let access = DmaAccess::new(iova, body.len());
        let parts = [access.as_bytes(), body];
        self.connection.post(Command::DMA_WRITE, &parts, &[], Deadline::after(DMA_DEADLINE))?;
        // Logged with the second, which is in the same page.
        self.ask_to_write(iova.wrapping_add(body.len() as u64), last)
    }
}

impl HostMemory for ClientMemory {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: false };
        match self.windows.read(iova, bytes) {
            Found::Done(()) => Ok(()),
            Found::ByMessage => self.ask_to_read(iova, bytes).map_err(|_| failed),
            Found::Nothing => {
                let mut rest = bytes;
                for (at, len) in self.pieces(iova, rest.len()).ok_or(failed)? {
                    let (piece, behind) = rest.split_at_mut(len);
                    self.read(at, piece)?;
                    rest = behind;
                }
                Ok(())
            }
        }
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: true };
        match self.windows.write(iova, bytes) {
            Found::Done(()) => Ok(()),
            Found::ByMessage => self.ask_to_write(iova, bytes).map_err(|_| failed),
            Found::Nothing => {
                let mut rest = bytes;
                for (at, len) in self.pieces(iova, rest.len()).ok_or(failed)? {
                    let (piece, behind) = rest.split_at(len);
                    self.write(at, piece)?;
                    rest = behind;
                }
                Ok(())
            }
        }
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        let len = entries.as_flattened().len();
        let failed = DmaError { iova, len, write: true };
        match (self.windows.publish(iova, entries), entries) {
            (Found::Done(()), _) => Ok(()),
            (Found::ByMessage, [entry]) => self.ask_to_publish(iova, entry).map_err(|_| failed),
            (Found::Nothing, [] | [_]) => Err(failed),
            // Or in several windows.
            (Found::ByMessage | Found::Nothing, _) => {
                (0..).step_by(COMPLETION_LEN).zip(entries).try_for_each(|(offset, entry)| {
                    self.publish(iova.wrapping_add(offset), core::slice::from_ref(entry))
                })
            }
        }
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        match self.windows.load(iova) {
            Found::Done(dword) => Ok(dword),
            Found::ByMessage | Found::Nothing => {
                let mut bytes = [0; 4];
                self.read(iova, &mut bytes).map(|()| u32::from_le_bytes(bytes))
            }
        }
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        match self.windows.store(iova, dword) {
            Found::Done(()) => Ok(()),
            Found::ByMessage | Found::Nothing => self.write(iova, &dword.to_le_bytes()),
        }
    }

    fn is_connected(&self) -> bool {
        !self.connection.has_ended()
    }

    fn lend(&self, segments: &[Segment], loan: Loan, access: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        self.windows.lend(segments, loan, access)
    }
}

#[cfg(test)]
mod tests;
