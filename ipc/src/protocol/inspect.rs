// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The reply to `Inspect`: a bounded list of named values.
//!
//! Filled by every model, read by the coordinator for `status` and by tests. Names are dotted paths (`cmdq.commands`),
//! values are numbers or short text. The bounds keep the reply below the longest frame, and leave room for a vCPU
//! process's values of a device in every slot of its bus.

use serde::{Deserialize, Serialize};

use crate::frame::BODY_LEN_MAX;

/// The most entries.
pub const ENTRIES_MAX: usize = 1024;

/// The most bytes that all entries take, encoded: the rest of a frame's body is for what is around them.
const LEN_MAX: usize = BODY_LEN_MAX as usize - 1024;

/// The most bytes of an encoded number, and of the numbers that say a text's length and a value's kind.
const NUMBER_LEN_MAX: usize = 12;

/// The longest name or text, in bytes.
pub const TEXT_LEN_MAX: usize = 96;

/// A value of an entry. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Never falls.
    Counter(u64),
    /// Rises and falls.
    Gauge(i64),
    /// A register or an address: shown in hexadecimal.
    Hex(u64),
    /// A state's name.
    Text(String),
}

/// One named value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// A dotted path, unique in its list.
    pub name: String,
    /// Its value now.
    pub value: Value,
}

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Inspect {
    entries: Vec<Entry>,
    #[serde(skip)]
    refused: u64,
    /// What the entries take, encoded, at most.
    #[serde(skip)]
    len: usize,
}

impl Inspect {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a counter.
    pub fn counter(&mut self, name: impl Into<String>, value: u64) {
        self.push(name.into(), Value::Counter(value));
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, name: impl Into<String>, value: i64) {
        self.push(name.into(), Value::Gauge(value));
    }

    /// Adds a number that reads best in hexadecimal.
    pub fn hex(&mut self, name: impl Into<String>, value: u64) {
        self.push(name.into(), Value::Hex(value));
    }

    /// Adds text, cut to [`TEXT_LEN_MAX`].
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.push(name.into(), Value::Text(cut(value.into())));
    }

    /// The entries, in the order they were added.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value called `name`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value)
    }

    /// How many entries were dropped because the list was full. A test of each process checks that there are none.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn push(&mut self, name: String, value: Value) {
        let entry = Entry { name: cut(name), value };
        let len = self.len.saturating_add(entry.len_max());
        if self.entries.len() < ENTRIES_MAX && len <= LEN_MAX {
            self.entries.push(entry);
            self.len = len;
        } else {
            self.refused = self.refused.saturating_add(1);
        }
    }
}

impl Entry {
    /// The most bytes that it takes, encoded.
    fn len_max(&self) -> usize {
        let text = if let Value::Text(text) = &self.value { text.len() } else { 0 };
        [text, 2 * NUMBER_LEN_MAX].into_iter().fold(self.name.len(), usize::saturating_add)
    }
}

/// Shortens `text` to the bound, at a character's boundary.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    text
}

impl TryFrom<Vec<Entry>> for Inspect {
    type Error = &'static str;

    fn try_from(entries: Vec<Entry>) -> Result<Self, Self::Error> {
        let long = |entry: &Entry| {
            let text = if let Value::Text(text) = &entry.value { text.len() } else { 0 };
            entry.name.len() > TEXT_LEN_MAX || text > TEXT_LEN_MAX
        };
        if entries.len() > ENTRIES_MAX {
            Err("an inspect list has too many entries")
        } else if entries.iter().any(long) {
            Err("an inspect entry is too long")
        } else {
            let len = entries.iter().map(Entry::len_max).fold(0, usize::saturating_add);
            Ok(Self { entries, refused: 0, len })
        }
    }
}

impl From<Inspect> for Vec<Entry> {
    fn from(inspect: Inspect) -> Self {
        inspect.entries
    }
}

#[cfg(test)]
mod tests;
