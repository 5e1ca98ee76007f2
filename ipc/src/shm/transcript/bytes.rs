// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes into and out of shared words.

use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::Relaxed;

/// Copies bytes into the words, from this byte on.
pub fn copy_in(words: &[AtomicU64], start: usize, bytes: &[u8]) {
    let head_len = start.wrapping_neg() % 8;
    let (head, rest) = bytes.split_at(head_len.min(bytes.len()));
    put(words, start, head);
    let first = (start + head.len()) / 8;
    let chunks = rest.chunks_exact(8);
    let tail = chunks.remainder();
    for (word, chunk) in words.get(first..).unwrap_or_default().iter().zip(chunks) {
        word.store(chunk.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk)), Relaxed);
    }
    put(words, start + bytes.len() - tail.len(), tail);
}

/// The same of bytes within one word.
fn put(words: &[AtomicU64], start: usize, bytes: &[u8]) {
    if let Some(word) = words.get(start / 8).filter(|_| !bytes.is_empty()) {
        let mut value = word.load(Relaxed).to_le_bytes();
        value.iter_mut().skip(start % 8).zip(bytes).for_each(|(to, from)| *to = *from);
        word.store(u64::from_le_bytes(value), Relaxed);
    }
}

/// Copies bytes out of the words, from this byte on.
pub fn copy_out(words: &[AtomicU64], start: usize, into: &mut [u8]) {
    let head_len = (start.wrapping_neg() % 8).min(into.len());
    let (head, rest) = into.split_at_mut(head_len);
    if !head.is_empty() {
        let value = words.get(start / 8).map_or(0, |word| word.load(Relaxed)).to_le_bytes();
        head.iter_mut().zip(value.iter().skip(start % 8)).for_each(|(to, from)| *to = *from);
    }
    let first = (start + head_len) / 8;
    for (word, chunk) in words.get(first..).unwrap_or_default().iter().zip(rest.chunks_mut(8)) {
        let value = word.load(Relaxed).to_le_bytes();
        chunk.iter_mut().zip(value).for_each(|(to, from)| *to = from);
    }
}
