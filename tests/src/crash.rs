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
        let all: Value =
            serde_json::from_str(&vm.control_json("ps")?).context("`bulkhead ps` is not JSON")?;
        let mut rows =
            all.as_object().into_iter().flat_map(|vms| vms.values()).filter_map(Value::as_array).flatten();
        let row = rows.find(|row| row["name"] == name);
        Ok(row.and_then(|row| {
            let pid = row["host_pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?))?;
            Some(Self { pid, generation: row["generation"].as_u64()? })
        }))
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
    loop {
        if Life::of(vm, name)?.is_some_and(|next| next.generation > life.generation) {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < limit, "no next life of {name} within {} s", limit.as_secs());
    }
}
