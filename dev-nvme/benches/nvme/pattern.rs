// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is accessed, where, in which order: one description that the program's client and the yardsticks follow.

use std::fs::File;
use std::path::Path;

/// Small enough to stay in the page cache.
pub const IMAGE_LEN: u64 = 256 << 20;

/// Memory for one turn's data: 32 accesses of the largest size.
pub const DATA_LEN: u64 = 32 << 20;

/// A pattern of accesses.
#[derive(Clone, Copy)]
pub struct Pattern {
    pub name: &'static str,
    pub write: bool,
    pub len: u64,
    /// How many are under way at once.
    pub depth: u32,
    pub random: bool,
    /// The image is put out of the page cache before.
    pub cold: bool,
}

const SMALL: Pattern = Pattern { name: "", write: false, len: 4096, depth: 1, random: true, cold: false };
const LARGE: Pattern = Pattern { len: 1 << 20, depth: 32, random: false, ..SMALL };

pub const PATTERNS: [Pattern; 8] = [
    Pattern { name: "4 KiB random read,  depth 1", ..SMALL },
    Pattern { name: "4 KiB random write, depth 1", write: true, ..SMALL },
    Pattern { name: "4 KiB random read,  depth 32", depth: 32, ..SMALL },
    Pattern { name: "4 KiB random write, depth 32", depth: 32, write: true, ..SMALL },
    Pattern { name: "4 KiB random read,  depth 32, cold", depth: 32, cold: true, ..SMALL },
    Pattern { name: "1 MiB sequential read,  depth 32", ..LARGE },
    Pattern { name: "1 MiB sequential write, depth 32", write: true, ..LARGE },
    Pattern { name: "1 MiB sequential read,  depth 32, cold", cold: true, ..LARGE },
];

impl Pattern {
    /// How many accesses at most: where the image is cold, every place once, so that it stays cold.
    pub fn count(self) -> u64 {
        if self.cold { (IMAGE_LEN / self.len).min(8192) } else { u64::MAX }
    }

    /// The offset of access `number`.
    pub fn offset(self, number: u64) -> u64 {
        let slots = IMAGE_LEN / self.len;
        // An odd factor: every place once before any place twice.
        let slot = if self.random { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { number };
        slot % slots * self.len
    }

    /// Puts the image into the state that a turn begins with.
    pub fn prepare(self, image: &Path) {
        if self.cold {
            let file = File::open(image).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }

    /// A rate in the unit that is usual for the size.
    pub fn show(self, rate: f64) -> String {
        match self.len {
            4096 => format!("{rate:.0} IOPS"),
            len => format!("{:.0} MB/s", rate * len as f64 / 1e6),
        }
    }
}
