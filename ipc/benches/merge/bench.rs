// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The measurement: logs that are marked anew before each harvest, and as many bytes for `memcpy`.

use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::time::Instant;

use ipc::addr::{Gpa, PAGE_LEN};
use ipc::protocol::control::Exactness;
use ipc::protocol::ram::{RAM_LEN_MAX, RamLayout, RamRegion};
use ipc::shm::dirty_log::{Answer, DirtyLog, Harvest, Harvester, Moment, OwedMap, harvest};
use ipc::shm::region::Region;

const LOGS: usize = 4;
/// How often both are measured in turn, so that a passing disturbance does not hit one alone.
const ROUNDS: usize = 9;
const PAGES: usize = (RAM_LEN_MAX / PAGE_LEN) as usize;
const WORDS: usize = PAGES / 64;
const EPOCH: u64 = 1;

/// How many pages are marked, and how fast a harvest is to be beside `memcpy`.
struct Density {
    name: &'static str,
    goal: Option<f64>,
    word: fn(&mut Random) -> u64,
    /// Marked besides, at random.
    pages: usize,
}

const DENSITIES: [Density; 4] = [
    Density { name: "0 %", goal: Some(0.9), word: |_| 0, pages: 0 },
    Density { name: "1 %", goal: Some(0.9), word: |_| 0, pages: PAGES / 100 },
    Density { name: "50 %", goal: Some(0.5), word: Random::next, pages: 0 },
    Density { name: "100 %", goal: None, word: |_| u64::MAX, pages: 0 },
];

/// A sequence that looks random (Vigna's splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

struct Log {
    region: Region,
    producer: DirtyLog,
    coordinator: Harvester,
    /// What is put into its bitmap before each harvest.
    bits: Vec<u8>,
    flips: u64,
}

impl Log {
    fn new(layout: &RamLayout) -> Log {
        let region = DirtyLog::create("bench-log", layout).unwrap();
        let producer = DirtyLog::attach(&region, layout).unwrap();
        let mut coordinator = Harvester::attach(&region, layout).unwrap();
        coordinator.begin(EPOCH);
        producer.adopt();
        producer.enable(EPOCH);
        Log { region, producer, coordinator, bits: Vec::new(), flips: 0 }
    }

    /// Sets bits where the producer would, and flips.
    fn fill(&mut self) {
        let bitmap_len = (WORDS * 8) as u64;
        self.region.file().write_all_at(&self.bits, PAGE_LEN + (self.flips & 1) * bitmap_len).unwrap();
        self.producer.flip();
        self.flips += 1;
    }
}

fn bitmap(density: &Density, seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    let mut words: Vec<u64> = (0..WORDS).map(|_| (density.word)(&mut random)).collect();
    for _ in 0..density.pages {
        let page = usize::try_from(random.next() % PAGES as u64).unwrap();
        words[page / 64] |= 1 << (page % 64);
    }
    words
}

/// Measures, prints, and says whether the goals were met.
pub fn run() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // A test runner looking for tests: there are none here.
        return ExitCode::SUCCESS;
    }
    let ram = RamRegion { gpa: Gpa(0), len: RAM_LEN_MAX, file_offset: 0 };
    let layout = RamLayout::new(vec![ram]).unwrap();
    let mut logs: Vec<Log> = (0..LOGS).map(|_| Log::new(&layout)).collect();
    let mut owed = OwedMap::new(&layout);
    let source = vec![1_u64; WORDS * LOGS];
    let mut target = vec![2_u64; WORDS * LOGS];
    let bytes = (WORDS * LOGS * 8) as f64;
    let mut met = true;
    println!("{LOGS} logs of {} MiB into one map", (WORDS * 8) >> 20);
    for density in &DENSITIES {
        let mut union = vec![0; WORDS];
        for (seed, log) in (1..).zip(&mut logs) {
            let words = bitmap(density, seed);
            union.iter_mut().zip(&words).for_each(|(all, word)| *all |= word);
            log.bits = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        }
        let pages: u64 = union.iter().map(|word| u64::from(word.count_ones())).sum();
        let mut ratios = Vec::new();
        let mut speeds = Vec::new();
        // The first is not counted: it touches memory that was never touched.
        for round in 0..=ROUNDS {
            logs.iter_mut().for_each(Log::fill);
            owed.clear_all();
            // First, so that no log is in the cache.
            let begun = Instant::now();
            target.copy_from_slice(black_box(&source));
            black_box(&mut target);
            let copied = begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            let answers = logs.iter_mut().map(|log| {
                let answer = Answer::Rearmed(log.producer.state(Exactness::Exact));
                Harvest { log: &mut log.coordinator, answer }
            });
            let judged = harvest(&mut answers.collect::<Vec<_>>(), Moment::Running, &mut owed);
            let taken = begun.elapsed().as_secs_f64();
            assert_eq!(judged, [Exactness::Exact; LOGS]);
            assert_eq!(owed.count(), pages, "what was marked is owed, and no more");
            if round > 0 {
                ratios.push(copied / taken);
                speeds.push(bytes / taken / 1e9);
            }
        }
        let (ratio, speed) = (median(ratios), median(speeds));
        let verdict = match density.goal {
            None => String::new(),
            Some(goal) if ratio >= goal => format!(" (goal: at least {goal}): ok"),
            Some(goal) => {
                met = false;
                format!(" (goal: at least {goal}): MISSED")
            }
        };
        println!("{:>6} marked {speed:>7.1} GB/s  {ratio:>5.2} x memcpy{verdict}", density.name);
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
