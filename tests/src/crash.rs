// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The death of one process of a running machine, and its next life.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
    kill_and_await_all(vm, &[name], limit)
}

/// Kills these processes at once, and waits for their next lives.
pub fn kill_and_await_all(vm: &Vm, names: &[&str], limit: Duration) -> Result<Duration> {
    let life = |name: &&str| Life::of(vm, name)?.with_context(|| format!("there is no process {name}"));
    let lives = names.iter().map(life).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    lives.iter().for_each(|life| _ = life.kill());
    for (name, life) in names.iter().zip(lives) {
        while Life::of(vm, name)?.is_none_or(|next| next.generation <= life.generation) {
            ensure!(begun.elapsed() < limit, "no next life of {name} within {} s", limit.as_secs());
        }
    }
    Ok(begun.elapsed())
}
