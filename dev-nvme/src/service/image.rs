// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The image as this process serves it: the disk's identity, and log lines about failures.
//!
//! The guest gets a media status only. The log names the file, the offset and the reason: a full file system, a limit
//! on file sizes, a truncated file. A process with only the descriptor does not know the name, so it is passed along.

use core::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, ErrorKind};

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;
use thiserror::Error;
use vm_memory::VolatileSlice;

use crate::identity::{Identity, IdentityError, serial_number};
use crate::media::{Image, Media};
use crate::service::log::IMAGE;

/// How a controller presents its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// 512 or 4096.
    pub block_len: u32,
    /// Up to 20 characters; `None`: it follows from the file, and so do the namespace's other names.
    pub serial: Option<String>,
    /// It is read-only.
    pub readonly: bool,
}

/// Why an image is not served.
#[derive(Debug, Error)]
pub enum ImageError {
    /// fstat or an ioctl failed.
    #[error("the image cannot be examined: {0}")]
    Host(#[from] Errno),
    /// It cannot be a namespace.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Makes a disk of an image that the log calls `name`.
///
/// # Errors
/// If it cannot be one.
pub fn present(
    file: File,
    name: String,
    presented: &Presented,
) -> Result<(Identity, Box<dyn Media>), ImageError> {
    let len = rustix::fs::seek(&file, SeekFrom::End(0))?;
    let serial = match &presented.serial {
        Some(serial) => serial.clone(),
        None => serial_of(&file)?,
    };
    let identity = Identity::new(&serial, len, presented.block_len)?.read_only(presented.readonly);
    if let Some(format) = format_of(&file) {
        IMAGE.warn(&format_args!(
            "image {name} begins like a {format} file and is served as raw blocks, so that the guest sees that \
             file and not the disk in it: convert it first (qemu-img convert -O raw)"
        ));
    }
    Ok((identity, Box::new(Reported { image: Image::new(file), name })))
}

/// Equal for the same file, whatever its name and slot, and different for other files.
fn serial_of(file: &File) -> Result<String, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => serial_number([0, stat.st_rdev]),
        // If the file system's id derives from its UUID, this survives a reboot of the host.
        _ => serial_number([rustix::fs::fstatvfs(file)?.f_fsid, stat.st_ino]),
    })
}

/// Image formats other than raw: offset and value of their magic.
const FORMATS: [(&str, usize, &[u8]); 5] = [
    ("qcow2", 0, b"QFI\xfb"),
    ("VMDK", 0, b"KDMV"),
    ("VHDX", 0, b"vhdxfile"),
    ("VHD", 0, b"conectix"),
    ("VDI", 64, b"\x7f\x10\xda\xbe"),
];

fn format_of(file: &File) -> Option<&'static str> {
    let mut head = [0; 512];
    let len = rustix::io::pread(file, &mut head, 0).ok()?;
    let head = head.get(..len)?;
    let found =
        FORMATS.iter().find(|(_, at, mark)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    found.map(|(format, ..)| *format)
}

/// An image whose failures are logged.
struct Reported {
    image: Image,
    name: String,
}

impl Reported {
    fn report<T>(&self, done: io::Result<T>, what: impl Display) -> io::Result<T> {
        done.inspect_err(|error| {
            IMAGE.warn(&format_args!("image {}: {what} failed: {}", self.name, Reason(error)));
        })
    }

    fn report_memory(
        &self,
        done: io::Result<()>,
        what: &'static str,
        offset: u64,
        memory: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        // EFAULT is about the client's memory, not the image.
        match done {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::FAULT) => Err(error),
            done => self.report(done, Piece::of_memory(what, offset, memory)),
        }
    }
}

/// An operation on a range of the image.
struct Piece(&'static str, u64, u64);

impl Piece {
    fn of_memory(what: &'static str, offset: u64, memory: &[VolatileSlice<'_>]) -> Self {
        Self(what, memory.iter().map(|slice| slice.len() as u64).sum(), offset)
    }
}

impl Display for Piece {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(what, len, offset) = self;
        write!(f, "{what} of {len} bytes at offset {offset}")
    }
}

/// The reason of a failure, with a hint if there is one.
struct Reason<'a>(&'a io::Error);

impl Display for Reason<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        match (error.kind(), Errno::from_io_error(error)) {
            (ErrorKind::UnexpectedEof, _) | (_, Some(Errno::NODATA)) => {
                f.write_str("the file is shorter than it was when the disk was made of it")
            }
            (_, Some(Errno::FBIG)) => {
                write!(f, "{error}: beyond the limit on file sizes (ulimit -f) or the file system's own")
            }
            _ => write!(f, "{error}"),
        }
    }
}

impl Media for Reported {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let piece = Piece("read", bytes.len() as u64, offset);
        self.report(self.image.read_at(offset, bytes), piece)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let piece = Piece("write", bytes.len() as u64, offset);
        self.report(self.image.write_at(offset, bytes), piece)
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.report_memory(self.image.read_to(offset, memory), "read", offset, memory)
    }

    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool> {
        // A worker repeats a failed attempt, and reports it.
        self.image.read_at_once(offset, memory)
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.report_memory(self.image.write_from(offset, memory), "write", offset, memory)
    }

    fn flush(&self) -> io::Result<()> {
        self.report(self.image.flush(), "flush")
    }

    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        self.report(self.image.zero(offset, len, release), Piece("zeroing", len, offset))
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        self.report(self.image.release(offset, len), Piece("deallocation", len, offset))
    }
}

#[cfg(test)]
mod tests;
