// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A measurement of the dirty rate while a test has known pages written, in turns.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::vm::Controller;

/// Turns take a small part of the first, on a machine that is not busy.
const SECONDS: [u64; 4] = [3, 6, 12, 24];

/// What `dirty-rate` says of a time that has at least one whole turn in it, however slow this machine is just now. A
/// turn that takes half of a measurement leaves that open: then it is made again, over twice the time.
pub fn measured_over_turns(controller: &Controller, mut turn: impl FnMut()) -> Result<Value> {
    for seconds in SECONDS {
        let mut command = controller.command("dirty-rate", &["--json", "--seconds", &seconds.to_string()]);
        let mut measuring = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut longest = Duration::ZERO;
        while measuring.try_wait()?.is_none() {
            let begun = Instant::now();
            turn();
            longest = longest.max(begun.elapsed());
        }
        let output = measuring.wait_with_output()?;
        ensure!(output.status.success(), "dirty-rate: {}", String::from_utf8_lossy(&output.stderr));
        if longest < Duration::from_secs(seconds) / 2 {
            return serde_json::from_slice(&output.stdout).context("the answer of dirty-rate");
        }
        println!("a turn took {longest:?} of a measurement of {seconds} s: once more, over twice the time");
    }
    bail!("this machine is too slow: each measurement was too short for two turns of writes")
}
