// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Is this file what its name says? Checked before a file enters the cache and again when it is used.
//!
//! Sources: Linux Documentation/arch/arm64/booting.rst (Image), ELF-64 object file format (gABI), cpio newc.

use anyhow::{Result, bail, ensure};

/// Offset and value of the magic number in an arm64 `Image`.
const IMAGE_MAGIC_OFFSET: usize = 56;
const IMAGE_MAGIC: &[u8] = b"ARMd";

/// ELF constants: 64-bit little-endian, machine AArch64, program header of type PT_INTERP.
const ELF_IDENTITY: &[u8] = b"\x7fELF\x02\x01";
const ELF_MACHINE_AARCH64: u64 = 183;
const ELF_SEGMENT_INTERPRETER: u64 = 3;

/// Checks that `bytes` are an arm64 kernel image, perhaps in one of the packings that `bulkhead run` unpacks.
pub fn bootable_kernel(bytes: &[u8]) -> Result<()> {
    let packed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if packed || bytes.get(4..8) == Some(b"zimg") { Ok(()) } else { kernel_image(bytes) }
}

/// Checks that `bytes` are an uncompressed arm64 kernel image.
pub fn kernel_image(bytes: &[u8]) -> Result<()> {
    if bytes.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4) == Some(IMAGE_MAGIC) {
        return Ok(());
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        bail!("the kernel is compressed with gzip; give the unpacked Image");
    }
    if bytes.get(4..8) == Some(b"zimg") {
        bail!("the kernel is a self-unpacking EFI image (vmlinuz.efi); give the plain Image");
    }
    bail!("the kernel is not an arm64 Image: no magic \"ARMd\" at offset {IMAGE_MAGIC_OFFSET:#x}");
}

/// Checks that `bytes` are a program for arm64 Linux that needs no dynamic loader.
pub fn static_program(bytes: &[u8]) -> Result<()> {
    ensure!(bytes.starts_with(ELF_IDENTITY), "not a 64-bit little-endian ELF file");
    let machine = number(bytes, 18, 2)?;
    ensure!(machine == ELF_MACHINE_AARCH64, "made for machine {machine:#x}, not for AArch64 (0xb7)");
    let (table, entry_len, count) = (number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?);
    for index in 0..count {
        let offset = table.saturating_add(index * entry_len);
        if number(bytes, offset, 4)? == ELF_SEGMENT_INTERPRETER {
            bail!("it is linked dynamically: it would not start in an initramfs without libraries");
        }
    }
    Ok(())
}

/// Checks that `bytes` begin like something the kernel can unpack as an initramfs.
pub fn initramfs(bytes: &[u8]) -> Result<()> {
    let known: [&[u8]; 7] = [
        b"070701",
        b"070702",
        &[0x1f, 0x8b],
        b"\xfd7zXZ",
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0x02, 0x21, 0x4c, 0x18],
        b"BZh",
    ];
    if known.iter().any(|magic| bytes.starts_with(magic)) {
        return Ok(());
    }
    bail!("the initramfs is neither a cpio archive (newc) nor a compressed one");
}

/// A little-endian number of `len` bytes at `offset`.
fn number(bytes: &[u8], offset: u64, len: usize) -> Result<u64> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let Some(field) = bytes.get(start..start.saturating_add(len)) else {
        bail!("the ELF file is cut short at offset {offset:#x}");
    };
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
