// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The DMA windows declared to a server, in pieces that it accepts.
//!
//! A server may take no window above some length (libvfio-user: 8 TiB) and no more than some number of them
//! (`max_dma_maps`). The first limit is found by trying: a piece refused with `ENOSPC` or `EINVAL` is halved, and no
//! later one is longer. All addresses that the vSMMU's stage 1 translates are declared, or the device is not used:
//! one that reaches only part of its memory would fail in ways that are hard to trace.

use std::os::fd::BorrowedFd;

use ipc::vfio_user::connection::ConnectionError;
use rustix::io::Errno;

use super::ClientError;

/// Addresses that the vSMMU's stage 1 translates: 48 bits, the architecture's without `SMMU_IDR5.VAX`. The upper half
/// of the 64-bit input space (TTB1) is not declared: no known server accepts it.
pub const IOVA_SPACE_LEN: u64 = 1 << 48;

/// The shortest piece that is tried: the maximum number of these is more than enough for all addresses.
const PIECE_LEN_MIN: u64 = 1 << 30;

/// A DMA window.
#[derive(Clone, Copy, Debug)]
pub struct DmaWindow<'a> {
    /// Its first IOVA.
    pub start: u64,
    /// In bytes.
    pub len: u64,
    /// Memory, by a file and an offset into it; or none, so that DMA there comes as messages.
    pub memory: Option<(BorrowedFd<'a>, u64)>,
}

impl DmaWindow<'_> {
    /// All addresses, without memory.
    pub const EVERYWHERE: DmaWindow<'static> = DmaWindow { start: 0, len: IOVA_SPACE_LEN, memory: None };

    fn piece(self, start: u64, len: u64) -> Self {
        let behind = start - self.start;
        let memory = self.memory.map(|(file, offset)| (file, offset.saturating_add(behind)));
        Self { start, len, memory }
    }
}

/// The windows a server has, and its limits.
#[derive(Debug)]
pub struct Windows {
    /// Beginning and length of each.
    declared: Vec<(u64, u64)>,
    count_max: usize,
    /// The longest piece that may still be tried.
    piece_len: u64,
}

impl Windows {
    /// None, of a server that takes `count_max`.
    pub const fn new(count_max: usize) -> Windows {
        Windows { declared: Vec::new(), count_max, piece_len: IOVA_SPACE_LEN }
    }

    /// Those that a saved state lists.
    pub const fn restored(declared: Vec<(u64, u64)>, count_max: usize) -> Windows {
        Windows { declared, count_max, piece_len: IOVA_SPACE_LEN }
    }

    /// Beginning and length of each that is declared.
    pub fn declared(&self) -> Vec<(u64, u64)> {
        self.declared.clone()
    }

    /// Declares `windows` by `map`, piece by piece. Pieces declared before an error stay, for [`Windows::withdraw`].
    ///
    /// # Errors
    /// If the server fails, or does not accept so many windows.
    pub fn declare(
        &mut self,
        windows: &[DmaWindow<'_>],
        map: impl Fn(DmaWindow<'_>) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let longest = self.declared.iter().map(|(_, len)| *len).max().unwrap_or(0);
        let mut taken = longest;
        for window in windows {
            let end = window.start.saturating_add(window.len);
            let mut start = window.start;
            while start < end {
                if self.declared.len() >= self.count_max {
                    return Err(self.too_many());
                }
                let len = self.piece_len.min(end - start);
                match map(window.piece(start, len)) {
                    Ok(()) => {
                        self.declared.push((start, len));
                        taken = taken.max(len);
                        start += len;
                    }
                    Err(error) if is_about_the_window(&error) && len > taken && len > PIECE_LEN_MIN => {
                        self.piece_len = len.next_power_of_two() / 2;
                    }
                    // One of this length was accepted before: the number is the limit.
                    Err(error) if is_about_the_window(&error) && !self.declared.is_empty() => {
                        return Err(self.too_many());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Removes all, by `unmap`.
    ///
    /// # Errors
    /// If the server fails: its windows are unknown then.
    pub fn withdraw(
        &mut self,
        unmap: impl Fn(u64, u64) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.declared.drain(..).try_for_each(|(start, len)| unmap(start, len))
    }

    fn too_many(&self) -> ClientError {
        ClientError::DmaWindows { count: self.declared.len(), len: self.piece_len }
    }
}

/// Whether the server may accept a shorter window.
fn is_about_the_window(error: &ClientError) -> bool {
    let ClientError::Connection(ConnectionError::Remote { errno, .. }) = error else { return false };
    [Errno::NOSPC, Errno::INVAL].iter().any(|known| known.raw_os_error().cast_unsigned() == *errno)
}

#[cfg(test)]
mod tests;
