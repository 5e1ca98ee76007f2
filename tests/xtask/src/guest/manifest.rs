// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the cache holds: for each file its package, version, length and checksum.
//!
//! The manifest is written last and read first: a file that does not match its record is fetched again, so a
//! torn or edited cache heals itself.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use ::tests::command::write_whole;

const FILE: &str = "manifest.json";

/// The cache's table of contents.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    files: Vec<FileRecord>,
}

/// One fetched file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the cache.
    pub name: String,
    /// The package that it came from, and that package's version.
    pub package: String,
    pub version: String,
    /// Its length in bytes, and its CRC-32.
    len: u64,
    crc: u32,
}

impl FileRecord {
    /// Describes `content`.
    pub fn new(name: &str, package: &str, version: &str, content: &[u8]) -> Self {
        Self {
            name: name.into(),
            package: package.into(),
            version: version.into(),
            len: content.len() as u64,
            crc: crc32fast::hash(content),
        }
    }

    fn matches(&self, content: &[u8]) -> bool {
        self.len == content.len() as u64 && self.crc == crc32fast::hash(content)
    }
}

impl Manifest {
    /// Reads the manifest of `cache`; one that is missing or damaged counts as empty.
    pub fn load(cache: &Path) -> Self {
        let text = fs::read(cache.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes the manifest.
    pub fn save(&self, cache: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("the manifest as JSON")?;
        write_whole(&cache.join(FILE), &text)
    }

    /// True if `cache` holds the file `name` just as recorded.
    pub fn holds(&self, cache: &Path, name: &str) -> bool {
        self.files
            .iter()
            .find(|file| file.name == name)
            .is_some_and(|file| fs::read(cache.join(name)).is_ok_and(|content| file.matches(&content)))
    }

    /// The names of the files in `folder`, in order.
    pub fn names_in(&self, folder: &str) -> Vec<&str> {
        let start = format!("{folder}/");
        let mut names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        names.retain(|name| name.starts_with(&start));
        names.sort_unstable();
        names
    }

    /// Takes out the records of the files in `folder`.
    pub fn forget_folder(&mut self, folder: &str) {
        let start = format!("{folder}/");
        self.files.retain(|file| !file.name.starts_with(&start));
    }

    /// Adds a record, or replaces the one of the same name.
    pub fn put(&mut self, record: FileRecord) {
        self.files.retain(|file| file.name != record.name);
        self.files.push(record);
    }
}

#[cfg(test)]
mod tests;
