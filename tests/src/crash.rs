// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The death of one process of a running machine, and its next life.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::disk::busy::{self, Gap};
use crate::draw::Draw;
use crate::vm::Vm;

/// One life of a process, as `bulkhead ps` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its number on this host.
    pub pid: Pid,
    /// Which life it is: a later one has a higher number.
    pub generation: u64,
}

impl Life {
    /// That of the process called `name`; none while there is none, or while the host does not show it.
    pub fn of(vm: &Vm, name: &str) -> Result<Option<Self>> {
        let row = vm.processes()?.into_iter().find(|row| row.get("name").is_some_and(|found| found == name));
        let life = |row: Value| {
            let pid = row.get("host_pid")?.as_i64()?;
            Some(Self {
                pid: Pid::from_raw(pid.try_into().ok()?)?,
                generation: row.get("generation")?.as_u64()?,
            })
        };
        Ok(row.and_then(life))
    }

    /// Kills it. False: it has ended already.
    pub fn kill(self) -> bool {
        kill_process(self.pid, Signal::KILL).is_ok()
    }
}

/// Kills the process called `name`, and waits for its next life: how long that took, as `bulkhead ps` shows it.
pub fn kill_and_await(vm: &Vm, name: &str, limit: Duration) -> Result<Duration> {
    let life = Life::of(vm, name)?.with_context(|| format!("there is no process {name}"))?;
    let begun = Instant::now();
    life.kill();
    await_next(vm, name, life, begun + limit)?;
    Ok(begun.elapsed())
}

/// Waits for a next life of this process, as `bulkhead ps` shows it.
pub fn await_next(vm: &Vm, name: &str, life: Life, until: Instant) -> Result<()> {
    while Life::of(vm, name)?.is_none_or(|next| next.generation <= life.generation) {
        ensure!(Instant::now() < until, "no next life of {name} in time");
    }
    Ok(())
}

/// What kills under a guest that works on its disk came to.
#[derive(Debug, Clone, Default)]
pub struct Kills {
    /// The longest gap between two completions around each, by the guest's clock.
    pub gaps: Vec<Duration>,
    /// Those that are not among them: nothing was under way just then.
    pub uncounted: u32,
    /// The fewest requests that were under way at one that is.
    pub fewest_held: u64,
}

/// Kills `at_once` of these processes together, `count` times, each at a moment before the end of `span`, under a guest
/// that is busy ([`busy::begin`]). One without a request under way does not count. `limit` is for each.
pub fn kill_under_work(
    vm: &mut Vm,
    names: &[&str],
    at_once: usize,
    count: u32,
    span: Duration,
    draw: &mut Draw,
    limit: Duration,
) -> Result<Kills> {
    let mut kills = Kills { fewest_held: u64::MAX, ..Kills::default() };
    let counted = |kills: &Kills| u32::try_from(kills.gaps.len()).unwrap_or(u32::MAX);
    while counted(&kills) < count {
        ensure!(kills.uncounted <= count, "the disk is idle at most kills");
        let first = draw.below(names.len());
        let together: Vec<&str> = names.iter().cycle().skip(first).take(at_once).copied().collect();
        let moment = draw.moment(span);
        let number = counted(&kills) + 1;
        let Gap { length, held } = kill_one(vm, &together, moment, limit)
            .with_context(|| format!("kill {number} of {count}, of {}", together.join(" and ")))?;
        if held == 0 {
            kills.uncounted += 1;
            continue;
        }
        kills.gaps.push(length);
        kills.fewest_held = kills.fewest_held.min(held);
    }
    Ok(kills)
}

/// Kills these processes at once, after `moment`, and returns the longest gap around that.
fn kill_one(vm: &mut Vm, names: &[&str], moment: Duration, limit: Duration) -> Result<Gap> {
    let until = Instant::now() + limit;
    let life = |name: &&str| Life::of(vm, name)?.with_context(|| format!("there is no process {name}"));
    let lives = names.iter().map(life).collect::<Result<Vec<_>>>()?;
    let open = |life: &Life| pidfd_open(life.pid, PidfdFlags::empty()).context("a process to be killed");
    let pidfds = lives.iter().map(open).collect::<Result<Vec<OwnedFd>>>()?;
    thread::sleep(moment);
    for pidfd in &pidfds {
        // Of a group the second may be ended for the first already.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    for pidfd in &pidfds {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a span")?;
        ensure!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left))? > 0, "it cannot be killed");
    }
    let gap = busy::gap(&mut vm.console, limit)?;
    for (name, life) in names.iter().zip(lives) {
        await_next(vm, name, life, until)?;
    }
    Ok(gap)
}
