// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::from_flat;

#[test]
fn image_has_the_boot_header_and_branches_to_the_program() {
    let image = from_flat(b"program");
    assert_eq!(&image[56..60], b"ARM\x64");
    let branch = u32::from_le_bytes(image[..4].try_into().unwrap());
    assert_eq!(branch >> 26, 0b000101, "B");
    let target = (branch & 0x03ff_ffff) as usize * 4;
    assert_eq!(&image[target..], b"program");
    let size = u64::from_le_bytes(image[16..24].try_into().unwrap());
    assert!(size > image.len() as u64, "there is room for what the file does not hold");
}
