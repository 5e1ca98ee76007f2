// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines that are taken, lines that are not, and an image that is no file system.

use super::{CHECKERS, find, sectors_read, seen_from_outside, sum};

#[test]
fn sum_is_the_first_word_and_nothing_shorter() {
    let line = "abcb3e50d8d49639b82209fdff581d79  -";
    assert_eq!(sum(line).unwrap(), "abcb3e50d8d49639b82209fdff581d79");
    for bad in ["", "abcb3e50  -", "md5sum: can't open '/mnt/data'", "zbcb3e50d8d49639b82209fdff581d79"] {
        assert!(sum(bad).is_err(), "{bad}");
    }
}

#[test]
fn sectors_read_are_the_third_number() {
    assert_eq!(sectors_read("      17       31      378       86      110").unwrap(), 378);
    assert!(sectors_read("17 31").is_err());
    assert!(sectors_read("17 31 many").is_err());
}

#[test]
fn image_without_a_file_system_is_not_clean() {
    if CHECKERS.iter().any(|program| find(program).is_none()) {
        println!("{}{}", crate::SKIPPED, super::not_seen());
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    assert!(seen_from_outside(image.path()).unwrap_err().to_string().contains("not clean"));
}
