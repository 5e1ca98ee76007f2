// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a controller and its namespace are: fixed when the process starts, equal at both ends of a migration.

use thiserror::Error;

/// Why an image cannot be a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The block length is not supported.
    #[error("blocks of {0} bytes are not supported: 512 or 4096")]
    BlockLen(u32),
    /// Not a single block.
    #[error("an image of {0:#x} bytes holds no block")]
    Empty(u64),
    /// The last block is incomplete.
    #[error("an image of {len:#x} bytes is not a whole number of blocks of {block_len} bytes")]
    Ragged {
        /// The image's length.
        len: u64,
        /// The block's.
        block_len: u32,
    },
}

/// What the controller says of itself and of its namespace (Identify).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number: up to 20 characters.
    pub serial: String,
    /// Block length as a power of two: 9 or 12.
    pub block_shift: u8,
    /// How many blocks.
    pub blocks: u64,
    /// The namespace's UUID, from which its other names are made.
    pub uuid: [u8; 16],
    /// The namespace is write-protected.
    pub read_only: bool,
}

impl Identity {
    /// The identity of an image of `len` bytes.
    ///
    /// # Errors
    /// If it cannot be a namespace.
    pub fn new(serial: &str, len: u64, block_len: u32) -> Result<Self, IdentityError> {
        let block_shift = match block_len {
            512 => 9,
            4096 => 12,
            _ => return Err(IdentityError::BlockLen(block_len)),
        };
        let blocks = len >> block_shift;
        if blocks == 0 {
            return Err(IdentityError::Empty(len));
        }
        if blocks << block_shift != len {
            return Err(IdentityError::Ragged { len, block_len });
        }
        Ok(Self { serial: serial.to_owned(), block_shift, blocks, uuid: name_uuid(serial), read_only: false })
    }

    /// The same for a read-only image.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Bytes in `blocks` blocks.
    #[must_use]
    pub const fn bytes(&self, blocks: u64) -> u64 {
        blocks << self.block_shift
    }
}

/// A serial number derived from numbers that identify one image.
#[must_use]
pub fn serial_number(words: [u64; 2]) -> String {
    format!("BH{:016X}", hash(words.iter().flat_map(|word| word.to_le_bytes()), 0xcbf2_9ce4_8422_2325))
}

/// FNV-1a from an initial value: names are not secret, and only the image's owner could construct a collision.
fn hash(bytes: impl Iterator<Item = u8>, basis: u64) -> u64 {
    bytes.fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A UUID of version 8 (vendor-specific) derived from a name: the same name gives the same UUID, so that a guest
/// finds its disk again.
fn name_uuid(name: &str) -> [u8; 16] {
    let (high, low) = (hash(name.bytes(), 0xcbf2_9ce4_8422_2325), hash(name.bytes(), 0x6c62_272e_07bb_0142));
    let bits = u128::from(high) << 64 | u128::from(low);
    let versioned = bits & !(0xf << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    versioned.to_be_bytes()
}
