// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same guest on QEMU, moved by its monitor protocol (QMP): JSON lines over a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::{console::Console, guest::GuestFiles, tools::Ready};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{COMMAND, Moved};

/// As `bulkhead migrate` has it by default.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// QEMU's own limit would be what is measured: none to speak of.
const BANDWIDTH_MAX: u64 = 100_000_000_000;
/// A measurement of its dirty rate, in seconds.
const RATE_SPAN: u64 = 1;
const POLL: Duration = Duration::from_millis(5);

/// A running QEMU.
pub struct Machine {
    pub console: Console,
    monitor: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Machine {
    /// Boots the guest.
    pub fn boot(qemu: &Ready, files: &GuestFiles, folder: &Path) -> Result<Self> {
        Self::start(qemu, files, folder.join("first.qmp"), None)
    }

    fn start(qemu: &Ready, files: &GuestFiles, socket: PathBuf, incoming: Option<&Path>) -> Result<Self> {
        let mut command = qemu.boot(files, "");
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        if let Some(incoming) = incoming {
            command.arg("-incoming").arg(format!("unix:{}", incoming.display()));
        }
        let console = Console::start(&mut command)?;
        let until = Instant::now() + COMMAND;
        let monitor = loop {
            match UnixStream::connect(&socket) {
                Ok(monitor) => break monitor,
                Err(error) if Instant::now() >= until || console.has_ended() => {
                    bail!("QEMU has no monitor: {error}: {}", console.errors().trim())
                }
                Err(_) => thread::sleep(POLL),
            }
        };
        monitor.set_read_timeout(Some(COMMAND)).context("a time limit for the monitor")?;
        let mut machine = Self { console, monitor: BufReader::new(monitor), socket };
        machine.ask("qmp_capabilities", &json!({}))?;
        Ok(machine)
    }

    /// The answer to a command; greetings and events before it are left out.
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{request}").context("QEMU's monitor")?;
        loop {
            let mut line = String::new();
            ensure!(self.monitor.read_line(&mut line).context("QEMU's monitor")? > 0, "QEMU has ended");
            let mut answer: Value = serde_json::from_str(&line).context("QEMU's monitor")?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Moves the guest to another QEMU.
    pub fn moved(mut self, qemu: &Ready, files: &GuestFiles, folder: &Path) -> Result<(Self, Moved)> {
        let dirty_rate = self.dirty_rate()?;
        let number = self.socket.metadata().map_or(0, |data| std::os::unix::fs::MetadataExt::ino(&data));
        let incoming = folder.join(format!("{number}.sock"));
        let next = Self::start(qemu, files, folder.join(format!("{number}.qmp")), Some(&incoming))?;
        let limits = json!({ "downtime-limit": DOWNTIME_LIMIT_MS, "max-bandwidth": BANDWIDTH_MAX });
        self.ask("migrate-set-parameters", &limits)?;
        self.ask("migrate", &json!({ "uri": format!("unix:{}", incoming.display()) }))?;
        let until = Instant::now() + COMMAND;
        let report = loop {
            let report = self.ask("query-migrate", &json!({}))?;
            match report.get("status").and_then(Value::as_str) {
                Some("completed") => break report,
                Some("failed" | "cancelled") | None => bail!("QEMU's migration: {report}"),
                Some(_) => ensure!(Instant::now() < until, "QEMU's migration does not end: {report}"),
            }
            thread::sleep(POLL);
        };
        self.end()?;
        let moved = read(&report, dirty_rate).with_context(|| format!("QEMU's report: {report}"))?;
        Ok((next, moved))
    }

    /// Pages that the guest writes in a second.
    fn dirty_rate(&mut self) -> Result<u64> {
        self.ask("calc-dirty-rate", &json!({ "calc-time": RATE_SPAN, "sample-pages": 4096 }))?;
        let until = Instant::now() + COMMAND;
        loop {
            thread::sleep(POLL);
            let rate = self.ask("query-dirty-rate", &json!({}))?;
            if rate.get("status").and_then(Value::as_str) == Some("measured") {
                let mib = rate.get("dirty-rate").and_then(Value::as_u64).context("QEMU's dirty rate")?;
                return Ok(mib << 20 >> 12);
            }
            ensure!(Instant::now() < until, "QEMU does not measure its dirty rate: {rate}");
        }
    }

    /// Asks it to quit, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        // It may close the connection before it has answered.
        let _ = self.ask("quit", &json!({}));
        self.console.wait_exit(COMMAND).map(drop)
    }
}

fn read(report: &Value, dirty_rate: u64) -> Option<Moved> {
    let ram = report.get("ram")?;
    let megabits = ram.get("mbps")?.as_f64()?;
    Some(Moved {
        downtime: Duration::from_millis(report.get("downtime")?.as_u64()?),
        rounds: ram.get("dirty-sync-count")?.as_u64()?,
        rate: megabits * 1e6 / 8.0,
        last_round: None,
        stages: Vec::new(),
        dirty_rate,
    })
}
