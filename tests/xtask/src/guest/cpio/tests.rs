// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The archive against the format's description, byte by byte, and against a reader of our own.

use super::Archive;

/// Name, mode, device, content.
type Entry = (String, u32, (u32, u32), Vec<u8>);

/// Reads an archive back: every entry before the trailer.
fn read(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(&bytes[at..at + 6], b"070701", "entry at {at:#x} has no magic");
        let field = |index: usize| {
            let start = at + 6 + index * 8;
            u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
        };
        let (mode, len, name_len) = (field(1), field(6) as usize, field(11) as usize);
        let name_start = at + 110;
        assert_eq!(bytes[name_start + name_len - 1], 0, "a name ends with NUL");
        let name = String::from_utf8(bytes[name_start..name_start + name_len - 1].to_vec()).unwrap();
        let start = (name_start + name_len).next_multiple_of(4);
        if name == "TRAILER!!!" {
            return entries;
        }
        entries.push((name, mode, (field(9), field(10)), bytes[start..start + len].to_vec()));
        at = (start + len).next_multiple_of(4);
    }
}

#[test]
fn archive_of_every_kind_reads_back() {
    let mut archive = Archive::default();
    archive.folder("bin").unwrap();
    archive.character_device("dev/console", 5, 1).unwrap();
    archive.program("bin/odd", b"12345").unwrap();
    archive.link("bin/sh", "odd").unwrap();
    let entries = read(&archive.finish().unwrap());
    assert_eq!(
        entries,
        [
            ("bin".into(), 0o040_755, (0, 0), vec![]),
            ("dev/console".into(), 0o020_600, (5, 1), vec![]),
            ("bin/odd".into(), 0o100_755, (0, 0), b"12345".to_vec()),
            ("bin/sh".into(), 0o120_777, (0, 0), b"odd".to_vec()),
        ]
    );
}

#[test]
fn archive_without_entries_is_one_trailer_in_one_block() {
    let bytes = Archive::default().finish().unwrap();
    assert_eq!(bytes.len(), 512);
    assert_eq!(&bytes[110..121], b"TRAILER!!!\0");
    assert!(read(&bytes).is_empty());
}

#[test]
fn archive_of_equal_entries_has_equal_bytes() {
    let build = || {
        let mut archive = Archive::default();
        archive.program("init", b"#!/bin/sh\n").unwrap();
        archive.finish().unwrap()
    };
    assert_eq!(build(), build());
}
