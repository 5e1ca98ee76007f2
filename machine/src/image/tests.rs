// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn header(text_offset: u64, image_size: u64, flags: u64, magic: u32) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[56..60].copy_from_slice(&magic.to_le_bytes());
    bytes
}

#[test]
fn parse_modern_kernel_gives_its_size_with_bss() {
    let layout = parse(&header(0, 0x200_0000, 0xa, MAGIC)).unwrap();
    assert_eq!(layout, ImageLayout { text_offset: 0, image_size: 0x200_0000 });
}

#[test]
fn parse_zero_image_size_means_the_old_text_offset() {
    let layout = parse(&header(0, 0, 0, MAGIC)).unwrap();
    assert_eq!(layout, ImageLayout { text_offset: 0x8_0000, image_size: 0 });
}

#[test]
fn parse_bad_files_name_the_defect() {
    assert_eq!(parse(&[0; 10]), Err(ImageError::Truncated { len: 10 }));
    assert_eq!(parse(&header(0, 0x1000, 0, 0x1234)), Err(ImageError::Magic { found: 0x1234 }));
    assert_eq!(parse(&header(0, 0x1000, 1, MAGIC)), Err(ImageError::BigEndian));
    for text_offset in [0x20_0000, u64::MAX, 0x123] {
        let parsed = parse(&header(text_offset, 0x1000, 0, MAGIC));
        assert_eq!(parsed, Err(ImageError::TextOffset { text_offset }));
    }
}
