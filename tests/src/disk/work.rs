// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest at work on its disk, while something is done to its machine: it writes a mebibyte, drops its caches, reads
//! it back from there, and notes whether it is the same, over and over, each time elsewhere.
//!
//! Under strict translation each transfer is mapped, invalidated and synchronised.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::console::Console;
use crate::starved;
use crate::vm::Vm;

/// The guest's program. Its notes, which are there from the start: the number of each round, and what has failed.
const PROGRAM: &str = "until [ -b /dev/nvme0n1 ]; do sleep 0.1; done; \
    dd if=/dev/urandom of=/tmp/mib bs=64k count=16 2>/dev/null; sum=$(md5sum < /tmp/mib); : >/tmp/rounds; \
    (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); at=$((i%16*16)); \
    dd if=/tmp/mib of=/dev/nvme0n1 bs=64k seek=$at conv=fsync 2>/dev/null || echo write FAILED; \
    echo 3 > /proc/sys/vm/drop_caches; \
    [ \"$(dd if=/dev/nvme0n1 bs=64k skip=$at count=16 2>/dev/null | md5sum)\" = \"$sum\" ] || echo read FAILED; \
    echo $i; done >/tmp/rounds 2>&1 &) 2>/dev/null";

/// Has the guest begin, and waits for its first round. `limit` is for each step, here and below.
pub fn begin(console: &mut Console, limit: Duration) -> Result<()> {
    starved::watch();
    console.output(PROGRAM, limit)?;
    await_rounds(console, 1, limit)
}

/// Waits for one more round than there are.
pub fn another_round(console: &mut Console, limit: Duration) -> Result<()> {
    let seen = rounds(console, limit)?;
    await_rounds(console, seen + 1, limit)
}

/// Has it stop; no round may have failed. Returns how many there were.
pub fn end(console: &mut Console, limit: Duration) -> Result<u64> {
    console.output("touch /tmp/stop; sleep 1", limit)?;
    let failed = console.output("grep FAILED /tmp/rounds || true", limit)?;
    ensure!(failed.is_empty(), "the guest notes: {failed}");
    rounds(console, limit)
}

/// The same, and no driver of SMMU or disk may have complained.
pub fn end_unnoticed(console: &mut Console, limit: Duration) -> Result<u64> {
    let rounds = end(console, limit)?;
    let complaints = complaints(console, limit)?;
    let complaints = starved::unexplained(complaints);
    ensure!(complaints.is_empty(), "the guest's drivers complain: {complaints}");
    Ok(rounds)
}

/// The same, after which the guest switches itself off, and nothing is left of the machine.
pub fn finish_unnoticed(mut vm: Vm, limit: Duration) -> Result<u64> {
    let rounds = end_unnoticed(&mut vm.console, limit)?;
    vm.finish(limit)?;
    Ok(rounds)
}

/// What the guest's drivers of SMMU and disk complain about.
pub fn complaints(console: &mut Console, limit: Duration) -> Result<String> {
    let noise = "dmesg | grep -E 'arm-smmu-v3|nvme' | grep -iE 'error|timeout| fault|event 0x' || true";
    console.output(noise, limit)
}

/// How often the disk has been written and read.
fn rounds(console: &mut Console, limit: Duration) -> Result<u64> {
    Ok(console.output("tail -n 1 /tmp/rounds", limit)?.trim().parse().unwrap_or(0))
}

fn await_rounds(console: &mut Console, wanted: u64, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        let seen = rounds(console, limit)?;
        if seen >= wanted {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the disk stands still at round {seen}");
    }
}
