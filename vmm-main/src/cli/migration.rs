// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead receive` and `bulkhead migrate`: a guest moves from the one host to the other.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf, absolute};

use clap::{Args, ValueEnum};
use hyper::Method;

use super::client_commands::{
    Target, ask, ask_with, cannot_show, new_table, print, show_json, show_status, stages,
};
use super::flags::{Place, RunFlags};
use super::watch;
use crate::api::types::{
    MigrateRequest, Migrated, MigrationProgress, MigrationRound, ResolveRequest, Status, downtime_limit_ms,
    lane_count, round_count_max,
};
use crate::config::tls::TlsSettings;
use crate::config::{Receive, VmConfig, size};
use crate::launcher::identity;
use crate::launcher::other_host::{Address, NoAddress};
use crate::printable;
use crate::problem::Problem;

/// The shortest and longest secret, in bytes.
const SECRET_LENS: std::ops::RangeInclusive<usize> = 16..=512;

/// Flags of `bulkhead receive`: those of `run`, and where to wait.
#[derive(Debug, Args)]
pub struct ReceiveFlags {
    /// Name of the VM here
    #[arg(value_name = "NAME")]
    vm: Option<String>,
    /// Where to wait for the guest: unix:PATH, or HOST:PORT
    #[arg(long, value_name = "ADDRESS", help_heading = "Migration")]
    listen: String,
    /// File with a secret that both hosts have, and nobody else: it authenticates every decision
    #[arg(long, value_name = "FILE", help_heading = "Migration")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsSettings,
    /// Without TLS take a guest from another host too: whoever is on the way can read its memory, and change it
    #[arg(long, help_heading = "Migration")]
    insecure: bool,
    #[command(flatten)]
    run: RunFlags,
}

impl ReceiveFlags {
    /// Where the launcher runs.
    pub const fn place(&self) -> Place {
        self.run.place()
    }

    /// The configuration that these flags describe.
    pub fn resolve(self) -> Result<VmConfig, Problem> {
        let listen = address(&self.listen, "--listen")?;
        let secret = secret(self.secret_file.as_deref(), &listen)?.into_bytes();
        let mut config = self.run.named(self.vm).resolve()?;
        let tls = self.tls.over(std::mem::take(&mut config.tls)).resolve()?;
        let receive = Receive { listen, secret, tls, insecure: self.insecure };
        Ok(VmConfig { receive: Some(receive), ..config })
    }
}

/// What becomes of a guest of which it is not known where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Resolution {
    /// It does not run on the other host and never will: it goes on here
    Resume,
    /// It runs on the other host: this VM ends
    Discard,
}

/// Flags of `bulkhead migrate`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["to", "status", "cancel", "resolve"])))]
pub struct MigrateFlags {
    #[command(flatten)]
    target: Target,
    /// Where `bulkhead receive` waits: unix:PATH, or HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// File with a secret that both hosts have, and nobody else: it authenticates every decision
    #[arg(long, value_name = "FILE", requires = "to")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsSettings,
    /// Without TLS move it to another host too: whoever is on the way can read its memory, and change it
    #[arg(long, requires = "to")]
    insecure: bool,
    /// How long the guest may stand still, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = downtime_limit_ms())]
    downtime_limit: u64,
    /// Rounds of pages that are sent while it runs, at most; the first is all of its memory
    #[arg(long, value_name = "COUNT", default_value_t = round_count_max())]
    max_rounds: u32,
    /// After them, leave the guest here rather than let it stand still for longer
    #[arg(long)]
    give_up: bool,
    /// Slow the guest's CPUs down, more with each round, while it writes its memory faster than that is sent
    #[arg(long, requires = "to")]
    throttle: bool,
    /// Send its memory packed (LZ4): for a network that is slower than some hundred MiB/s per connection
    #[arg(long, requires = "to")]
    compress: bool,
    /// Connections, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = lane_count())]
    lanes: u8,
    /// Show how far the migration is that is under way
    #[arg(long)]
    status: bool,
    /// Show it over and over, until it is over
    #[arg(long, requires = "status")]
    watch: bool,
    /// Stop it: the guest goes on here
    #[arg(long)]
    cancel: bool,
    /// Say where the guest goes on, if the connection was lost just when it was handed over; the other host is asked
    #[arg(long, value_name = "WHERE")]
    resolve: Option<Resolution>,
    /// Do so without asking the other host. If the guest runs there, it RUNS TWICE, and both write to its disks
    #[arg(long, requires = "resolve")]
    force: bool,
}

/// `bulkhead migrate`.
pub fn migrate(flags: &MigrateFlags) -> Result<(), Problem> {
    if let Some(to) = &flags.to {
        return begin(flags, to);
    }
    if flags.tls != TlsSettings::default() {
        let what = "TLS is spoken when a guest moves, and with no other order";
        return Err(Problem::usage(what, "--tls-*", "give --to as well, or leave them out"));
    }
    let target = &flags.target;
    if let Some(resolution) = flags.resolve {
        let request = ResolveRequest { resume: resolution == Resolution::Resume, force: flags.force };
        let body = serde_json::to_vec(&request).map_err(|error| cannot_show(&error))?;
        let status: Status = ask(target, Method::POST, "/v1/migrate/resolve", body)?;
        if let Some(said) = status.other_host.as_ref().filter(|_| !target.json) {
            print(&format!("{}: {said}\n", status.name))?;
        }
        return show_status(target, &status);
    }
    if flags.cancel {
        let status: Status = ask(target, Method::POST, "/v1/migrate/cancel", Vec::new())?;
        return show_status(target, &status);
    }
    if flags.watch {
        return watch::until_over(target);
    }
    let status: Status = ask(target, Method::GET, "/v1/status", Vec::new())?;
    if target.json {
        return show_json(&status.migration);
    }
    match &status.migration {
        None => print(&format!("{}: no migration is under way\n", status.name)),
        Some(progress) => print(&format!("{}: {}\n", status.name, line(progress))),
    }
}

