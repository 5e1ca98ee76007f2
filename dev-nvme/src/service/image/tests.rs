// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names that follow from the file, formats that are not raw, and reasons that help.

use std::io::Write;
use std::path::Path;

use super::*;

fn shown(path: &Path, presented: &Presented) -> Identity {
    present(File::open(path).unwrap(), "test".to_owned(), presented).unwrap().0
}

#[test]
fn disk_keeps_its_names_wherever_its_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["one", "other"] {
        File::create(at(name)).unwrap().set_len(1 << 20).unwrap();
    }
    let presented = Presented { block_len: 512, serial: None, readonly: true };
    let (one, other) = (shown(&at("one"), &presented), shown(&at("other"), &presented));
    assert!(one.serial.starts_with("BH") && one.serial.len() == 18 && one.read_only, "{one:?}");
    assert_ne!((&one.serial, one.uuid), (&other.serial, other.uuid));
    std::fs::rename(at("one"), at("renamed")).unwrap();
    File::options().write(true).open(at("renamed")).unwrap().write_all(&[7; 4096]).unwrap();
    assert_eq!(shown(&at("renamed"), &presented), one);
    let named = Presented { serial: Some("MINE".to_owned()), ..presented };
    assert_eq!(shown(&at("renamed"), &named).serial, "MINE");
}

#[test]
fn image_of_another_format_is_known_by_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let formats = [
        (&b"QFI\xfb\0\0\0\x03"[..], Some("qcow2")),
        (b"KDMV\x01\0\0\0", Some("VMDK")),
        (b"vhdxfile", Some("VHDX")),
        (b"QFI\xfa", None),
        (b"\xeb\x63\x90", None),
        (b"", None),
    ];
    for (head, format) in formats {
        let path = folder.path().join("image");
        std::fs::write(&path, head).unwrap();
        assert_eq!(format_of(&File::open(&path).unwrap()), format, "{head:?}");
    }
    let mut head = [0; 512];
    head[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
    std::fs::write(folder.path().join("vdi"), head).unwrap();
    assert_eq!(format_of(&File::open(folder.path().join("vdi")).unwrap()), Some("VDI"));
}

#[test]
fn reason_names_what_can_be_done_about_it() {
    let said = |error: io::Error| Reason(&error).to_string();
    assert!(said(ErrorKind::UnexpectedEof.into()).contains("shorter than it was"));
    assert!(said(Errno::NODATA.into()).contains("shorter than it was"));
    assert!(said(Errno::FBIG.into()).contains("ulimit -f"));
    assert!(said(Errno::NOSPC.into()).contains("No space left"));
    assert_eq!(Piece("write", 512, 1 << 40).to_string(), "write of 512 bytes at offset 1099511627776");
}
