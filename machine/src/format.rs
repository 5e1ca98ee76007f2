// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a kernel file is, by its first bytes: as distributions ship it, or as people give it by mistake.
//!
//! An Image is taken as it is, and unpacked where it is packed with gzip or zstd, alone or in an EFI zboot program
//! (Linux, drivers/firmware/efi/libstub/zboot-header.S): Debian ships the Image, Ubuntu, Fedora and others these.
//! Everything else is named, with how to get an Image out of it.

use std::ops::Range;

use thiserror::Error;

use super::image;
use crate::size;

/// Bytes of the file that are looked at.
pub const FIRST_LEN: usize = 4096;

/// Where the Image is in the file, and how it is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// How they are packed.
    pub method: Method,
}

/// How an Image is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A file out of which no Image can be taken here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// A file of a known kind.
    #[error("the kernel is {what}")]
    Known {
        /// The kind of file, as the end of a sentence.
        what: String,
        /// What to do.
        advice: String,
    },
    /// A file of an unknown kind.
    #[error("the kernel is no arm64 Image, and of no other known kind: its first bytes are {first:02x?}")]
    Unknown {
        /// The file's first bytes.
        first: Vec<u8>,
    },
    /// A zboot program whose header points outside of it.
    #[error(
        "the kernel is an EFI zboot program that is cut short: {} of packed kernel at {offset:#x} do not end in a file of {}",
        size::about(*.len),
        size::about(*.file_len)
    )]
    CutShort {
        /// Where the packed kernel begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The file's length.
        file_len: u64,
    },
}

impl FormatError {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Known { advice, .. } => advice.clone(),
            Self::Unknown { .. } => {
                "give an arm64 Linux Image, as it is or packed with gzip, zstd or in EFI zboot".to_owned()
            }
            Self::CutShort { .. } => "copy the file again, whole".to_owned(),
        }
    }
}

/// Finds the Image in a file of `file_len` bytes; `bytes` reads up to [`FIRST_LEN`] of them at an offset.
///
/// # Errors
/// The error of `bytes`, or what the file is instead.
pub fn recognise<E: From<FormatError>>(
    file_len: u64,
    mut bytes: impl FnMut(u64) -> Result<Vec<u8>, E>,
) -> Result<Packing, E> {
    let first = bytes(0)?;
    if let Some(method) = method(&first) {
        return Ok(Packing { range: 0..file_len, method });
    }
    let Some(zboot) = Zboot::of(&first) else { return Err(other(&first).into()) };
    let (offset, len) = (zboot.offset, zboot.len);
    let range = offset..offset + len;
    if range.end > file_len {
        return Err(FormatError::CutShort { offset, len, file_len }.into());
    }
    match method(&bytes(offset)?) {
        Some(method) => Ok(Packing { range, method }),
        None => Err(zboot.packed_otherwise().into()),
    }
}

fn method(first: &[u8]) -> Option<Method> {
    let at = |offset: usize, magic: &[u8]| first.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    match () {
        () if at(56, &image::MAGIC.to_le_bytes()) => Some(Method::Plain),
        () if at(0, &[0x1f, 0x8b]) => Some(Method::Gzip),
        () if at(0, &[0x28, 0xb5, 0x2f, 0xfd]) => Some(Method::Zstd),
        () => None,
    }
}

/// The header of an EFI program that unpacks a kernel and starts it.
struct Zboot {
    offset: u64,
    len: u64,
    /// How the kernel is packed, in the words of its build: `gzip`, `xzkern`, `zstd22`.
    packer: String,
}

impl Zboot {
    fn of(first: &[u8]) -> Option<Self> {
        if !first.starts_with(b"MZ\0\0zimg") {
            return None;
        }
        let word = |at: usize| Some(u64::from(u32::from_le_bytes(first.get(at..at + 4)?.try_into().ok()?)));
        let name = first.get(24..56)?.split(|byte| *byte == 0).next().unwrap_or_default();
        let packer = name.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_alphanumeric).collect();
        Some(Self { offset: word(8)?, len: word(12)?, packer })
    }

    fn packed_otherwise(&self) -> FormatError {
        let what = format!("an EFI zboot program with a kernel in it that is packed with {}", self.packer);
        let command = match self.packer.as_str() {
            "xzkern" | "xz" => "xz -dc",
            "lzma" => "xz --format=lzma -dc",
            "lz4" => "lz4 -dc",
            "lzo" => "lzop -dc",
            _ => return FormatError::Known { what, advice: "give the Image of the same build".to_owned() },
        };
        let advice = format!(
            "unpack it first: tail -c +{} FILE | head -c {} | {command} > Image",
            self.offset + 1,
            self.len
        );
        FormatError::Known { what, advice }
    }
}

