// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each check takes the smallest good file, and refuses it once one thing about it is wrong.

use super::{bootable_kernel, initramfs, kernel_image, static_program};

fn image() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[56..60].copy_from_slice(b"ARMd");
    bytes
}

/// An ELF header with one program header of the given type right behind it.
fn program(machine: u8, segment: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = machine;
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64] = segment;
    bytes
}

#[test]
fn image_with_magic_is_accepted() {
    kernel_image(&image()).unwrap();
}

#[test]
fn image_cut_before_its_magic_is_refused() {
    assert!(kernel_image(&image()[..58]).is_err());
    assert!(kernel_image(&[]).is_err());
}

#[test]
fn image_in_another_packing_is_refused_by_name() {
    assert!(kernel_image(&[0x1f, 0x8b, 8, 0]).unwrap_err().to_string().contains("gzip"));
    assert!(kernel_image(b"MZ\0\0zimg").unwrap_err().to_string().contains("EFI"));
}

#[test]
fn kernel_that_the_product_unpacks_is_one_to_boot() {
    for packed in [&[0x1f, 0x8b, 8, 0][..], b"MZ\0\0zimg", &[0x28, 0xb5, 0x2f, 0xfd, 0], &image()] {
        bootable_kernel(packed).unwrap();
    }
    for other in [&b"\xfd7zXZ"[..], b"", b"\x7fELF\x02\x01"] {
        assert!(bootable_kernel(other).is_err(), "{other:?}");
    }
}

#[test]
fn program_static_for_aarch64_is_accepted() {
    static_program(&program(183, 1)).unwrap();
}

#[test]
fn program_for_another_machine_is_refused() {
    assert!(static_program(&program(62, 1)).unwrap_err().to_string().contains("0x3e"));
}

#[test]
fn program_with_interpreter_is_refused() {
    assert!(static_program(&program(183, 3)).unwrap_err().to_string().contains("dynamically"));
}

#[test]
fn program_with_table_outside_the_file_is_refused() {
    let mut bytes = program(183, 1);
    bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(static_program(&bytes).unwrap_err().to_string().contains("cut short"));
}

#[test]
fn initramfs_is_known_by_its_first_bytes() {
    initramfs(b"070701000").unwrap();
    initramfs(&[0x28, 0xb5, 0x2f, 0xfd, 0]).unwrap();
    assert!(initramfs(b"").is_err());
    assert!(initramfs(b"0707").is_err());
    assert!(initramfs(&image()).is_err());
}
