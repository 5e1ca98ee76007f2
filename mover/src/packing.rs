// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes of pages as LZ4 blocks and back.
//!
//! A block holds the pages of one stretch and stands alone: what is sent again, later or in another lane, needs nothing
//! of what was sent before. Both ends are the library's safe code. Nothing that a block says makes the receiver
//! allocate: it unpacks into a buffer of the longest stretch, and is refused if it is not exactly as long as its pages.

use core::fmt;

use ipc::migration::pages::STRETCH_LEN_MAX;
use ipc::protocol::mover::Packing;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use thiserror::Error;

/// Why a block is not unpacked.
#[derive(Debug, Error)]
pub enum PackingError {
    /// It is none.
    #[error("no LZ4 block: {0}")]
    Block(#[from] lz4_flex::block::DecompressError),
    /// Its pages have another length.
    #[error("an LZ4 block of {found:#x} bytes where {expected:#x} are due")]
    Length {
        /// What it unpacks to.
        found: usize,
        /// What its pages have.
        expected: usize,
    },
}

/// Packs the bytes of one stretch after the other.
pub struct Packer(Option<Lz4>);

struct Lz4 {
    table: CompressTable,
    block: Vec<u8>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("packs", &self.0.is_some()).finish_non_exhaustive()
    }
}

impl Packer {
    /// Which packs so.
    #[must_use]
    pub fn new(packing: Packing) -> Self {
        Self(match packing {
            Packing::Plain => None,
            Packing::Lz4 => {
                let block = vec![0; get_maximum_output_size(STRETCH_LEN_MAX)];
                Some(Lz4 { table: CompressTable::large(), block })
            }
        })
    }

    /// Puts a block in the place of the bytes from there on. False: they are to be sent as they are.
    pub fn pack_in(&mut self, body: &mut Vec<u8>, from: usize) -> bool {
        let Some(block) = body.get(from..).and_then(|bytes| self.pack(bytes)) else { return false };
        body.truncate(from);
        body.extend_from_slice(block);
        true
    }

    /// The bytes as a block; `None` if they are to be sent as they are: that would not be shorter.
    pub fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        let Lz4 { table, block } = self.0.as_mut()?;
        let len = compress_into_with_table(bytes, block, table).ok()?;
        block.get(..len).filter(|block| block.len() < bytes.len())
    }
}

/// Unpacks one block after the other.
#[derive(Debug, Default)]
pub struct Unpacker {
    bytes: Vec<u8>,
}

impl Unpacker {
    /// The bytes that are packed in this block.
    ///
    /// # Errors
    /// If it is no block, or they are not as many.
    pub fn unpack(&mut self, block: &[u8], expected: usize) -> Result<&[u8], PackingError> {
        if self.bytes.is_empty() {
            // Once, and only where something comes packed.
            self.bytes.resize(STRETCH_LEN_MAX, 0);
        }
        let room = self.bytes.get_mut(..expected).unwrap_or_default();
        let found = decompress_into(block, room)?;
        if found != expected {
            return Err(PackingError::Length { found, expected });
        }
        Ok(room)
    }
}

#[cfg(test)]
mod tests;
