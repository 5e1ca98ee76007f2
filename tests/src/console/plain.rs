// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A terminal's output as plain text: without control sequences, carriage returns and bells.
//!
//! Sequences may be split over reads, so the filter keeps its place. ECMA-48 section 5.4 (CSI), 5.6 (strings).

/// Where the filter is in a control sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// Within `ESC [ ...`, up to a final byte of 0x40-0x7e.
    Control,
    /// Within `ESC ] ...`, up to BEL or ESC.
    Command,
}

/// The filter.
#[derive(Debug, Default)]
pub struct Plain {
    place: Place,
    /// Bytes of a character whose end has not come yet.
    part: Vec<u8>,
}

impl Plain {
    /// The text in `bytes`.
    pub fn filter(&mut self, bytes: &[u8]) -> String {
        for byte in bytes {
            self.place = match (self.place, byte) {
                (Place::Text, 0x1b) => Place::Escape,
                (Place::Text, b'\r' | 0x07 | 0x00) => Place::Text,
                (Place::Text, _) => {
                    self.part.push(*byte);
                    Place::Text
                }
                (Place::Escape, b'[') => Place::Control,
                (Place::Escape, b']') => Place::Command,
                (Place::Escape, _) => Place::Text,
                (Place::Control, 0x40..=0x7e) => Place::Text,
                (Place::Control, _) => Place::Control,
                (Place::Command, 0x07) => Place::Text,
                (Place::Command, 0x1b) => Place::Escape,
                (Place::Command, _) => Place::Command,
            };
        }
        self.whole_characters()
    }

    /// Takes all whole characters; what is no UTF-8 becomes the replacement character.
    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = std::mem::take(&mut self.part);
        loop {
            let (valid_len, skip) = match std::str::from_utf8(&rest) {
                Ok(_) => (rest.len(), Some(0)),
                // No length: the bytes at the very end may be a character cut in two by the read.
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            let after = rest.split_off(valid_len);
            text.push_str(&String::from_utf8_lossy(&rest));
            match skip {
                None => {
                    self.part = after;
                    return text;
                }
                Some(0) => return text,
                Some(len) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.into_iter().skip(len).collect();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
