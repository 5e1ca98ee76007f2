// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A flat image as an arm64 `Image`: the header of Linux' boot protocol, and the program 64 KiB behind it.
//!
//! The program finds its own address and wants it aligned to its largest page, so the header takes a whole one. Its
//! first word branches to the program; registers stay as the boot protocol has them. Source:
//! Documentation/arch/arm64/booting.

/// Where the program lies: the largest granule.
const PROGRAM_OFFSET: usize = 0x1_0000;
/// Behind the program it has its zeroed data and its stacks, which the file does not show.
const ROOM: u64 = 8 << 20;
/// `b` to the program: the offset counts words.
const BRANCH: u32 = 0x1400_0000 + 0x1_0000 / 4;
/// Little-endian, pages of 4 KiB, anywhere in memory.
const FLAGS: u64 = 0b1010;
const MAGIC: &[u8; 4] = b"ARM\x64";
/// Byte offset of the magic number.
const MAGIC_OFFSET: usize = 56;

/// The `Image` of a flat program.
pub fn from_flat(program: &[u8]) -> Vec<u8> {
    let mut image = Vec::with_capacity(PROGRAM_OFFSET + program.len());
    image.extend(BRANCH.to_le_bytes());
    image.extend(0u32.to_le_bytes());
    // text_offset, image_size, flags.
    image.extend(0u64.to_le_bytes());
    image.extend(((PROGRAM_OFFSET + program.len()) as u64 + ROOM).to_le_bytes());
    image.extend(FLAGS.to_le_bytes());
    image.resize(MAGIC_OFFSET, 0);
    image.extend(MAGIC);
    image.resize(PROGRAM_OFFSET, 0);
    image.extend(program);
    image
}

#[cfg(test)]
mod tests;
