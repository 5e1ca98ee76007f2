// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a guest could not be put into RAM, and what to do about it: in terms of the files that the user gave.

use std::io;

use thiserror::Error;

use super::KERNEL_LEN_MAX;
use crate::format::{FormatError, Method};
use crate::image::ImageError;
use crate::layout::RAM_LEN_MAX;
use crate::size;

/// Which of the two files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// The kernel image.
    Kernel,
    /// The first file system, unpacked by the kernel.
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

/// What is put into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Kernel or initramfs.
    File(BootFile),
    /// The description of the machine.
    DeviceTree,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::DeviceTree => f.write_str("device tree"),
        }
    }
}

/// Why a guest could not be put into RAM.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file could not be read.
    #[error("the {file} cannot be read: {source}")]
    Read {
        /// Which file.
        file: BootFile,
        /// The host's error.
        source: io::Error,
    },
    /// The kernel is none, or packed in a way that is not unpacked here.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The kernel cannot be unpacked.
    #[error("the kernel cannot be unpacked ({}): {why}", if *.method == Method::Zstd { "zstd" } else { "gzip" })]
    Unpack {
        /// How it is packed.
        method: Method,
        /// What is wrong with it.
        why: io::Error,
    },
    /// The kernel is none that this machine starts.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An empty file.
    #[error("the {0} is empty")]
    Empty(BootFile),
    /// RAM is too small.
    #[error(
        "the {part} takes {}{}, and the guest's {} of memory have room for {}{}",
        if *.whole { "" } else { "more than " },
        size::about(*.len),
        size::display(*.ram_len),
        size::about(*.room),
        if matches!(part, Part::File(BootFile::Kernel)) { "" } else { " behind the kernel" }
    )]
    NoRoom {
        /// What did not fit.
        part: Part,
        /// Bytes it takes.
        len: u64,
        /// Whether that is all: where a packed kernel would have ended is not known.
        whole: bool,
        /// Bytes there are for it.
        room: u64,
        /// Bytes of RAM.
        ram_len: u64,
    },
    /// A file that expands to more than any kernel has.
    #[error("the kernel is larger than {} when it is unpacked", size::display(KERNEL_LEN_MAX))]
    KernelTooLong,
    /// The machine's own limits.
    #[error("{what} {value:#x} is outside the machine's limits ({limit})")]
    Limits {
        /// Name of the setting.
        what: &'static str,
        /// The value that was given.
        value: u64,
        /// The limit in words.
        limit: &'static str,
    },
    /// The device tree could not be written.
    #[error("the machine cannot be described to the guest: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// The device tree is too long, which only an enormous command line can do.
    #[error("the device tree takes {}, more than the boot protocol's 2 MiB", size::about(*.len))]
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

impl BootError {
    /// The file it is about.
    pub const fn file(&self) -> Option<BootFile> {
        match self {
            Self::Read { file, .. } | Self::Empty(file) | Self::NoRoom { part: Part::File(file), .. } => {
                Some(*file)
            }
            Self::Format(_) | Self::Unpack { .. } | Self::Image(_) | Self::KernelTooLong => {
                Some(BootFile::Kernel)
            }
            Self::NoRoom { part: Part::DeviceTree, .. }
            | Self::Limits { .. }
            | Self::Fdt(_)
            | Self::FdtTooLong { .. }
            | Self::Memory { .. } => None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        let text = match self {
            Self::Format(error) => return error.advice(),
            Self::NoRoom { part, len, whole, room, ram_len } => {
                if !*whole {
                    return "give more memory, or take a smaller kernel".to_owned();
                }
                let enough =
                    ram_len.saturating_add(len.saturating_sub(*room)).checked_next_multiple_of(1 << 20);
                let smaller = match part {
                    Part::File(file) => format!(", or take a smaller {file}"),
                    Part::DeviceTree => String::new(),
                };
                return match enough.filter(|enough| *enough <= RAM_LEN_MAX) {
                    Some(enough) => format!("give at least {} of memory{smaller}", size::display(enough)),
                    None => {
                        "give a file that fits; this one asks for more than any guest can have".to_owned()
                    }
                };
            }
            Self::Unpack { .. } => "copy the file again, or unpack it by hand to see what is wrong with it",
            Self::Image(ImageError::BigEndian) => "give a little-endian arm64 Linux Image",
            Self::Image(_) | Self::KernelTooLong => {
                "give an arm64 Linux Image, as it is or packed with gzip, zstd or in EFI zboot"
            }
            Self::Empty(BootFile::Kernel) => "give an arm64 Linux Image; this file may be a truncated copy",
            Self::Empty(BootFile::Initramfs) => "give a cpio archive, or leave it out",
            Self::Read { .. } => "check that the file is whole, and was not changed meanwhile",
            Self::FdtTooLong { .. } => "give a shorter kernel command line",
            Self::Limits { .. } => "give a value within them",
            Self::Fdt(_) | Self::Memory { .. } => "report this as a bug",
        };
        text.to_owned()
    }
}
