// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that writes its memory at a rate: a thread with a dirty log.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc::addr::Gpa;
use ipc::shm::dirty_log::OwedMap;

use crate::RAM_LEN;
use crate::pair::{Pair, layout};

const PAGE_LEN: u64 = 4096;
/// How often it writes what has become due.
const TICK: Duration = Duration::from_millis(1);

/// The thread, and which pages it has written.
pub struct Writer {
    log: Arc<[AtomicU64]>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Writes so many pages in a second, each drawn from all of RAM.
    pub fn start(ram: File, pages_per_second: u64) -> Self {
        let log: Arc<[AtomicU64]> =
            (0..RAM_LEN / PAGE_LEN / 64).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into();
        let is_over = Arc::new(AtomicBool::new(false));
        let (marks, over) = (Arc::clone(&log), Arc::clone(&is_over));
        let thread = thread::spawn(move || write(&ram, &marks, &over, pages_per_second));
        Self { log, is_over, thread }
    }

    /// Owes what was written since the last harvest. Returns how many pages are owed.
    pub fn harvest(&self, pair: &mut Pair) -> u64 {
        let mut owed = OwedMap::new(&layout());
        for (index, word) in (0..).zip(self.log.iter()) {
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let page = index * 64 + u64::from(bits.trailing_zeros());
                owed.mark(Gpa(page * PAGE_LEN), 1);
                bits &= bits - 1;
            }
        }
        pair.owe(&owed);
        pair.owed()
    }

    /// Writes nothing more, and owes the last of it.
    pub fn stop(self, pair: &mut Pair) {
        self.is_over.store(true, Ordering::Release);
        while !self.thread.is_finished() {
            thread::yield_now();
        }
        self.harvest(pair);
        self.thread.join().unwrap();
    }
}

fn write(ram: &File, log: &[AtomicU64], is_over: &AtomicBool, pages_per_second: u64) {
    let (begun, mut written, mut word) = (Instant::now(), 0, 0x2545_f491_4f6c_dd1d_u64);
    while !is_over.load(Ordering::Acquire) {
        let due = begun.elapsed().as_secs_f64() * pages_per_second as f64;
        while (written as f64) < due && !is_over.load(Ordering::Acquire) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            let page = word % (RAM_LEN / PAGE_LEN);
            ram.write_all_at(&word.to_le_bytes(), page * PAGE_LEN).unwrap();
            // Behind the write: whoever takes the mark finds the bytes.
            log[usize::try_from(page / 64).unwrap()].fetch_or(1 << (page % 64), Ordering::AcqRel);
            written += 1;
        }
        thread::sleep(TICK);
    }
}
