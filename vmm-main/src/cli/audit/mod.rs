// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead audit`: what each process of a VM may do, and whether it is as it should be, told from outside.
//!
//! A running VM is compared with the system table and the profiles of this build (`live`); without one, a profile is
//! shown for review (`review`, `oci`), or a call is tried on it.

mod descriptors;
mod filters;
mod live;
mod mappings;
mod oci;
mod review;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sandbox::{Arch, Profile, arguments, profiles};
use serde::Serialize;

use self::filters::Expected;
use self::live::Audited;
use self::review::Review;
use super::client_commands::{Target, new_table, print, show_json};
use super::observation::snapshot_of;
use crate::printable;
use crate::problem::{Class, Problem};

/// What to audit.
#[derive(Debug, Args)]
pub struct AuditFlags {
    #[command(flatten)]
    target: Target,
    /// Show the sandbox profile of this role instead of a VM
    #[arg(long, value_name = "ROLE", conflicts_with_all = ["explain", "name"])]
    profile: Option<String>,
    /// The architecture of the profile [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// How to print the profile
    #[arg(long, value_enum, requires = "profile", default_value = "text")]
    format: Format,
    /// What the profile has more (+) and less (-) than this one, which `--format json` of another version has printed
    #[arg(long, value_name = "FILE", requires = "profile", conflicts_with = "format")]
    diff: Option<PathBuf>,
    /// Say whether a role may make a system call with these arguments, and by which rule: numbers, names as in C, or
    /// those of descriptors
    #[arg(long, num_args = 2..=8, value_names = ["ROLE", "CALL", "ARGS"], allow_hyphen_values = true)]
    explain: Vec<String>,
}

/// A form of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// For a document
    Markdown,
    /// For a program, and for `--diff`
    Json,
    /// The seccomp object of the OCI runtime specification
    Oci,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    vm: &'a str,
    processes: &'a [Audited],
}

/// A drift that is gone at the next look was a process on its way: being started, or sent something.
const LOOKS: usize = 3;
/// The number that stands for the first descriptor that a rule names; no process has as many.
const NAMED: usize = 1 << 20;
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// `bulkhead audit`.
pub fn audit(flags: &AuditFlags) -> Result<ExitCode, Problem> {
    let arch = flags.arch.unwrap_or(Arch::host());
    if let [role, call, args @ ..] = flags.explain.as_slice() {
        return explain(&profile_of(role, arch)?, call, args);
    }
    if let Some(role) = &flags.profile {
        return show_profile(flags, &Review::of(&profile_of(role, arch)?)).map(|()| ExitCode::SUCCESS);
    }
    vm(&flags.target)
}

fn vm(target: &Target) -> Result<ExitCode, Problem> {
    let target = target.resolved()?;
    let mut expected = Expected::default();
    let mut looks = Vec::new();
    let mut name = String::new();
    for look in 0..LOOKS {
        if look > 0 {
            sleep(LOOK_INTERVAL);
        }
        let snapshot = snapshot_of(&target)?;
        let Some(shape) = &snapshot.status.shape else {
            return Err(Problem::new(
                Class::State,
                "this VM does not say which processes it has to have",
                &snapshot.status.name,
                "audit it with the program that started it",
            ));
        };
        name.clone_from(&snapshot.status.name);
        let audited = live::audit(&name, shape, &snapshot.processes, &mut expected);
        let is_right = audited.iter().all(|audited| audited.drift.is_empty() && audited.is_found);
        looks.push(audited);
        if is_right {
            looks.drain(..looks.len().saturating_sub(1));
            break;
        }
    }
    let audited = live::lasting(&looks);
    show(&target, &name, &audited)?;
    let found = audited.iter().all(|audited| audited.is_found);
    Ok(if audited.iter().any(|audited| !audited.drift.is_empty()) {
        ExitCode::FAILURE
    } else if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Class::State.exit_code())
    })
}

fn show(target: &Target, vm: &str, audited: &[Audited]) -> Result<(), Problem> {
    if target.json {
        return show_json(&Answer { vm, processes: audited });
    }
    let mut table = new_table(&["PROCESS", "PID", "PROFILE", "GUEST RAM", "FOUND"]);
    for Audited { process, pid, profile, maps_guest_ram, drift, right, not_seen, .. } in audited {
        let mut found: Vec<String> = drift.iter().map(|drift| format!("DRIFT: {drift}")).collect();
        found.extend(right.iter().cloned());
        found.extend(not_seen.iter().map(|what| format!("not seen: {what}")));
        table.add_row(vec![
            process.clone(),
            pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
            profile.clone(),
            match maps_guest_ram {
                Some(true) => "mapped",
                Some(false) => "not mapped",
                None => "not seen",
            }
            .to_owned(),
            found.join("\n"),
        ]);
    }
    let count: usize = audited.iter().map(|audited| audited.drift.len()).sum();
    let verdict = match count {
        0 if audited.iter().any(|audited| !audited.is_found) => {
            "no process differs of those that were found; not all were".to_owned()
        }
        0 => "every process is as its profile and the system table say, as far as it was seen".to_owned(),
        count => format!("{count} differences: see the lines marked DRIFT"),
    };
    print(&format!("{table}\n{vm}: {verdict}\n"))
}

