// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A writer for cpio archives in the "newc" format, the one the kernel unpacks as an initramfs.
//!
//! The bytes depend on the entries alone: owner is root, times are zero, inodes count up from 1. Format:
//! Linux Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context, Result};

/// File type bits of the mode field, as in `stat`.
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entry_count: u32,
}

impl Archive {
    /// Adds a folder, readable by all.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, TYPE_FOLDER | 0o755, (0, 0), &[])
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, TYPE_FILE | 0o755, (0, 0), content)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.entry(name, TYPE_LINK | 0o777, (0, 0), to.as_bytes())
    }

    /// Adds a character device node.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, TYPE_CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives its bytes, padded to cpio's customary block of 512.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.pad_to(512);
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.entry_count += 1;
        let len =
            u32::try_from(content.len()).with_context(|| format!("{name} is too long for a cpio archive"))?;
        let name_len = u32::try_from(name.len() + 1).context("a file name is too long for a cpio archive")?;
        // inode, mode, uid, gid, links, mtime, size, device of the file (2), device it names (2), name, checksum
        let fields = [self.entry_count, mode, 0, 0, 1, 0, len, 0, 0, device.0, device.1, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad_to(4);
        self.bytes.extend_from_slice(content);
        self.pad_to(4);
        Ok(())
    }

    fn pad_to(&mut self, unit: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(unit), 0);
    }
}

#[cfg(test)]
mod tests;
