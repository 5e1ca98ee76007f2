// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The 64-byte header of an arm64 Linux `Image` (Linux, Documentation/arch/arm64/booting.rst).
//!
//! The file is untrusted: each field is checked before it places a byte in guest RAM. `linux-loader` reads this format
//! only when it is itself compiled for arm64, so on an x86-64 host it cannot serve; the header is small enough to read
//! here.

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 64;
/// "ARM\x64" at offset 56.
pub const MAGIC: u32 = 0x644d_5241;
/// RAM and image must start on this boundary.
pub const IMAGE_ALIGN: u64 = 0x20_0000;
/// `text_offset` that kernels older than 3.17 imply by a zero `image_size`.
const TEXT_OFFSET_OLD: u64 = 0x8_0000;
/// Flags bit 0: kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1;

/// The header as it lies in the file.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHeader {
    code0: U32,
    code1: U32,
    text_offset: U64,
    image_size: U64,
    flags: U64,
    reserved: [U64; 3],
    magic: U32,
    pe_offset: U32,
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

/// Why an image is not one that this machine can start.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    /// Shorter than the header.
    #[error("the kernel has {len} bytes, less than the 64-byte header of an arm64 Image")]
    Truncated {
        /// Its length in bytes.
        len: usize,
    },
    /// Some other file.
    #[error(
        "the kernel is no arm64 Image: its magic number at offset 56 is {found:#010x} and not 0x644d5241"
    )]
    Magic {
        /// What was found.
        found: u32,
    },
    /// The machine is little-endian only.
    #[error("the kernel is built big-endian; this machine starts little-endian kernels only")]
    BigEndian,
    /// The header asks for an offset that leaves RAM or is not sane.
    #[error(
        "the kernel's header has a text_offset of {text_offset:#x}, which is no multiple of 4 KiB below 2 MiB"
    )]
    TextOffset {
        /// As the header has it.
        text_offset: u64,
    },
}

/// Where an image goes and how much RAM it says that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Offset in bytes of the image's first byte from a 2 MiB boundary of RAM.
    pub text_offset: u64,
    /// Bytes of RAM the kernel needs from there, its BSS included, as far as the header tells; old kernels say 0.
    pub image_size: u64,
}

/// Reads the header out of the first bytes of an image.
///
/// # Errors
/// If the header is short, another file's, big-endian, or asks for an impossible offset.
pub fn parse(first: &[u8]) -> Result<ImageLayout, ImageError> {
    let (header, _) =
        RawHeader::read_from_prefix(first).map_err(|_| ImageError::Truncated { len: first.len() })?;
    if header.magic.get() != MAGIC {
        return Err(ImageError::Magic { found: header.magic.get() });
    }
    if header.flags.get() & FLAG_BIG_ENDIAN != 0 {
        return Err(ImageError::BigEndian);
    }
    let image_size = header.image_size.get();
    let text_offset = if image_size == 0 { TEXT_OFFSET_OLD } else { header.text_offset.get() };
    if text_offset >= IMAGE_ALIGN || !text_offset.is_multiple_of(0x1000) {
        return Err(ImageError::TextOffset { text_offset });
    }
    Ok(ImageLayout { text_offset, image_size })
}

#[cfg(test)]
mod tests;