fn profile_of(role: &str, arch: Arch) -> Result<Profile, Problem> {
    let all = profiles::all(arch);
    let names: Vec<&str> = all.iter().map(|profile| profile.name).collect();
    let advice = format!("give one of {}", names.join(", "));
    all.into_iter()
        .find(|profile| profile.name == role)
        .ok_or_else(|| Problem::usage(format!("there is no profile {role:?} on {arch}"), "--profile", advice))
}

fn show_profile(flags: &AuditFlags, review: &Review) -> Result<(), Problem> {
    if let Some(file) = &flags.diff {
        let old = read_review(file)?;
        if (&old.profile, &old.arch) != (&review.profile, &review.arch) {
            let what = format!("this is profile {} on {}", old.profile, old.arch);
            let advice = format!("give one of {} on {}", review.profile, review.arch);
            return Err(Problem::usage(what, printable::path(file), advice));
        }
        let changes = review.changes_since(&old);
        let none = || "no difference\n".to_owned();
        return print(&if changes.is_empty() { none() } else { format!("{}\n", changes.join("\n")) });
    }
    match flags.format {
        Format::Json => show_json(review),
        Format::Markdown => print(&review.markdown()),
        Format::Oci => {
            let (seccomp, lost) = oci::seccomp(review);
            for what in lost {
                // With standard error closed the object is printed all the same.
                let _ = writeln!(
                    std::io::stderr(),
                    "wider than the profile, for the form has no names of descriptors: {what}"
                );
            }
            show_json(&seccomp)
        }
        Format::Text => print(&review.text()),
    }
}

fn read_review(file: &Path) -> Result<Review, Problem> {
    let refuse = |why: String| {
        let advice = "give what `bulkhead audit --profile ROLE --format json` has printed";
        Problem::usage(format!("this is no profile: {why}"), printable::path(file), advice)
    };
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
}

fn explain(profile: &Profile, call: &str, given: &[String]) -> Result<ExitCode, Problem> {
    // A rule about a descriptor is about the number that it has in a process: here its name is its value.
    let names: Vec<&str> = profile
        .rule(call)
        .into_iter()
        .flat_map(|rule| rule.when.iter().flatten())
        .filter_map(|check| check.slot)
        .collect();
    let number_of = |name: &str| names.iter().position(|known| *known == name).map(|at| NAMED + at);
    let numbered = profile
        .clone()
        .with_numbers(|slot| number_of(slot).and_then(|number| number.try_into().ok()).into_iter().collect());
    let mut args = [0u64; 6];
    for ((index, text), arg) in (0..).zip(given).zip(&mut args) {
        let value = match arguments::nth(call, index) {
            _ if number_of(text).is_some() => number_of(text).and_then(|number| number.try_into().ok()),
            Some(argument) => argument.parse(text),
            None => arguments::number(text),
        };
        *arg = value.ok_or_else(|| {
            let advice = "give a number, decimal or as 0x..., or names of values as in C, joined by |";
            Problem::usage(format!("argument {index} of {call} cannot be {text:?}"), "--explain", advice)
        })?;
    }
    let shown = arguments::show_call(call, &args);
    if profile.absent.contains(&call) {
        print(&format!(
            "{shown}: answered ENOSYS in `{}`, as if the kernel had no such call\n",
            profile.name
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    if let Some(why) = numbered.refusal(call, &args) {
        let hint = if names.is_empty() {
            String::new()
        } else {
            format!(
                "; descriptors that its rules name: {}",
                BTreeSet::from_iter(&names).into_iter().copied().collect::<Vec<_>>().join(", ")
            )
        };
        print(&format!("{shown}: refused, and ends the process: {why}{hint}\n"))?;
        return Ok(ExitCode::FAILURE);
    }
    let rule = Review::of(profile).rules.into_iter().find(|rule| rule.syscall == call);
    let (lines, purposes) = rule.map(|rule| (rule.lines(), rule.needed_for)).unwrap_or_default();
    print(&format!(
        "{shown}: allowed in `{}`, for {}\nthe rule: {}\n",
        profile.name,
        purposes.join("; "),
        lines.join("\n      or: ")
    ))?;
    Ok(ExitCode::SUCCESS)
}
