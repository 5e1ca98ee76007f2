// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packed kernels for tests, made by the packers' own libraries.

use std::io::Write;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// As `gzip` makes it.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

/// As `zstd` makes it.
pub fn zstd(plain: &[u8]) -> Vec<u8> {
    compress_to_vec(plain, CompressionLevel::Fastest)
}

/// An EFI zboot program around a packed kernel.
pub fn zboot(packer: &str, packed: &[u8]) -> Vec<u8> {
    const START: usize = 0x1000;
    let mut program = b"MZ\0\0zimg".to_vec();
    for word in [START, packed.len(), 0, 0] {
        program.extend(u32::try_from(word).unwrap().to_le_bytes());
    }
    program.extend(packer.bytes());
    program.resize(0x38, 0);
    program.extend(0x8182_23cd_u32.to_le_bytes());
    program.extend(0x40_u32.to_le_bytes());
    program.extend(b"PE\0\0\x64\xaa");
    program.resize(START, 0);
    program.extend(packed);
    program
}