fn begin(flags: &MigrateFlags, to: &str) -> Result<(), Problem> {
    let to = address(to, "--to")?;
    let secret = secret(flags.secret_file.as_deref(), &to)?;
    let tls = flags.tls.clone().resolve()?;
    let identity = tls.as_ref().map(identity::open).transpose()?;
    let request = MigrateRequest {
        to: to.to_string(),
        secret,
        downtime_limit_ms: flags.downtime_limit,
        round_count_max: flags.max_rounds,
        gives_up: flags.give_up,
        throttles: flags.throttle,
        compresses: flags.compress,
        lane_count: flags.lanes,
        tls_peer: tls.map(|tls| tls.peer),
        insecure: flags.insecure,
    };
    let body = serde_json::to_vec(&request).map_err(|error| cannot_show(&error))?;
    let files: Vec<BorrowedFd<'_>> = identity.iter().flatten().map(|(_, memory)| memory.as_fd()).collect();
    let migrated: Migrated = ask_with(&flags.target, Method::POST, "/v1/migrate", body, &files)?;
    if flags.target.json { show_json(&migrated) } else { print(&report(&migrated)) }
}

/// A migration that is under way, in a line.
pub(super) fn line(progress: &MigrationProgress) -> String {
    let MigrationProgress { side, state, to, round_count, sent_len, owed_page_count, took_us, .. } = progress;
    let to = if to.is_empty() { String::new() } else { format!(" to {to}") };
    let slowed = match progress.throttle_percent {
        0 => String::new(),
        percent => format!(", CPUs slowed down by {percent} %"),
    };
    format!(
        "migration{to} ({side}): {state} for {} ms, {round_count} rounds, {} sent, {owed_page_count} pages to be sent{slowed}",
        took_us / 1000,
        size::display(*sent_len),
    )
}

fn report(migrated: &Migrated) -> String {
    let mut rounds = new_table(&["ROUND", "PAGES", "ZERO", "BYTES", "TIME"]);
    for (number, round) in migrated.rounds.iter().enumerate() {
        let MigrationRound { page_count, zero_page_count, sent_len, took_us } = round;
        rounds.add_row(vec![
            number.to_string(),
            page_count.to_string(),
            zero_page_count.to_string(),
            sent_len.to_string(),
            format!("{took_us} us"),
        ]);
    }
    let slowed = match migrated.throttle_percent {
        0 => String::new(),
        percent => format!("its CPUs were slowed down by up to {percent} % of their time\n"),
    };
    format!(
        "the guest runs at {}\n{slowed}{rounds}\n{}\n",
        migrated.to,
        stages(&migrated.stages, migrated.downtime_us)
    )
}

/// The address, with the path of a socket made absolute: the VM's launcher is in another folder.
fn address(text: &str, flag: &'static str) -> Result<Address, Problem> {
    let wrong = |what: String| Problem::usage(what, flag, "give unix:PATH, or HOST:PORT");
    match text.parse().map_err(|error: NoAddress| wrong(error.to_string()))? {
        Address::Unix(path) => {
            let path = absolute(path).map_err(|error| wrong(format!("the path of the socket: {error}")))?;
            Ok(Address::Unix(path))
        }
        tcp @ Address::Tcp(_) => Ok(tcp),
    }
}

/// The secret in the file. On a Unix socket it may be left out: who may open that is the file system's to say.
fn secret(file: Option<&Path>, address: &Address) -> Result<String, Problem> {
    let Some(path) = file else {
        if matches!(address, Address::Unix(_)) {
            return Ok(String::new());
        }
        return Err(Problem::usage(
            "over a network both hosts have to know a secret",
            "--secret-file",
            "make one with `openssl rand -hex 32`, and give both hosts the file",
        ));
    };
    let place = printable::path(path);
    let wrong = |what: String| {
        Problem::usage(
            what,
            &*place,
            "give a file with 16 to 512 characters, such as of `openssl rand -hex 32`",
        )
    };
    let mut text = String::new();
    let limit = u64::try_from(SECRET_LENS.end() + 2).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|error| wrong(format!("the secret cannot be read: {error}")).because_of(&error))?;
    let text = text.trim_end();
    if !SECRET_LENS.contains(&text.len()) {
        return Err(wrong(format!("the secret has {} bytes", text.len())));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_socket_with_its_whole_path_or_a_host_with_its_port() {
        assert_eq!(address("unix:/run/x", "--to").unwrap().to_string(), "unix:/run/x");
        assert!(address("unix:x", "--to").unwrap().to_string().starts_with("unix:/"));
        assert_eq!(address("[::1]:7000", "--to").unwrap().to_string(), "[::1]:7000");
        for wrong in ["", "unix:", "host", "host:", ":7000", "host:70000"] {
            assert!(address(wrong, "--to").unwrap_err().advice.contains("unix:PATH"), "{wrong}");
        }
    }

    #[test]
    fn secret_is_demanded_over_a_network_and_read_without_its_line_end() {
        assert_eq!(secret(None, &Address::Unix("/x".into())).unwrap(), "");
        let network = Address::Tcp("host:1".to_owned());
        assert!(secret(None, &network).unwrap_err().advice.contains("openssl"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        assert_eq!(secret(Some(file.path()), &network).unwrap(), "0123456789abcdef");
        std::fs::write(file.path(), "short\n").unwrap();
        assert!(secret(Some(file.path()), &network).unwrap_err().what.contains("5 bytes"));
        std::fs::write(file.path(), "x".repeat(600)).unwrap();
        assert!(secret(Some(file.path()), &network).is_err());
    }
}
