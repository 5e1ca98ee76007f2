// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process tells about itself when asked: a bounded list of named values.
//!
//! Filled by every model, read by the coordinator for `status` and by tests. Names are dotted paths
//! (`cmdq.commands`), values are numbers or short text. The bounds keep the reply below the frame's cap.

use serde::{Deserialize, Serialize};

/// The most entries; with the longest name and text each, they fit in a frame's body.
pub const ENTRIES_MAX: usize = 256;

/// The longest name or text, in bytes.
pub const TEXT_LEN_MAX: usize = 96;

/// A value of an entry. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Only ever rises.
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

    /// How many entries found no room. A process whose list is full is a bug of ours that its test notices.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn push(&mut self, name: String, value: Value) {
        if self.entries.len() < ENTRIES_MAX {
            self.entries.push(Entry { name: cut(name), value });
        } else {
            self.refused = self.refused.saturating_add(1);
        }
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
            Ok(Self { entries, refused: 0 })
        }
    }
}

impl From<Inspect> for Vec<Entry> {
    fn from(inspect: Inspect) -> Self {
        inspect.entries
    }
}
