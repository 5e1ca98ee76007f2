// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Control sequences whole and split, and bytes that are no text.

use super::Plain;

fn filtered(reads: &[&[u8]]) -> String {
    let mut plain = Plain::default();
    reads.iter().map(|read| plain.filter(read)).collect()
}

#[test]
fn text_passes_without_carriage_returns() {
    assert_eq!(filtered(&[b"one\r\ntwo\x07\n"]), "one\ntwo\n");
}

#[test]
fn control_sequences_are_taken_out() {
    assert_eq!(filtered(&[b"\x1b[6n\x1b[1;31mred\x1b[0m \x1b]0;title\x07end\x1b7"]), "red end");
}

#[test]
fn control_sequence_split_over_reads_is_taken_out() {
    assert_eq!(filtered(&[b"a\x1b", b"[", b"31", b"mb"]), "ab");
}

#[test]
fn character_split_over_reads_arrives_whole() {
    assert_eq!(filtered(&[b"x\xe2\x82", b"\xacy"]), "x\u{20ac}y");
}

#[test]
fn bytes_that_are_no_text_become_replacements() {
    assert_eq!(filtered(&[b"a\xffb\xc3\x28"]), "a\u{fffd}b\u{fffd}(");
}
