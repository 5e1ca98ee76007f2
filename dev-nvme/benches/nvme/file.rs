// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The yardstick: blocking reads and writes of the file itself, by some threads.
//!
//! All threads together use as many buffers as the pattern is deep, so that what is copied is as far from the
//! processors' caches as it is for the program.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::pattern::Pattern;
use super::{Measured, cpu_seconds, goes_on};

pub fn run(image: &Path, pattern: Pattern, threads: u32) -> Measured {
    let before = cpu_seconds(std::process::id());
    let since = Instant::now();
    let threads = u64::from(threads);
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            let file = File::options().read(true).write(true).open(image).unwrap();
            thread::spawn(move || {
                let buffers = usize::try_from(u64::from(pattern.depth) / threads).unwrap();
                let mut buffers = vec![vec![0x33; pattern.len as usize]; buffers];
                let mut done = 0u64;
                while goes_on(pattern, since, done * threads) {
                    let offset = pattern.offset(done * threads + worker);
                    let turn = done as usize % buffers.len();
                    if pattern.write {
                        file.write_all_at(&buffers[turn], offset).unwrap();
                    } else {
                        file.read_exact_at(&mut buffers[turn], offset).unwrap();
                    }
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    Measured::new(since.elapsed(), done, cpu_seconds(std::process::id()) - before)
}
