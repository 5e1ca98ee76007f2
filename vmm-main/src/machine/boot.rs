// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts kernel, device tree and initramfs into guest RAM (Linux arm64 boot protocol).
//!
//! From the bottom of RAM: kernel, the device tree on the next 2 MiB boundary, the initramfs behind it.
//! Run by the sealed coordinator, once, before any vCPU exists. Files are taken as they come: each length is
//! measured here and checked against RAM before a byte is copied, and a failure names the file and the size.

use super::MachineConfig;
use super::fdt::{self, InitramfsRange};
use super::image::{self, IMAGE_ALIGN, ImageError};
use super::layout::{RAM_BASE, RAM_LEN_MAX, VCPU_COUNT_MAX};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// x0 and the program counter of the boot vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// Guest physical address of the kernel's first instruction.
    pub entry: u64,
    /// Guest physical address of the device tree.
    pub fdt: u64,
}

/// Which of the two files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// The kernel image.
    Kernel,
    /// The initramfs.
    Initramfs,
}

impl std::fmt::Display for BootFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        })
    }
}

/// Why a guest could not be put into RAM.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file could not be read.
    #[error("cannot read the {file}: {source}")]
    Read {
        /// Which file.
        file: BootFile,
        /// The host's word.
        source: io::Error,
    },
    /// The kernel is not one.
    #[error("the kernel cannot be started: {0}")]
    Image(#[from] ImageError),
    /// An empty file.
    #[error("the {0} is empty")]
    Empty(BootFile),
    /// RAM is too small.
    #[error(
        "the {what} needs guest memory up to {needed} MiB above the start of RAM, but the guest has {ram} MiB; \
         raise --memory"
    )]
    RamTooSmall {
        /// What did not fit.
        what: &'static str,
        /// Needed, rounded up.
        needed: u64,
        /// Present, rounded down.
        ram: u64,
    },
    /// The machine's own limits.
    #[error("{what} {value:#x} is outside the machine's limits ({limit})")]
    Limits {
        /// Name of the setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit in words.
        limit: &'static str,
    },
    /// The device tree could not be written.
    #[error("cannot describe the machine to the guest: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// The device tree is too long, which only an enormous command line can do.
    #[error("the device tree takes {len} bytes, more than the boot protocol's 2 MiB; shorten --cmdline")]
    FdtTooLong {
        /// Its length in bytes.
        len: u64,
    },
    /// Guest RAM is not what the configuration says: ours to get right, never the user's fault.
    #[error("guest memory at {gpa:#x} could not be written while loading")]
    Memory {
        /// Guest physical address.
        gpa: u64,
    },
}

/// Loads all three; `memory` must hold [`MachineConfig::ram_len`] bytes at [`RAM_BASE`].
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &mut File,
    initramfs: Option<&mut File>,
    config: &MachineConfig,
) -> Result<BootInfo, BootError> {
    check_limits(config)?;
    let kernel_len = file_len(kernel, BootFile::Kernel)?;
    let mut header = Vec::with_capacity(image::HEADER_LEN);
    let mut head = (&*kernel).take(image::HEADER_LEN as u64);
    head.read_to_end(&mut header).map_err(|source| BootError::Read { file: BootFile::Kernel, source })?;
    let layout = image::parse(&header, kernel_len)?;

    let entry = RAM_BASE + layout.text_offset;
    let kernel_end = require_room("kernel", config, entry, layout.effective_len)?;
    copy(memory, entry, kernel, kernel_len, BootFile::Kernel)?;

    let fdt_start = align_up(kernel_end, IMAGE_ALIGN);
    let fdt_end = require_room("device tree", config, fdt_start, fdt::FDT_LEN_MAX)?;
    let initramfs = match initramfs {
        Some(file) => Some(load_initramfs(memory, file, config, fdt_end)?),
        None => None,
    };

    let blob = fdt::build(config, initramfs)?;
    let len = blob.len() as u64;
    if len > fdt::FDT_LEN_MAX {
        return Err(BootError::FdtTooLong { len });
    }
    memory.write_slice(&blob, GuestAddress(fdt_start)).map_err(|_| BootError::Memory { gpa: fdt_start })?;
    Ok(BootInfo { entry, fdt: fdt_start })
}

fn check_limits(config: &MachineConfig) -> Result<(), BootError> {
    if config.ram_len == 0 || config.ram_len > RAM_LEN_MAX || !config.ram_len.is_multiple_of(0x1000) {
        let limit = "a multiple of 4 KiB, at least one, at most 511 GiB";
        return Err(BootError::Limits { what: "memory size", value: config.ram_len, limit });
    }
    if config.vcpu_count == 0 || config.vcpu_count > VCPU_COUNT_MAX {
        let value = u64::from(config.vcpu_count);
        return Err(BootError::Limits { what: "vCPU count", value, limit: "1 to 64" });
    }
    Ok(())
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    file: &mut File,
    config: &MachineConfig,
    start: u64,
) -> Result<InitramfsRange, BootError> {
    let len = file_len(file, BootFile::Initramfs)?;
    let end = require_room("initramfs", config, start, len)?;
    copy(memory, start, file, len, BootFile::Initramfs)?;
    Ok(InitramfsRange { start, end })
}

/// Length of a file, which is rewound; pipes and directories have none and fail here.
fn file_len(file: &mut File, which: BootFile) -> Result<u64, BootError> {
    let fail = |source| BootError::Read { file: which, source };
    let len = file.seek(SeekFrom::End(0)).map_err(fail)?;
    file.rewind().map_err(fail)?;
    if len == 0 { Err(BootError::Empty(which)) } else { Ok(len) }
}

/// The end of `len` bytes at `start`, if that is inside RAM.
fn require_room(what: &'static str, config: &MachineConfig, start: u64, len: u64) -> Result<u64, BootError> {
    let mib_up = |bytes: u64| bytes.div_ceil(1 << 20);
    let offset = (start - RAM_BASE).saturating_add(len);
    if offset > config.ram_len {
        return Err(BootError::RamTooSmall { what, needed: mib_up(offset), ram: config.ram_len >> 20 });
    }
    Ok(RAM_BASE + offset)
}

/// Copies exactly `len` bytes from the file's start; a file that shrank meanwhile is a read error.
fn copy(
    memory: &GuestMemoryMmap,
    gpa: u64,
    file: &mut File,
    len: u64,
    which: BootFile,
) -> Result<(), BootError> {
    const CHUNK_LEN: usize = 1 << 20;
    let fail = |source| BootError::Read { file: which, source };
    file.rewind().map_err(fail)?;
    let mut chunk = vec![0; CHUNK_LEN];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
        let (part, _) = chunk.split_at_mut(want);
        file.read_exact(part).map_err(fail)?;
        memory
            .write_slice(part, GuestAddress(gpa + done))
            .map_err(|_| BootError::Memory { gpa: gpa + done })?;
        done += want as u64;
    }
    Ok(())
}

fn align_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align) * align
}

#[cfg(test)]
mod tests;
