// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs one target: seeds and kept inputs first, then mutations of them until the time is over.
//!
//! A panic ends the run: the input is shortened and kept. An input that takes too long cannot be stopped from
//! outside, so a watching thread keeps it and ends the whole program.

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    mutate::{LEN_MAX, Random, mutate},
    targets::Target,
};

/// How long one input may take; a slow machine needs milliseconds.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// Inputs kept for splicing; older ones are replaced.
const POOL_LEN_MAX: usize = 512;

/// How often to shorten a failing input before giving it to a person.
const SHORTENINGS_MAX: usize = 2000;

/// What a run came to.
#[derive(Debug)]
pub enum Outcome {
    /// Every input passed; how many there were.
    Passed {
        /// Inputs tried.
        count: u64,
    },
    /// An input made the target panic.
    Failed {
        /// The shortened input.
        input: Vec<u8>,
        /// The panic's message.
        message: String,
    },
}

/// Runs `target` for `time`, starting from its seeds and the files in `corpus`.
pub fn run(target: &Target, corpus: &Path, time: Duration, seed: u64, kept: &Path) -> Outcome {
    let mut pool = (target.seeds)();
    pool.extend(files(corpus));
    let watch = Watch::start(kept.join(format!("{}-slow", target.name)));
    let mut count = 0;
    let mut random = Random::new(seed);
    let start = Instant::now();
    let mut next_seed = 0;
    loop {
        let input = match pool.get(next_seed) {
            Some(seed) => seed.clone(),
            None if start.elapsed() >= time => return Outcome::Passed { count },
            None => {
                let pick = |index: usize| pool.get(index).map_or(&[][..], Vec::as_slice);
                let (one, other) = (random.below(pool.len()), random.below(pool.len()));
                mutate(&mut random, pick(one), pick(other))
            }
        };
        next_seed += usize::from(next_seed < pool.len());
        watch.begin(&input);
        let result = attempt(target, &input);
        watch.end();
        if let Err(message) = result {
            let input = shorten(target, input);
            return Outcome::Failed { input, message };
        }
        count += 1;
        // Now and then a mutation becomes a parent, so that damage adds up.
        if random.below(64) == 0 && input.len() < LEN_MAX {
            if pool.len() < POOL_LEN_MAX {
                pool.push(input);
                next_seed = pool.len();
            } else if let Some(old) = pool.get_mut(random.below(POOL_LEN_MAX)) {
                *old = input;
            }
        }
    }
}

/// Runs one input; the panic's message if it panics.
pub fn attempt(target: &Target, input: &[u8]) -> Result<(), String> {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_string()
    })
}

/// Takes parts away for as long as the input still fails.
fn shorten(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let mut chunk = input.len().div_ceil(2);
    let mut tries = 0;
    while chunk > 0 && tries < SHORTENINGS_MAX {
        let mut at = 0;
        while at < input.len() && tries < SHORTENINGS_MAX {
            let mut shorter = input.clone();
            shorter.drain(at..(at + chunk).min(input.len()));
            tries += 1;
            if attempt(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    panic::set_hook(hook);
    input
}

/// Writes a failing input where it will be found again.
pub fn keep(folder: &Path, target: &Target, input: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    let file = folder.join(format!("{}-{:08x}", target.name, crc32fast::hash(input)));
    fs::write(&file, input).with_context(|| format!("{} could not be written", file.display()))?;
    Ok(file)
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

/// The input under way and when it began, for both threads.
type Running = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Ends the program if an input takes too long.
struct Watch {
    running: Running,
}

impl Watch {
    fn start(keep_at: PathBuf) -> Self {
        let running = Running::default();
        let watched = Arc::downgrade(&running);
        thread::spawn(move || {
            while let Some(running) = watched.upgrade() {
                let slow = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some((_, input)) = slow.filter(|(since, _)| since.elapsed() > INPUT_TIME_MAX) {
                    // Kept on a best effort: the program ends either way.
                    let _ = keep_at.parent().map(fs::create_dir_all);
                    let _ = fs::write(&keep_at, &input);
                    eprintln!(
                        "an input takes more than {} s; it is {}",
                        INPUT_TIME_MAX.as_secs(),
                        keep_at.display()
                    );
                    std::process::exit(2);
                }
                drop(running);
                thread::sleep(Duration::from_millis(500));
            }
        });
        Self { running }
    }

    fn begin(&self, input: &[u8]) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests;
