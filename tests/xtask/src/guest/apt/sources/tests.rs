// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both formats, with entries that count and entries that do not.

use super::{named, of};

fn newest(text: &str, codename: &str) -> String {
    of(&["stable".into(), "stable-backports".into()], text, codename)
}

#[test]
fn one_line_entry_of_the_release_is_taken_for_each_newer_suite() {
    let text = "# a comment that names bookworm\n\
                deb [signed-by=/keys/a.gpg] file:/mirror/debian bookworm main contrib\n\
                deb-src file:/mirror/debian bookworm main\n\
                deb file:/mirror/debian bookworm-updates main\n\
                deb file:/other/tool any main\n";
    let expected = "deb [signed-by=/keys/a.gpg] file:/mirror/debian stable main contrib\n\
                    deb [signed-by=/keys/a.gpg] file:/mirror/debian stable-backports main contrib\n";
    assert_eq!(newest(text, "bookworm"), expected);
}

#[test]
fn deb822_entry_of_the_release_keeps_its_mirror_and_keys() {
    let text = "Types: deb\nURIs: file:/mirror/debian\nSuites: bookworm bookworm-updates\n\
                Components: main\nSigned-By: /keys/a.gpg\n\n\
                Types: deb\nURIs: file:/mirror/debian-security\nSuites: bookworm-security\n\
                Components: main\n";
    let expected = "Types: deb\nURIs: file:/mirror/debian\nSuites: stable stable-backports\n\
                    Components: main\nSigned-By: /keys/a.gpg\n\n";
    assert_eq!(newest(text, "bookworm"), expected);
}

#[test]
fn sources_of_others_are_left_out() {
    assert_eq!(newest("deb file:/other/tool any main\n", "bookworm"), "");
    assert_eq!(newest("Types: deb\nSuites: any\nURIs: file:/other/\n", "bookworm"), "");
}

#[test]
fn release_is_debians_or_nothing() {
    assert_eq!(named("ID=debian\nVERSION_CODENAME=bookworm\n").unwrap(), "bookworm");
    assert_eq!(named("VERSION_CODENAME=\"trixie\"\nID=debian\n").unwrap(), "trixie");
    assert!(named("ID=ubuntu\nVERSION_CODENAME=noble\n").is_err());
    assert!(named("ID=debian\n").is_err());
}
