// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of a running VM beside their rows of the system table and their profiles, by what the kernel shows.

use std::collections::BTreeMap;
use std::path::Path;

use ipc::instance::InstanceId;
use serde::Serialize;

use super::descriptors::{self, memory_name};
use super::filters::{Expected, Seen};
use super::mappings;
use crate::api::types::Process;
use crate::launcher::programs;
use crate::printable;
use crate::system::{Instance, Shape, System};

/// A process as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// Its name in the system table.
    pub process: String,
    /// Its number on this host, if it was found.
    pub pid: Option<i32>,
    /// Which life of this process it is.
    pub generation: u32,
    /// The name of its sandbox profile.
    pub profile: String,
    /// Whether guest RAM is mapped there, if that can be seen.
    pub maps_guest_ram: Option<bool>,
    /// Every difference from what it is to be; empty is good.
    pub drift: Vec<String>,
    /// What was compared and is right.
    pub right: Vec<String>,
    /// What cannot be seen from here, and why.
    pub not_seen: Vec<String>,
    /// For how many microseconds it was stopped to read its filters.
    pub stopped_us: Option<u64>,
}

/// Compares each of these processes, which `ps` has observed.
pub fn audit(vm: &str, shape: &Shape, rows: &[Process], expected: &mut Expected) -> Vec<Audited> {
    let system = System::new(shape);
    rows.iter().map(|row| one(vm, &system, row, expected)).collect()
}

fn one(vm: &str, system: &System, row: &Process, expected: &mut Expected) -> Audited {
    let mut audited = Audited {
        process: row.name.clone(),
        pid: row.host_pid,
        generation: row.generation,
        profile: row.profile.clone(),
        maps_guest_ram: None,
        drift: Vec::new(),
        right: Vec::new(),
        not_seen: Vec::new(),
        stopped_us: None,
    };
    let instance = row.name.parse::<InstanceId>().ok().and_then(|id| system.get(id));
    let (Some(pid), Some(instance)) = (row.host_pid, instance) else {
        audited.not_seen.push("the process: it is not among those that this user's /proc shows".to_owned());
        return audited;
    };
    match &row.observed {
        Some(observed) => {
            audited.drift.extend(observed.drift.iter().cloned());
            audited.not_seen.extend(observed.unread.iter().cloned());
            // Descriptors and filters are looked at more closely below.
            let is_rough = |fact: &&String| fact.ends_with(" fds") || fact.starts_with("seccomp ");
            audited.right.extend(observed.facts.iter().filter(|fact| !is_rough(fact)).cloned());
        }
        None => audited.drift.push(format!("profile: this build has none called `{}`", row.profile)),
    }
    look(vm, system, (row, instance, pid), &mut audited);
    match expected.compare(pid, &row.profile) {
        Seen::Right { count, stopped_for } => {
            audited.right.push(format!("{count} seccomp filters, each instruction as in its profile"));
            audited.stopped_us = u64::try_from(stopped_for.as_micros()).ok();
        }
        Seen::Wrong(why) => audited.drift.push(format!("seccomp filters: {why}")),
        Seen::Unread(why) => audited.not_seen.push(format!("seccomp filters, beyond their number: {why}")),
    }
    audited.not_seen.push("Landlock: the kernel shows no process's rules".to_owned());
    audited
}

/// Program, descriptors and mappings.
fn look(vm: &str, system: &System, (row, instance, pid): (&Process, &Instance, i32), audited: &mut Audited) {
    let program = match sandbox::audit::program(pid) {
        Ok(program) => program,
        Err(why) => return audited.not_seen.push(format!("program, mappings: {why}")),
    };
    match installed(row, &program) {
        Ok(()) => audited.right.push(format!("executes {program}")),
        Err(why) => audited.drift.push(format!("program: it executes {program}, {why}")),
    }
    // Where they cannot be listed, `ps` has said so.
    if let Ok(open) = sandbox::audit::observe(pid).descriptors {
        let extra = descriptors::compare(vm, system, instance, &open);
        if extra.is_empty() {
            audited.right.push(format!("{} descriptors, all of known kinds", open.len()));
        }
        audited.drift.extend(extra.into_iter().map(|what| format!("descriptors: it holds {what}")));
    }
    match sandbox::audit::mappings(pid) {
        Ok(mapped) => {
            let extra = mappings::compare(vm, system, instance, &program, &mapped);
            if extra.is_empty() {
                audited.right.push("maps its program, private memory and the objects that it may".to_owned());
            }
            audited.drift.extend(extra.into_iter().map(|what| format!("mappings: it has {what}")));
            audited.maps_guest_ram = Some(mappings::has_guest_ram(vm, &mapped));
        }
        Err(why) => audited.not_seen.push(format!("mappings: {why}")),
    }
}

/// Whether the program that a process executes is the one that is installed beside this one, or that a user gave.
fn installed(row: &Process, program: &str) -> Result<(), String> {
    if let Some(given) = &row.program_file {
        let name = Path::new(given).file_name().map(|name| name.to_string_lossy().into_owned());
        let is_copy = memory_name(program).is_some_and(|copied| Some(copied) == name.as_deref());
        return if is_copy { Ok(()) } else { Err(format!("and not a copy of {given}")) };
    }
    let installed = programs::path(&row.program).map_err(|problem| problem.to_string())?;
    if Path::new(program) == installed {
        Ok(())
    } else {
        Err(format!("and not {}", printable::path(&installed)))
    }
}

/// What is wrong in every one of several looks at the same life: a process that is being started, ended or sent
/// something is caught in between by one look, and not by the next.
pub fn lasting(looks: &[Vec<Audited>]) -> Vec<Audited> {
    let Some((last, before)) = looks.split_last() else { return Vec::new() };
    let by_life = |look: &[Audited]| -> BTreeMap<(String, u32, Option<i32>), Vec<String>> {
        look.iter()
            .map(|audited| {
                ((audited.process.clone(), audited.generation, audited.pid), audited.drift.clone())
            })
            .collect()
    };
    let before: Vec<_> = before.iter().map(|look| by_life(look)).collect();
    let kept = |audited: &Audited| {
        let life = (audited.process.clone(), audited.generation, audited.pid);
        let is_lasting = |drift: &&String| {
            before.iter().all(|look| look.get(&life).is_some_and(|known| known.contains(drift)))
        };
        let drift = audited.drift.iter().filter(is_lasting).cloned().collect();
        Audited { drift, ..audited.clone() }
    };
    last.iter().map(kept).collect()
}