/// Files by the bytes at an offset: what they are, and what to do.
const KNOWN: [(usize, &[u8], &str, &str); 17] = [
    (0x202, b"HdrS", "an x86 one (bzImage)", ARM64),
    (56, b"RSC\x05", "a RISC-V one", ARM64),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first: xz -dc FILE > Image"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: lz4 -dc FILE > Image"),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4", "unpack it first: lz4 -dc FILE > Image"),
    (0, b"\x5d\0\0", "compressed with lzma", "unpack it first: xz --format=lzma -dc FILE > Image"),
    (0, b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", "unpack it first: lzop -dc FILE > Image"),
    (0, b"BZh", "compressed with bzip2", "unpack it first: bzip2 -dc FILE > Image"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first: unzip FILE"),
    (0, b"!<arch>\n", "an archive or a Debian package", "unpack it first: dpkg-deb -x FILE FOLDER"),
    (0, b"\xed\xab\xee\xdb", "an RPM package", "unpack it first: rpm2cpio FILE | cpio -id"),
    (0, b"ANDROID!", "an Android boot image", "unpack it first: unpack_bootimg --boot_img FILE"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image (uImage)", "unpack it first: dumpimage -T kernel -o Image FILE"),
    (
        0,
        b"\xd0\x0d\xfe\xed",
        "a device tree or a U-Boot FIT image",
        "take the kernel out of a FIT: dumpimage -p 0 -o Image FILE",
    ),
    (0, b"07070", "an initramfs (cpio)", "give it as `initramfs`, and an arm64 Linux Image as `kernel`"),
    (
        0,
        b"QFI\xfb",
        "a qcow2 disk image",
        "give an arm64 Linux Image; disks are raw images, given as devices",
    ),
    (0, b"#!", "a script", ARM64),
];

const ARM64: &str = "the guest's CPUs are arm64: give an arm64 Linux Image";

/// What a file without an Image is.
fn other(first: &[u8]) -> FormatError {
    let known =
        |what: &str, advice: &str| FormatError::Known { what: what.to_owned(), advice: advice.to_owned() };
    let found = KNOWN
        .iter()
        .find(|(offset, magic, ..)| first.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, what, advice)) = found {
        return known(what, advice);
    }
    if first.starts_with(b"\x7fELF") {
        return match half_word(first, 18) {
            Some(183) => known(
                "an ELF file (vmlinux)",
                "make an Image of it: aarch64-linux-gnu-objcopy -O binary FILE Image",
            ),
            machine => known(&format!("an ELF file for {}", elf_machine(machine)), ARM64),
        };
    }
    if first.starts_with(b"MZ") {
        return efi_program(first).unwrap_or_else(|| known("a DOS or EFI program", ARM64));
    }
    FormatError::Unknown { first: first.iter().take(8).copied().collect() }
}

/// What an EFI program without a zboot header is, if it is one.
fn efi_program(first: &[u8]) -> Option<FormatError> {
    let header = usize::try_from(u32::from_le_bytes(first.get(0x3c..0x40)?.try_into().ok()?)).ok()?;
    if !first.get(header..)?.starts_with(b"PE\0\0") {
        return None;
    }
    let arm64 =
        "of a unified kernel image (UKI) take the kernel first: objcopy -O binary -j .linux FILE Image";
    let (what, advice) = match half_word(first, header + 4)? {
        0xaa64 => ("an EFI program without an Image in front".to_owned(), arm64),
        0x8664 => ("an EFI program for x86-64".to_owned(), ARM64),
        0x5064 => ("an EFI program for RISC-V".to_owned(), ARM64),
        0x6264 => ("an EFI program for LoongArch".to_owned(), ARM64),
        machine => (format!("an EFI program for machine {machine:#06x}"), ARM64),
    };
    Some(FormatError::Known { what, advice: advice.to_owned() })
}

fn elf_machine(machine: Option<u16>) -> String {
    match machine {
        Some(62) => "x86-64".to_owned(),
        Some(3) => "x86".to_owned(),
        Some(40) => "32-bit Arm".to_owned(),
        Some(243) => "RISC-V".to_owned(),
        Some(258) => "LoongArch".to_owned(),
        Some(number) => format!("machine {number}"),
        None => "no known machine".to_owned(),
    }
}

fn half_word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
