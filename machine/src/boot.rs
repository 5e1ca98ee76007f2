// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts kernel, device tree and initramfs into guest RAM (Linux arm64 boot protocol).
//!
//! From the bottom of RAM: kernel, the device tree on the next 2 MiB boundary, the initramfs behind it. Run by the
//! sealed coordinator before any vCPU exists, at each boot. Files are taken as they come: a kernel that is packed is
//! unpacked into RAM, which bounds it; a failure names the file, the size and the room.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

pub use error::{BootError, BootFile, Part};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::MachineConfig;
use super::fdt::{self, InitramfsRange};
use super::format::{self, Method};
use super::image::{self, IMAGE_ALIGN};
use super::layout::{RAM_BASE, RAM_LEN_MAX, VCPU_COUNT_MAX};
use super::unpack;

mod error;

/// Ten times a distribution kernel, unpacked: what is larger is not an Image.
pub const KERNEL_LEN_MAX: u64 = 512 << 20;

/// x0 and the program counter of the boot vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// Guest physical address of the kernel's first instruction.
    pub entry: u64,
    /// Guest physical address of the device tree.
    pub fdt: u64,
}

/// Loads all three; `memory` must hold [`MachineConfig::ram_len`] bytes at [`RAM_BASE`].
///
/// # Errors
/// If a file cannot be read, is no kernel that this machine starts, or does not fit.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &File,
    initramfs: Option<&File>,
    config: &MachineConfig,
) -> Result<BootInfo, BootError> {
    check_limits(config)?;
    let (entry, kernel_end) = load_kernel(memory, kernel, config)?;
    let fdt_start = align_up(kernel_end, IMAGE_ALIGN);
    let fdt_end = require_room(Part::DeviceTree, config, fdt_start, fdt::FDT_LEN_MAX)?;
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

/// Puts the kernel where its header asks for: the address of its first byte, and of the end of what it needs.
fn load_kernel(
    memory: &GuestMemoryMmap,
    file: &File,
    config: &MachineConfig,
) -> Result<(u64, u64), BootError> {
    const KERNEL: BootFile = BootFile::Kernel;
    let file_len = file_len(file, KERNEL)?;
    let packing = format::recognise(file_len, |offset| {
        let mut first = vec![0; format::FIRST_LEN];
        let count = read_up_to(&mut first, |part, done| file.read_at(part, offset + done))
            .map_err(|source| BootError::Read { file: KERNEL, source })?;
        first.truncate(count);
        Ok::<_, BootError>(first)
    })?;
    let fail = |source: io::Error| match (packing.method, source.raw_os_error()) {
        (Method::Plain, _) | (_, Some(_)) => BootError::Read { file: KERNEL, source },
        (method, None) => BootError::Unpack { method, why: source },
    };
    let mut image = unpack::open(file, &packing).map_err(fail)?;
    let mut header = [0; image::HEADER_LEN];
    let header_len = read_up_to(&mut header, |part, _| image.read(part)).map_err(fail)?;
    let header = header.get(..header_len).unwrap_or_default();
    let layout = image::parse(header)?;

    let entry = RAM_BASE + layout.text_offset;
    // What is known is refused before a byte is copied.
    let known_len = if packing.method == Method::Plain { file_len } else { header.len() as u64 };
    require_room(Part::File(KERNEL), config, entry, layout.image_size.max(known_len))?;
    let room = config.ram_len.saturating_sub(layout.text_offset);
    let len = copy(memory, entry, &mut header.chain(image), room.min(KERNEL_LEN_MAX), fail)?;
    let Some(len) = len else {
        return Err(if room > KERNEL_LEN_MAX {
            BootError::KernelTooLong
        } else {
            let (len, ram_len) = (room, config.ram_len);
            BootError::NoRoom { part: Part::File(KERNEL), len, whole: false, room, ram_len }
        });
    };
    if packing.method == Method::Plain && len < file_len {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    let end = require_room(Part::File(KERNEL), config, entry, layout.image_size.max(len))?;
    Ok((entry, end))
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
    file: &File,
    config: &MachineConfig,
    start: u64,
) -> Result<InitramfsRange, BootError> {
    const INITRAMFS: BootFile = BootFile::Initramfs;
    let fail = |source| BootError::Read { file: INITRAMFS, source };
    let len = file_len(file, INITRAMFS)?;
    let end = require_room(Part::File(INITRAMFS), config, start, len)?;
    let mut bytes = file;
    bytes.rewind().map_err(fail)?;
    if copy(memory, start, &mut bytes.take(len), len, fail)? != Some(len) {
        // It shrank meanwhile.
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(InitramfsRange { start, end })
}

/// Length of a file; pipes and directories have none and fail here.
fn file_len(mut file: &File, which: BootFile) -> Result<u64, BootError> {
    let len = file.seek(SeekFrom::End(0)).map_err(|source| BootError::Read { file: which, source })?;
    if len == 0 { Err(BootError::Empty(which)) } else { Ok(len) }
}

/// The end of `len` bytes at `start`, if that is inside RAM.
fn require_room(part: Part, config: &MachineConfig, start: u64, len: u64) -> Result<u64, BootError> {
    let ram_len = config.ram_len;
    let room = ram_len.saturating_sub(start - RAM_BASE);
    if len > room {
        return Err(BootError::NoRoom { part, len, whole: true, room, ram_len });
    }
    Ok(start + len)
}

/// Copies all of `bytes` to `gpa` and counts them; `None` if there are more than `room`.
fn copy(
    memory: &GuestMemoryMmap,
    gpa: u64,
    bytes: &mut impl Read,
    room: u64,
    fail: impl Fn(io::Error) -> BootError,
) -> Result<Option<u64>, BootError> {
    const CHUNK_LEN: usize = 1 << 20;
    let mut chunk = vec![0; CHUNK_LEN];
    let mut done = 0;
    loop {
        let count = read_up_to(&mut chunk, |part, _| bytes.read(part)).map_err(&fail)?;
        let part = chunk.get(..count).unwrap_or_default();
        if part.is_empty() {
            return Ok(Some(done));
        }
        if part.len() as u64 > room - done {
            return Ok(None);
        }
        memory
            .write_slice(part, GuestAddress(gpa + done))
            .map_err(|_| BootError::Memory { gpa: gpa + done })?;
        done += part.len() as u64;
    }
}

/// Fills `buffer` as far as there is anything; `read` is given the count of bytes read before.
fn read_up_to(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(rest, done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn align_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align) * align
}

#[cfg(test)]
mod tests;
