// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bounce buffer for the data of one command: grown once, kept, and page-aligned.
//!
//! Aligned because processors copy strings of bytes several times more slowly to some offsets in a page; the offset at
//! which the C library's allocator puts a large block is one of them.

const ALIGN: usize = 4096;

/// Room for the data of one command.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// The first `len` bytes, with old contents or zeros.
    pub fn first(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len.saturating_add(ALIGN) {
            self.bytes.resize(len.saturating_add(ALIGN), 0);
        }
        let skip = self.bytes.as_ptr().align_offset(ALIGN);
        let aligned = self.bytes.get_mut(skip..).unwrap_or_default();
        aligned.get_mut(..len).unwrap_or_default()
    }
}
