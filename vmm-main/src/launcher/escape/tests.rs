// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every key after the prefix, and escapes cut in two at every place.

use super::*;

#[test]
fn escape_plain_bytes_pass_unchanged() {
    let all: Vec<u8> = (0..=255).filter(|byte| *byte != PREFIX).collect();
    assert_eq!(Escape::new(STOP).feed(&all), Parsed { bytes: all, ..Parsed::default() });
}

#[test]
fn escape_prefix_twice_sends_it_once() {
    assert_eq!(Escape::new(STOP).feed(b"a\x01\x01b").bytes, b"a\x01b");
    assert_eq!(Escape::new(STOP).feed(b"\x01\x01\x01\x01").bytes, b"\x01\x01");
}

#[test]
fn escape_x_leaves_and_drops_what_follows() {
    let parsed = Escape::new(STOP).feed(b"ls\x01xrm");
    assert_eq!(parsed, Parsed { bytes: b"ls".to_vec(), leave: true, help: false });
}

#[test]
fn escape_unknown_key_helps_and_is_not_sent() {
    for key in [b'h', b'?', b'q', 0, 0xff] {
        let parsed = Escape::new(STOP).feed(&[b'a', PREFIX, key, b'b']);
        assert_eq!(parsed, Parsed { bytes: b"ab".to_vec(), leave: false, help: true });
    }
}

#[test]
fn escape_cut_anywhere_gives_the_same() {
    let input = b"a\x01\x01\x01hb\x01xc";
    let whole = Escape::new(STOP).feed(input);
    for cut in 0..=input.len() {
        let mut escape = Escape::new(STOP);
        let mut first = escape.feed(&input[..cut]);
        if !first.leave {
            let second = escape.feed(&input[cut..]);
            first.bytes.extend(second.bytes);
            first.leave |= second.leave;
            first.help |= second.help;
        }
        assert_eq!(first, whole, "cut at {cut}");
    }
}

#[test]
fn escape_of_a_console_that_was_attached_leaves_it_and_does_not_stop_the_vm() {
    assert!(Escape::new(DETACH).feed(b"\x01D").leave);
    let parsed = Escape::new(DETACH).feed(b"\x01x");
    assert_eq!(parsed, Parsed { bytes: vec![], leave: false, help: true });
}
