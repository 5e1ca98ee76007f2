// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands for a running VM: one request each, shown as a table or as JSON.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::observation::{confinement, observed};
use super::{Form, migration};
use crate::api::client::{
    COMMAND_DEADLINE, Client, INSPECT_DEADLINE, MIGRATION_DEADLINE, SNAPSHOT_DEADLINE, STOP_DEADLINE,
};
use crate::api::types::{
    DIRTY_RATE_MS_MAX, Deaths, DirtyPages, DirtyRate, DirtyRateRequest, Held, Inspected, Process,
    RestartRequest, Restarted, SaveRestored, Stage, Status, UnitLen,
};
use crate::config::{check, size};
use crate::launcher::runtime_dir::RuntimeDir;
use crate::printable;
use crate::problem::{Class, Problem};
use crate::system::CpuKind;

/// Which VM, and how to show the answer.
#[derive(Debug, Args)]
pub struct Target {
    /// Name of the VM; may be left out while only one runs
    name: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Target {
    /// The same with its name, whatever else runs later.
    pub(super) fn resolved(&self) -> Result<Self, Problem> {
        let name = target_name(self.name.as_deref(), &RuntimeDir::find()?)?;
        Ok(Self { name: Some(name), json: self.json })
    }

    /// The control socket of the VM.
    pub(super) fn socket(&self) -> Result<PathBuf, Problem> {
        let runtime_dir = RuntimeDir::find()?;
        let name = target_name(self.name.as_deref(), &runtime_dir)?;
        Ok(runtime_dir.socket_path(&name))
    }

    /// Whether the VM is there, though it may not answer.
    pub(super) fn is_there(&self) -> Result<bool, Problem> {
        let socket = self.socket()?;
        Ok(runtime()?.block_on(Client::is_listening(&socket)))
    }
}

/// Which process of which VM.
#[derive(Debug, Args)]
pub struct RestartFlags {
    /// Name of the process, as `ps` shows it
    process: String,
    /// The program that it and its next lives run from now on, of the same protocol: an upgrade in place
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// How long to measure.
#[derive(Debug, Args)]
pub struct DirtyRateFlags {
    /// For how many seconds, up to 10; no other command is carried out meanwhile
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[command(flatten)]
    target: Target,
}

/// What to attempt, and in which process.
#[cfg(debug_assertions)]
#[derive(Debug, Args)]
pub struct ProbeFlags {
    /// Name of the process, as `ps` shows it
    process: String,
    /// What to attempt, such as open or mmap-exec
    attempt: String,
    #[command(flatten)]
    target: Target,
}

/// VMs queried concurrently: each takes a descriptor.
const ASKED_COUNT_MAX: usize = 64;

/// `bulkhead ps`: VMs that answer are shown, each of the others gets a line of its own and sets the exit code.
pub fn ps(target: &Target) -> Result<(), Problem> {
    let mut all = Vec::new();
    let mut silent = Vec::new();
    match (RuntimeDir::find(), &target.name) {
        // No folder, no VM: an empty table is correct.
        (Err(problem), None) if problem.class == Class::Unreachable => {}
        (Err(problem), _) => return Err(problem),
        (Ok(runtime_dir), name) => {
            let runtime = runtime()?;
            let names = match name {
                Some(name) => vec![checked(name)?],
                None => runtime.block_on(alive(&runtime_dir))?,
            };
            let asked = |name: String| {
                let socket = runtime_dir.socket_path(&name);
                async move { (name, processes(&socket).await) }
            };
            for (name, answer) in runtime.block_on(each(names, asked)) {
                match answer {
                    Ok(answer) => all.push((name, observed(answer))),
                    Err(problem) => silent.push(problem),
                }
            }
        }
    }
    show_processes(target, &all)?;
    // The last one is the command's own problem and is printed by the caller.
    let last = silent.pop();
    for problem in &silent {
        super::tell(problem, if target.json { Form::Answer } else { Form::Line });
    }
    last.map_or(Ok(()), Err)
}

fn show_processes(target: &Target, all: &[(String, Vec<Process>)]) -> Result<(), Problem> {
    if target.json {
        let answer: serde_json::Map<_, _> = all
            .iter()
            .map(|(name, rows)| Ok((name.clone(), serde_json::to_value(rows)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| cannot_show(&error))?;
        return show_json(&answer);
    }
    let mut table = new_table(&[
        "VM",
        "PROCESS",
        "PID",
        "GEN",
        "STATE",
        "PROFILE",
        "IF IT DIES",
        "CONFINEMENT SEEN FROM OUTSIDE",
    ]);
    for (name, rows) in all {
        for row in rows {
            table.add_row(vec![
                name.clone(),
                match &row.program_file {
                    Some(file) => format!("{} ({file})", row.name),
                    None => row.name.clone(),
                },
                row.host_pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
                row.generation.to_string(),
                row.state.clone(),
                row.profile.clone(),
                row.restart.clone(),
                confinement(row),
            ]);
        }
    }
    print(&format!("{table}\n"))
}

/// `bulkhead status`.
pub fn status(target: &Target) -> Result<(), Problem> {
    let status: Status = ask(target, Method::GET, "/v1/status", Vec::new())?;
    show_status(target, &status)
}

/// `bulkhead inspect`.
pub fn inspect(target: &Target) -> Result<(), Problem> {
    let all: Vec<Inspected> = ask(target, Method::GET, "/v1/inspect", Vec::new())?;
    if target.json {
        return show_json(&all);
    }
    let mut table = new_table(&["PROCESS", "NAME", "VALUE"]);
    for Inspected { process, values, unanswered } in &all {
        if let Some(why) = unanswered {
            table.add_row(vec![process.clone(), "-".to_owned(), why.clone()]);
        }
        for (name, value) in values {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            table.add_row(vec![process.clone(), name.clone(), value]);
        }
    }
    print(&format!("{table}\n"))
}

/// `bulkhead pause`, `resume`, `stop`: they answer with the status that they lead to.
pub fn change(target: &Target, path: &'static str) -> Result<(), Problem> {
    let status: Status = ask(target, Method::POST, path, Vec::new())?;
    show_status(target, &status)
}

/// `bulkhead save-restore`.
pub fn save_restore(target: &Target) -> Result<(), Problem> {
    let done: SaveRestored = ask(target, Method::POST, "/v1/save-restore", Vec::new())?;
    if target.json {
        return show_json(&done);
    }
    let runs = format!("generation {} runs", done.generation);
    print(&moved(&runs, &done.stages, done.downtime_us, &done.units))
}

/// `bulkhead restart`.
pub fn restart(flags: &RestartFlags) -> Result<(), Problem> {
    let program = flags.program.as_deref().map(absolute).transpose()?;
    let request = RestartRequest { process: flags.process.clone(), program };
    let body = serde_json::to_vec(&request).map_err(|error| cannot_show(&error))?;
    let done: Restarted = ask(&flags.target, Method::POST, "/v1/restart", body)?;
    if flags.target.json {
        return show_json(&done);
    }
    let Restarted { process, generation, stages, units, downtime_us } = done;
    if stages.is_empty() {
        return print(&format!("{process}: generation {generation} runs, and the guest goes on\n"));
    }
    print(&moved(&format!("{process}: generation {generation} runs"), &stages, downtime_us, &units))
}

/// The path by which the launcher finds what this command means.
fn absolute(program: &Path) -> Result<String, Problem> {
    let refuse = |what: String| {
        Problem::usage(what, printable::path(program), "give a program of Bulkhead for this machine")
    };
    let path =
        program.canonicalize().map_err(|error| refuse(format!("there is no such program: {error}")))?;
    path.into_os_string().into_string().map_err(|_| refuse("its path is not UTF-8".to_owned()))
}

/// What became of processes that others go on for.
fn moved(runs: &str, all: &[Stage], downtime_us: u64, units: &[UnitLen]) -> String {
    let table = stages(all, downtime_us);
    let mut text = format!("{runs}\n{table}\n");
    for unit in units {
        text.push_str(&format!("{}: {} bytes of state\n", unit.process, unit.len));
    }
    text
}

/// How long each stage took, and the guest stood still.
pub(super) fn stages(stages: &[Stage], downtime_us: u64) -> Table {
    let mut table = new_table(&["STAGE", "TIME"]);
    for stage in stages {
        table.add_row(vec![stage.name.clone(), format!("{} us", stage.took_us)]);
    }
    table.add_row(vec!["downtime".to_owned(), format!("{downtime_us} us")]);
    table
}

/// `bulkhead dirty-rate`.
pub fn dirty_rate(flags: &DirtyRateFlags) -> Result<(), Problem> {
    let span = Duration::try_from_secs_f64(flags.seconds).ok().map(|span| span.as_millis());
    let span_ms =
        span.and_then(|span| u64::try_from(span).ok()).filter(|span| (1..=DIRTY_RATE_MS_MAX).contains(span));
    let span_ms = span_ms.ok_or_else(|| {
        Problem::usage(
            format!("nothing can be measured in {} seconds", flags.seconds),
            "--seconds",
            "give a number from 0.001 to 10",
        )
    })?;
    let body = serde_json::to_vec(&DirtyRateRequest { span_ms }).map_err(|error| cannot_show(&error))?;
    let measured: DirtyRate = ask(&flags.target, Method::POST, "/v1/dirty-rate", body)?;
    if flags.target.json {
        return show_json(&measured);
    }
    let mut table = new_table(&["PROCESS", "PAGES", "SEEN"]);
    for DirtyPages { process, page_count, seen } in &measured.processes {
        table.add_row(vec![process.clone(), page_count.to_string(), seen.clone()]);
    }
    print(&format!(
        "{} pages in {} ms: {} a second\n{table}\n",
        measured.page_count,
        measured.span_us / 1000,
        size::display(measured.bytes_per_second),
    ))
}

/// `bulkhead probe`.
#[cfg(debug_assertions)]
pub fn probe(flags: &ProbeFlags) -> Result<(), Problem> {
    use crate::api::types::{ProbeAnswer, ProbeRequest};
    let request = ProbeRequest { process: flags.process.clone(), attempt: flags.attempt.clone() };
    let body = serde_json::to_vec(&request).map_err(|error| cannot_show(&error))?;
    let answer: ProbeAnswer = ask(&flags.target, Method::POST, "/v1/probe", body)?;
    if flags.target.json { show_json(&answer) } else { print(&format!("{}\n", answer.outcome)) }
}

/// Does `work` for every name, [`ASKED_COUNT_MAX`] at a time, and gives the outcomes in the order of the names.
async fn each<T, W>(names: Vec<String>, work: impl Fn(String) -> W) -> Vec<T>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let mut done = Vec::new();
    for some in names.chunks(ASKED_COUNT_MAX) {
        let started: Vec<_> = some.iter().map(|name| tokio::spawn(work(name.clone()))).collect();
        for task in started {
            // A task ends without an outcome only if it panics, which has been reported.
            done.extend(task.await);
        }
    }
    done
}

/// The processes of the VM at `socket` as it reports them, and its launcher.
pub(super) async fn processes(socket: &Path) -> Result<(Option<i32>, Vec<Process>), Problem> {
    let client = Client::connect(socket).await?;
    let launcher = client.launcher_pid();
    let rows = client.call(Method::GET, "/v1/processes", Vec::new(), SNAPSHOT_DEADLINE).await?;
    Ok((launcher, rows))
}

pub(super) fn show_status(target: &Target, status: &Status) -> Result<(), Problem> {
    if target.json {
        return show_json(status);
    }
    let direct: String = status
        .direct_dma
        .iter()
        .map(|name| format!("{name}: direct-dma, its server is trusted with guest memory\n"))
        .collect();
    let lost: String =
        status.lost_devices.iter().map(|(name, reason)| format!("{name} is lost: {reason}\n")).collect();
    let deaths: String = status
        .deaths
        .iter()
        .map(|(name, deaths)| {
            let Deaths { count, last } = deaths;
            format!("{name} has died {count} times; the last time, {last}\n")
        })
        .collect();
    let held: String = status
        .held
        .iter()
        .map(|Held { process, reason, advice, .. }| format!("held for {process}: {reason}; {advice}\n"))
        .collect();
    let programs: String =
        status.programs.iter().map(|(name, file)| format!("{name} runs {file}\n")).collect();
    let migration = status.migration.as_ref();
    let migration: String =
        migration.map(|progress| format!("{}\n", migration::line(progress))).unwrap_or_default();
    print(&format!(
        "{}: {}, {} of memory, {} vCPU ({}), {} (generation {}, {} resets), up {}.{:03} s\n{held}{migration}{direct}{lost}{deaths}{programs}",
        status.name,
        status.phase.as_str(),
        size::display(status.memory_len),
        status.vcpu_count,
        status.cpu.map_or("-", CpuKind::as_str),
        status.machine,
        status.generation,
        status.reset_count,
        status.uptime_ms / 1000,
        status.uptime_ms % 1000,
    ))
}

pub(super) fn ask<T: DeserializeOwned>(
    target: &Target,
    method: Method,
    path: &'static str,
    body: Vec<u8>,
) -> Result<T, Problem> {
    ask_with(target, method, path, body, &[])
}

/// The same with descriptors that come along.
pub(super) fn ask_with<T: DeserializeOwned>(
    target: &Target,
    method: Method,
    path: &'static str,
    body: Vec<u8>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<T, Problem> {
    let runtime_dir = RuntimeDir::find()?;
    let name = target_name(target.name.as_deref(), &runtime_dir)?;
    let deadline = match path {
        "/v1/status" => SNAPSHOT_DEADLINE,
        "/v1/inspect" => INSPECT_DEADLINE,
        "/v1/stop" => STOP_DEADLINE,
        "/v1/migrate" => MIGRATION_DEADLINE,
        _ => COMMAND_DEADLINE,
    };
    runtime()?.block_on(async {
        let client = Client::connect(&runtime_dir.socket_path(&name)).await?;
        if !descriptors.is_empty() {
            client.pass(descriptors).await?;
        }
        client.call(method, path, body, deadline).await
    })
}

/// The VM that is meant: the one with this name, or the only one that runs.
pub fn target_name(name: Option<&str>, runtime_dir: &RuntimeDir) -> Result<String, Problem> {
    match name {
        Some(name) => checked(name),
        None => the_only_one(runtime()?.block_on(alive(runtime_dir))?),
    }
}

/// The names of VMs whose sockets have a listener.
async fn alive(runtime_dir: &RuntimeDir) -> Result<Vec<String>, Problem> {
    let listening = |name: String| {
        let socket = runtime_dir.socket_path(&name);
        async move { Client::is_listening(&socket).await.then_some(name) }
    };
    Ok(each(runtime_dir.names()?, listening).await.into_iter().flatten().collect())
}

fn the_only_one(names: Vec<String>) -> Result<String, Problem> {
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) if names.is_empty() => Err(Problem::new(
            Class::Unreachable,
            "no VM runs",
            "runtime folder",
            "start one with `bulkhead run`",
        )),
        Err(names) => Err(Problem::usage(
            format!("{} VMs run", names.len()),
            "command line",
            format!("name one of {}", names.join(", ")),
        )),
    }
}

/// A name becomes part of a path: only valid VM names are accepted.
fn checked(name: &str) -> Result<String, Problem> {
    check::name(name).map(|()| name.to_owned())
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Problem::host(
            format!("the client's runtime cannot start: {error}"),
            "client",
            "check this user's limits on files and memory",
        )
        .because_of(&error)
    })
}

pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

pub(super) fn show_json<T: Serialize>(value: &T) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(value).map_err(|error| cannot_show(&error))?;
    print(&format!("{text}\n"))
}

/// Shows an answer. A closed pipe (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Problem> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        shown => shown.map_err(|error| cannot_show(&error)),
    }
}

pub(super) fn cannot_show(error: &dyn std::fmt::Display) -> Problem {
    Problem::host(format!("the answer cannot be shown: {error}"), "standard output", "check where it goes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_without_a_name_takes_the_only_vm() {
        assert_eq!(the_only_one(vec!["a".into()]), Ok("a".into()));
        assert_eq!(the_only_one(vec![]).unwrap_err().class, Class::Unreachable);
        assert!(the_only_one(vec!["a".into(), "b".into()]).unwrap_err().advice.contains("a, b"));
    }

    #[test]
    fn client_name_that_leaves_the_folder_is_refused() {
        assert!(checked("../x").is_err());
    }
}
