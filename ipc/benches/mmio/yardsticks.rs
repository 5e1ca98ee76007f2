// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The least that a round trip between two CPUs can cost: one cache line there and one back, and the same with a
//! sleep and a wake on each side.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::thread::futex;

use super::peers;

/// Alone on its pair of cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Apart<T>(T);

/// What is sent to say that it is over.
const STOP: u64 = u64::MAX;

#[derive(Default)]
struct Lines {
    there: Apart<AtomicU64>,
    back: Apart<AtomicU64>,
}

/// Two threads that hand a number to and fro.
pub(crate) struct CacheLine {
    lines: Arc<Lines>,
    other: Option<JoinHandle<()>>,
}

impl CacheLine {
    pub(crate) fn start(far: usize) -> Self {
        let lines: Arc<Lines> = Arc::default();
        let theirs = Arc::clone(&lines);
        let other = std::thread::spawn(move || {
            let _ = peers::pin(far);
            let mut next = 1;
            while theirs.there.0.load(Relaxed) != STOP {
                if theirs.there.0.load(Acquire) == next {
                    theirs.back.0.store(next, Release);
                    next += 1;
                }
                core::hint::spin_loop();
            }
        });
        Self { lines, other: Some(other) }
    }

    pub(crate) fn trip(&self) {
        let next = self.lines.back.0.load(Relaxed) + 1;
        self.lines.there.0.store(next, Release);
        while self.lines.back.0.load(Acquire) != next {
            core::hint::spin_loop();
        }
    }
}

impl Drop for CacheLine {
    fn drop(&mut self) {
        self.lines.there.0.store(STOP, Release);
        if let Some(other) = self.other.take() {
            let _ = other.join();
        }
    }
}

#[derive(Default)]
struct Words {
    there: Apart<AtomicU32>,
    back: Apart<AtomicU32>,
}

/// Two threads that wake each other in turn.
pub(crate) struct Futex {
    words: Arc<Words>,
    other: Option<JoinHandle<()>>,
}

/// The last value of a word.
const OVER: u32 = u32::MAX;

impl Futex {
    pub(crate) fn start(far: usize) -> Self {
        let words: Arc<Words> = Arc::default();
        let theirs = Arc::clone(&words);
        let other = std::thread::spawn(move || {
            let _ = peers::pin(far);
            let mut seen = 0;
            loop {
                seen = await_change(&theirs.there.0, seen);
                if seen == OVER {
                    return;
                }
                signal(&theirs.back.0, seen);
            }
        });
        Self { words, other: Some(other) }
    }

    pub(crate) fn trip(&self) {
        let seen = self.words.back.0.load(Relaxed);
        signal(&self.words.there.0, seen + 1);
        await_change(&self.words.back.0, seen);
    }
}

impl Drop for Futex {
    fn drop(&mut self) {
        signal(&self.words.there.0, OVER);
        if let Some(other) = self.other.take() {
            let _ = other.join();
        }
    }
}

fn signal(word: &AtomicU32, value: u32) {
    word.store(value, Release);
    // Shared between processes, as the ring's words are.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

fn await_change(word: &AtomicU32, seen: u32) -> u32 {
    loop {
        let now = word.load(Acquire);
        if now != seen {
            return now;
        }
        let _ = futex::wait(word, futex::Flags::empty(), seen, None);
    }
}
