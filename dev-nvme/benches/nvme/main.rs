// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program's rates beside those of its image file: the same pattern through both, and the ratio.
//!
//! `cargo bench -p dev-nvme --bench nvme`, with `-- read` for the patterns so named; `TMPDIR` is where the image goes.
//! The program is the sealed one, as shipped. Its client is in `nvme/program.rs`.
//!
//! Two yardsticks, in `nvme/file.rs`, both blocking reads and writes of the same file, at the same places, from as much
//! memory: as many threads as the depth, which is all that the machine can do with the file, and one thread, which is
//! all that one processor can. All three take turns and the median of each counts, so that a busy spell of the machine
//! hits all of them. The file is in the page cache, where what is measured is the way and not the disk; or, "cold", it
//! is not. The processor time of an access is printed too: the program's without its client's, beside the threads'.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a bench may stop at the first surprise"
)]

#[path = "../../tests/host/mod.rs"]
mod host;

mod file;
mod journal;
mod pattern;
mod program;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use pattern::{IMAGE_LEN, PATTERNS, Pattern};
use program::Program;

/// How often each of the three has its turn.
const TURNS: usize = 5;

/// How long a turn is.
const SPAN: Duration = Duration::from_millis(400);

/// The goal, where the depth gives the program something to overlap.
const RATIO_MIN: f64 = 0.7;
const GOAL_DEPTH: u32 = 32;

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let program = Program::start();
    fill(&File::options().write(true).open(program.image()).unwrap());
    println!(
        "{:<37}{:>14}{:>16}{:>7}{:>16}{:>7}{:>22}",
        "", "program", "file, threads", "ratio", "file, 1 thread", "ratio", "CPU us: prog., file"
    );
    for pattern in PATTERNS.into_iter().filter(|pattern| pattern.name.contains(&wanted)) {
        let (mut ours, mut raw, mut single) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            pattern.prepare(&program.image());
            ours.push(program.run(pattern));
            pattern.prepare(&program.image());
            raw.push(file::run(&program.image(), pattern, pattern.depth));
            pattern.prepare(&program.image());
            single.push(file::run(&program.image(), pattern, 1));
        }
        let (ours, raw, single) = (Measured::median(ours), Measured::median(raw), Measured::median(single));
        let ratio = ours.rate / raw.rate;
        let verdict = match pattern.depth {
            GOAL_DEPTH if ratio >= RATIO_MIN => "goal met",
            GOAL_DEPTH if ours.rate / single.rate >= RATIO_MIN => "goal met against one processor",
            GOAL_DEPTH => "goal MISSED",
            _ => "",
        };
        print!(
            "{:<37}{:>14}{:>16}{ratio:>7.2}",
            pattern.name,
            pattern.show(ours.rate),
            pattern.show(raw.rate)
        );
        print!("{:>16}{:>7.2}", pattern.show(single.rate), ours.rate / single.rate);
        println!("{:>14.2}{:>8.2}  {verdict}", ours.cost * 1e6, raw.cost * 1e6);
    }
    println!("{:<37}{:>14}{:>16}{:>7}", "", "with journal", "without", "ratio");
    for pattern in PATTERNS.into_iter().filter(|pattern| pattern.name.contains(&wanted) && !pattern.cold) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            with.push(journal::run(&program.image(), pattern, true));
            without.push(journal::run(&program.image(), pattern, false));
        }
        let (with, without) = (Measured::median(with).rate, Measured::median(without).rate);
        let shown = (pattern.show(with), pattern.show(without));
        println!("{:<37}{:>14}{:>16}{:>7.2}", pattern.name, shown.0, shown.1, with / without);
    }
}

fn fill(file: &File) {
    let block = vec![0x5a; 1 << 20];
    for number in 0..IMAGE_LEN >> 20 {
        file.write_all_at(&block, number << 20).unwrap();
    }
    file.sync_all().unwrap();
}

/// What was done in a turn.
#[derive(Clone, Copy)]
struct Measured {
    /// Accesses a second.
    rate: f64,
    /// Seconds of processor time an access.
    cost: f64,
}

impl Measured {
    fn new(elapsed: Duration, done: u64, cpu_seconds: f64) -> Measured {
        let done = done as f64;
        Measured { rate: done / elapsed.as_secs_f64(), cost: cpu_seconds / done }
    }

    /// The median of each.
    fn median(turns: Vec<Measured>) -> Measured {
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let rate = middle(turns.iter().map(|turn| turn.rate).collect());
        Measured { rate, cost: middle(turns.iter().map(|turn| turn.cost).collect()) }
    }
}

/// Whether a turn goes on.
fn goes_on(pattern: Pattern, since: Instant, done: u64) -> bool {
    since.elapsed() < SPAN && done < pattern.count()
}

/// The processor time that a process has used, all of its threads, living and ended.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths: the kernel's USER_HZ.
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
