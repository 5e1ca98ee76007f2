// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs scenarios one after another, each in a child process with a deadline.
//!
//! A child writes its records to standard output; what else it prints goes to the server's console. One that
//! hangs is killed with its process group, and the next one starts: the row says what happened.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    panic,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    places,
    report::{Outcome, Record, Report},
    scenarios::{self, Scenario, Verdict},
};

/// The argument under which the runner is the process of one scenario.
const ONE: &str = "--one";

/// Where the kernel keeps the firmware's tables.
const TABLES: &str = "/sys/firmware/acpi/tables";

/// As `/sbin/init` starts it, or as the process of one scenario.
pub fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(ONE) {
        return one(&arguments.next().context("no scenario is named")?);
    }
    let line = fs::read_to_string("/proc/cmdline").context("the kernel's command line")?;
    let word = |start: &str| line.split_whitespace().find_map(|word| word.strip_prefix(start));
    let mut port = port(places::PORT_RECORDS)?;
    if let Some(name) = word(places::PARAMETER_TABLE) {
        let table = fs::read(format!("{TABLES}/{name}")).with_context(|| format!("ACPI table {name}"))?;
        let hex = table.iter().map(|byte| format!("{byte:02x}")).collect();
        return Report::new(&mut port).record(&Record::Table(hex));
    }
    stand_in_for_the_builder()?;
    for name in word(places::PARAMETER_RUN).unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        let scenario = scenarios::named(name).with_context(|| format!("there is no scenario {name:?}"))?;
        supervise(scenario, &mut port)?;
    }
    Ok(())
}

/// The virtio port with this name.
fn port(name: &str) -> Result<File> {
    let entries = fs::read_dir("/sys/class/virtio-ports").context("this machine has no virtio ports")?;
    for entry in entries.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            let file = PathBuf::from("/dev").join(entry.file_name());
            return File::options()
                .write(true)
                .open(&file)
                .with_context(|| format!("{} could not be opened", file.display()));
        }
    }
    bail!("no virtio port is called {name}")
}

/// Suites look for the programs where they were built: a link there leads to where they are here.
fn stand_in_for_the_builder() -> Result<()> {
    let Ok(folder) = fs::read_to_string(places::BUILT_IN) else { return Ok(()) };
    let folder = PathBuf::from(folder.trim());
    let above = folder.parent().context("the target folder of the builder has nothing above it")?;
    fs::create_dir_all(above).with_context(|| format!("{} could not be made", above.display()))?;
    if folder.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(places::TARGET, &folder)
            .with_context(|| format!("{} could not be made", folder.display()))?;
    }
    Ok(())
}

/// Runs one scenario in a child and passes its records on.
fn supervise(scenario: &Scenario, port: &mut File) -> Result<()> {
    let start = Instant::now();
    Report::new(port).record(&Record::Begin(scenario.name.into()))?;
    println!("lab: {} begins", scenario.name);
    let mut child = Command::new("/proc/self/exe")
        .args([ONE, scenario.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("the process of a scenario did not start")?;
    let output = child.stdout.take().context("a scenario's output")?;
    let (tell, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let mut outcome = None;
    loop {
        match lines.recv_timeout(scenario.limit.saturating_sub(start.elapsed())) {
            Ok(line) => match Record::parse(&line) {
                Some(Record::End(end, _)) => {
                    outcome = Some(end);
                    break;
                }
                Some(record) => Report::new(port).record(&record)?,
                None => println!("{line}"),
            },
            Err(RecvTimeoutError::Timeout) => {
                let limit = scenario.limit.as_secs();
                outcome = Some(Outcome::Failed(format!("it did not end within {limit} s and was killed")));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let ended = end(&mut child)?;
    let outcome = outcome.unwrap_or_else(|| Outcome::Failed(format!("its process ended with {ended}")));
    println!("lab: {}: {outcome:?}", scenario.name);
    let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Report::new(port).record(&Record::End(outcome, took))
}

/// Ends the scenario's whole process group, so that nothing of it disturbs the next one.
fn end(child: &mut Child) -> Result<std::process::ExitStatus> {
    const MOMENT: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + MOMENT;
    while Instant::now() < deadline && child.try_wait().context("a scenario's end")?.is_none() {
        thread::sleep(Duration::from_millis(5));
    }
    // It fails where nothing is left of the group, which is the ordinary case.
    let _ = Command::new("kill")
        .args(["-s", "KILL", "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status();
    child.wait().context("a scenario's end")
}

/// The process of one scenario.
fn one(name: &str) -> Result<()> {
    let scenario = scenarios::named(name).with_context(|| format!("there is no scenario {name:?}"))?;
    let mut output = std::io::stdout();
    let mut report = Report::new(&mut output);
    let verdict = panic::catch_unwind(panic::AssertUnwindSafe(|| (scenario.run)(&mut report)));
    let outcome = match verdict {
        Ok(Ok(Verdict::Shown)) => Outcome::Ok,
        Ok(Ok(Verdict::Skipped(why))) => Outcome::Skipped(why),
        Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
        Err(_) => Outcome::Failed("it panicked: see the server's console".into()),
    };
    let mut output = std::io::stdout();
    Report::new(&mut output).record(&Record::End(outcome, 0))?;
    output.flush().context("the last record")
}
