// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every known kind of file is recognised, and no contents of a file make that fail in another way.

use super::*;
use crate::unpack::samples;

fn seen(bytes: &[u8]) -> Result<Packing, FormatError> {
    recognise(bytes.len() as u64, |offset| {
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes[from..].iter().take(FIRST_LEN).copied().collect())
    })
}

fn starting(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 0x10000];
    for (offset, part) in parts {
        bytes[*offset..offset + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn image_is_found_plain_packed_and_in_zboot() {
    let image = starting(&[(0, b"MZ"), (56, b"ARM\x64")]);
    assert_eq!(seen(&image).unwrap(), Packing { range: 0..0x10000, method: Method::Plain });
    let gzip = samples::gzip(&image);
    let len = gzip.len() as u64;
    assert_eq!(seen(&gzip).unwrap(), Packing { range: 0..len, method: Method::Gzip });
    let zboot = samples::zboot("gzip", &gzip);
    assert_eq!(seen(&zboot).unwrap(), Packing { range: 0x1000..0x1000 + len, method: Method::Gzip });
    // The packed bytes count, not the header's name for them.
    let zstd = samples::zstd(&image);
    for packer in ["zstd", "zstd22", ""] {
        assert_eq!(seen(&samples::zboot(packer, &zstd)).unwrap().method, Method::Zstd);
    }
}

#[test]
fn zboot_that_cannot_be_unpacked_here_says_how_or_what_is_wrong() {
    let refused = |bytes: &[u8]| seen(bytes).unwrap_err();
    for (packer, command) in [
        ("xzkern", "tail -c +4097 FILE | head -c 6 | xz -dc > Image"),
        ("lz4", "| lz4 -dc >"),
        ("lzma", "| xz --format=lzma -dc >"),
        ("lzo", "| lzop -dc >"),
        ("\x1b[2J", "give the Image"),
    ] {
        let error = refused(&samples::zboot(packer, b"\xfd7zXZ\0"));
        assert!(error.to_string().contains("EFI zboot") && error.advice().contains(command), "{error:?}");
        assert!(!error.to_string().contains('\x1b'));
    }
    let mut cut = samples::zboot("gzip", &samples::gzip(&[0; 100_000]));
    cut.truncate(cut.len() - 1);
    assert!(refused(&cut).to_string().contains("cut short"));
    let mut beyond = cut.clone();
    beyond[8..16].fill(0xff);
    assert!(matches!(refused(&beyond), FormatError::CutShort { offset: 0xffff_ffff, .. }));
}

#[test]
fn other_files_are_named_with_the_way_to_an_image() {
    let elf = |machine: u8| starting(&[(0, b"\x7fELF\x02\x01\x01"), (18, &[machine, 0])]);
    let efi = |machine: u16| {
        starting(&[(0, b"MZ"), (0x3c, &[0x80]), (0x80, b"PE\0\0"), (0x84, &machine.to_le_bytes())])
    };
    for (bytes, what, advice) in [
        (starting(&[(0, b"MZ"), (0x1fe, b"\x55\xaa"), (0x202, b"HdrS")]), "x86", "arm64"),
        (starting(&[(56, b"RSC\x05")]), "RISC-V", "arm64"),
        (starting(&[(0, b"\xfd7zXZ\0")]), "xz", "xz -dc"),
        (starting(&[(0, b"\x04\x22\x4d\x18")]), "lz4", "lz4 -dc"),
        (starting(&[(0, b"\x02\x21\x4c\x18")]), "lz4", "lz4 -dc"),
        (starting(&[(0, b"BZh9")]), "bzip2", "bzip2 -dc"),
        (elf(183), "ELF", "objcopy -O binary"),
        (elf(62), "ELF file for x86-64", "arm64"),
        (efi(0xaa64), "EFI program", "-j .linux"),
        (efi(0x8664), "EFI program for x86-64", "arm64"),
        (starting(&[(0, b"MZ")]), "DOS or EFI", "arm64"),
        (starting(&[(0, b"070701")]), "initramfs", "as `initramfs`"),
        (vec![], "first bytes are []", "arm64 Linux Image"),
        (vec![0; 70_000], "first bytes are [00", "arm64 Linux Image"),
    ] {
        let error = seen(&bytes).unwrap_err();
        assert!(error.to_string().contains(what), "{error} does not say {what}");
        assert!(error.advice().contains(advice), "{} does not say {advice}", error.advice());
    }
}

#[test]
fn cut_files_of_every_kind_are_refused_without_a_panic() {
    let packed = samples::zboot("gzip", &samples::gzip(&[0; 1000]));
    for bytes in [packed, starting(&[(0, b"MZ"), (0x3c, &[0xff; 4])]), starting(&[(0, b"\x7fELF")])] {
        for len in 0..0x210 {
            assert!(seen(&bytes[..len]).is_err(), "{len}");
        }
    }
}
