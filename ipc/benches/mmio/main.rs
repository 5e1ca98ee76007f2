// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a CPU waits for a device that is another process, beside what the machine itself takes.
//!
//! Five round trips, measured in turn, in one run, on the same two CPUs: a bare cache line between two threads, the
//! ring between two processes while both poll, a bare futex between two threads, the ring while both sleep, and a
//! request on a control channel. Nanoseconds depend on the machine; the ratios are what the goals are about.
//!
//! `cargo bench -p ipc --bench mmio`; with `-- --json` one JSON object a line. Run by `cargo xtask bench mmio`.

#[cfg(not(loom))]
mod peers;
#[cfg(not(loom))]
mod yardsticks;

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> Result<std::process::ExitCode, Box<dyn core::error::Error>> {
    bench::run()
}

#[cfg(not(loom))]
mod bench {
    use core::error::Error;
    use core::time::Duration;
    use std::process::ExitCode;
    use std::time::Instant;

    use super::peers::{self, Device, Service};
    use super::yardsticks::{CacheLine, Futex};

    /// How often all are measured in turn, so that a passing disturbance does not hit one alone.
    const ROUNDS: usize = 15;

    /// How long one is measured in one round, at most.
    const ROUND: Duration = Duration::from_millis(60);

    /// The most batches in one round: no more than the fast ones need for a steady median.
    const BATCHES_MAX: usize = 200;

    /// Trips in one batch when nobody sleeps, and when somebody does. A batch is the unit of the median and is
    /// shorter than a time slice: where the CPUs are shared, most batches are not interrupted.
    const FAST_BATCH: u32 = 100;
    const SLOW_BATCH: u32 = 10;

    /// Longer than any round: who polls never sleeps.
    const POLL: Duration = Duration::from_secs(3600);

    struct Line {
        name: &'static str,
        what: &'static str,
        /// Which line it is compared with, and what the comparison should come to at most.
        goal: Option<(&'static str, f64)>,
        nanoseconds: Vec<f64>,
    }

    impl Line {
        fn new(name: &'static str, what: &'static str, goal: Option<(&'static str, f64)>) -> Self {
            Self { name, what, goal, nanoseconds: Vec::new() }
        }

        fn measure(&mut self, batch: u32, mut trip: impl FnMut()) {
            // One batch to warm up: caches, the other side's wake-up, the clock.
            (0..batch).for_each(|_| trip());
            let end = Instant::now() + ROUND;
            for _ in 0..BATCHES_MAX {
                let start = Instant::now();
                (0..batch).for_each(|_| trip());
                self.nanoseconds.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(batch));
                if Instant::now() >= end {
                    return;
                }
            }
        }

        fn median(&self) -> f64 {
            let mut sorted = self.nanoseconds.clone();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
        }

        fn least(&self) -> f64 {
            self.nanoseconds.iter().copied().fold(f64::INFINITY, f64::min)
        }
    }

    pub(super) fn run() -> Result<ExitCode, Box<dyn Error>> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        if has("--list") {
            // A test runner looking for tests: there are none here.
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(role) = arguments.iter().position(|argument| argument == peers::ROLE) {
            peers::be(arguments.get(role + 1..).unwrap_or_default())?;
            return Ok(ExitCode::SUCCESS);
        }
        let json = has("--json");
        let Some([near, far]) = peers::two_cpus()? else {
            eprintln!("SKIPPED: polling needs two CPUs, this process may use only one");
            return Ok(ExitCode::SUCCESS);
        };
        peers::pin(near)?;
        let lines = measure(far)?;
        for line in &lines {
            let compared = line.goal.and_then(|(with, goal)| {
                let yardstick = lines.iter().find(|other| other.name == with)?;
                Some((with, line.median() / yardstick.median(), goal))
            });
            if json {
                print_json(line, compared);
            } else {
                print_row(line, compared);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(far: usize) -> Result<Vec<Line>, Box<dyn Error>> {
        let mut lines = [
            Line::new("cache_line", "bare cache line, two threads", None),
            Line::new("ring_polling", "ring, two processes, both polling", Some(("cache_line", 3.0))),
            Line::new("futex", "bare futex, two threads", None),
            Line::new("ring_blocking", "ring, two processes, both sleeping", Some(("futex", 1.3))),
            Line::new("ring_default", "ring, two processes, default spin", Some(("cache_line", 3.0))),
            Line::new("channel", "request on a control channel", Some(("futex", f64::INFINITY))),
        ];
        let [cache_line, polling, futex, blocking, default, channel] = &mut lines;
        for _ in 0..ROUNDS {
            // Each peer lives only while it is measured: one that polls would take the CPU from the next.
            let yardstick = CacheLine::start(far);
            cache_line.measure(FAST_BATCH, || yardstick.trip());
            drop(yardstick);
            let device = Device::start(far, POLL)?;
            polling.measure(FAST_BATCH, || device.trip());
            device.stop()?;
            let yardstick = Futex::start(far);
            futex.measure(SLOW_BATCH, || yardstick.trip());
            drop(yardstick);
            let device = Device::start(far, Duration::ZERO)?;
            blocking.measure(SLOW_BATCH, || device.trip());
            device.stop()?;
            let device = Device::start(far, ipc::shm::ring::SPIN_DEFAULT)?;
            default.measure(FAST_BATCH, || device.trip());
            device.stop()?;
            let service = Service::start(far)?;
            channel.measure(SLOW_BATCH, || service.trip());
            service.stop()?;
        }
        Ok(lines.into())
    }

    fn print_row(line: &Line, compared: Option<(&str, f64, f64)>) {
        print!("{:<36} {:>9.0} ns  (least {:>7.0})", line.what, line.median(), line.least());
        match compared {
            Some((with, ratio, goal)) if goal.is_finite() => {
                let verdict = if ratio <= goal { "met" } else { "MISSED" };
                println!("  {ratio:>5.2} x {with}, goal {goal} {verdict}");
            }
            Some((with, ratio, _)) => println!("  {ratio:>5.2} x {with}"),
            None => println!(),
        }
    }

    fn print_json(line: &Line, compared: Option<(&str, f64, f64)>) {
        let name = line.name;
        let (median, least) = (line.median(), line.least());
        print!(r#"{{"bench":"mmio","name":"{name}","median_ns":{median:.1},"least_ns":{least:.1}"#);
        if let Some((with, ratio, goal)) = compared {
            print!(r#","compared_with":"{with}","ratio":{ratio:.3}"#);
            if goal.is_finite() {
                print!(r#","goal":{goal},"met":{}"#, ratio <= goal);
            }
        }
        println!("}}");
    }
}
