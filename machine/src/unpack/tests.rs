// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes out is what went in, up to the end that the file has; what is damaged is an error, whatever it asks for.

use super::*;

fn unpacked(bytes: &[u8], method: Method) -> io::Result<Vec<u8>> {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    let mut all = Vec::new();
    let packing = Packing { range: 0..bytes.len() as u64, method };
    open(&file, &packing)?.take(1 << 24).read_to_end(&mut all)?;
    Ok(all)
}

#[test]
fn unpacked_bytes_are_those_that_were_packed_and_what_follows_is_left() {
    let plain: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    assert!(unpacked(&plain, Method::Plain).unwrap() == plain);
    for (mut packed, method) in [(samples::gzip(&plain), Method::Gzip), (samples::zstd(&plain), Method::Zstd)]
    {
        // A zboot program, or a signature, has bytes behind.
        packed.extend([7; 100]);
        assert!(unpacked(&packed, method).unwrap() == plain, "{method:?}");
    }
}

#[test]
fn zstd_window_beyond_the_limit_is_refused_before_memory_is_taken_for_it() {
    // Frame header: no single segment, window descriptor of exponent 31 (2 TiB), one raw block of a byte, the last one.
    let head = |window: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, window][..], &[9, 0, 0, b'x']].concat();
    let refused = unpacked(&head(0xf8), Method::Zstd).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(refused.to_string().contains("window"), "{refused}");
    // What `zstd --ultra -22` writes for a stream: 128 MiB.
    assert_eq!(unpacked(&head(0x88), Method::Zstd).unwrap(), b"x");
}

#[test]
fn zstd_checksum_is_compared() {
    // The same with a checksum behind its one block: the low half of XXH64 of its content.
    let frame =
        |sum: u32| [&[0x28, 0xb5, 0x2f, 0xfd, 4, 0x00, 9, 0, 0, b'x'][..], &sum.to_le_bytes()].concat();
    let refused = unpacked(&frame(0x1234), Method::Zstd).unwrap_err();
    assert!(refused.to_string().contains("checksum"), "{refused}");
    assert_eq!(
        unpacked(&frame(0x8304_1123), Method::Zstd).map_err(|error| error.to_string()),
        Ok(b"x".to_vec())
    );
}
