// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Text from outside, safe for a terminal: control characters and direction overrides are escaped.
//!
//! File names hold any byte but a slash, and log lines whatever a process wrote: a line end, a colour, or a direction
//! override in them must not look like a line of ours.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `bytes` as one line: controls and direction overrides become `\u{..}`, a tab a space; carriage returns go.
pub fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            shown.push(c);
        } else if c == '\t' {
            shown.push(' ');
        } else if c != '\r' {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// A path such that two different ones never look the same: nothing is dropped, and what is no UTF-8 is shown as bytes.
pub fn path(path: &Path) -> String {
    let mut shown = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if is_harmless(c) => shown.push(c),
                c => shown.extend(c.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn path_with_controls_is_shown_and_not_obeyed() {
        let shown = |bytes: &[u8]| path(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(shown("/srv/Grüße disk.img".as_bytes()), "/srv/Grüße disk.img");
        assert_eq!(shown(b"a\nbulkhead: all is well\x1b[2J"), "a\\nbulkhead: all is well\\u{1b}[2J");
        assert_eq!(shown(b"a\xffb\r\t\\n"), "a\\xffb\\r\\t\\\\n");
        assert_eq!(shown("a\u{202e}gmi".as_bytes()), "a\\u{202e}gmi");
    }

    #[test]
    fn line_is_one_line_whatever_is_in_it() {
        assert_eq!(line(b"\x1b[2J\tx\xff\r\n"), "\\u{1b}[2J x\u{fffd}\\n");
    }
}
