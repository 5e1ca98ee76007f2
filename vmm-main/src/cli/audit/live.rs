// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of a running VM beside their rows of the system table and their profiles, by what the kernel shows.

use std::collections::BTreeMap;
use std::path::Path;

use ipc::instance::InstanceId;
use serde::Serialize;

use super::descriptors::{self, Vm, memory_name};
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
    /// Whether it was found, or is known to be dead.
    pub is_found: bool,
    /// Whether guest RAM is mapped there, if that can be seen.
    pub maps_guest_ram: Option<bool>,
    /// Every difference from what it is to be; empty is good.
    pub drift: Vec<String>,
    /// What was seen and differs from nothing.
    pub right: Vec<String>,
    /// What cannot be seen from here, and why.
    pub not_seen: Vec<String>,
    /// For how many microseconds it was stopped to read its filters.
    pub stopped_us: Option<u64>,
}

/// Compares each of these processes, which `ps` has observed.
pub fn audit(name: &str, shape: &Shape, rows: &[Process], expected: &mut Expected) -> Vec<Audited> {
    let given: Vec<String> = rows.iter().filter_map(|row| file_name(row.program_file.as_deref()?)).collect();
    let vm = Vm { name, system: &System::new(shape), given: &given };
    rows.iter().map(|row| one(vm, row, expected)).collect()
}

fn one(vm: Vm<'_>, row: &Process, expected: &mut Expected) -> Audited {
    let mut audited = Audited {
        process: row.name.clone(),
        pid: row.host_pid,
        generation: row.generation,
        profile: row.profile.clone(),
        is_found: true,
        maps_guest_ram: None,
        drift: Vec::new(),
        right: Vec::new(),
        not_seen: Vec::new(),
        stopped_us: None,
    };
    let Some(instance) = row.name.parse::<InstanceId>().ok().and_then(|id| vm.system.get(id)) else {
        audited.drift.push("process: the system table of this VM has none of this name".to_owned());
        return audited;
    };
    let Some(pid) = row.host_pid else {
        let why =
            if row.state == "dead" { "is dead" } else { "is not among those that this user's /proc shows" };
        audited.not_seen.push(format!("the process: it {why}"));
        audited.is_found = row.state == "dead";
        return audited;
    };
    if row.profile != instance.profile_name {
        audited.drift.push(format!("profile: `{}`, and not `{}`", row.profile, instance.profile_name));
    }
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
    look(vm, (row, instance, pid), &mut audited);
    match expected.compare(pid, instance.profile_name) {
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
fn look(vm: Vm<'_>, (row, instance, pid): (&Process, &Instance, i32), audited: &mut Audited) {
    let program = match sandbox::audit::program(pid) {
        Ok(program) => program,
        Err(why) => return audited.not_seen.push(format!("program, mappings: {why}")),
    };
    match installed(row, instance, &program) {
        Ok(()) => audited.right.push(format!("executes {program}")),
        Err(why) => audited.drift.push(format!("program: it executes {program}, {why}")),
    }
    // Where they cannot be listed, `ps` has said so.
    if let Ok(open) = sandbox::audit::descriptors(pid) {
        let extra = descriptors::compare(vm, instance, pid, &open);
        if extra.is_empty() {
            audited.right.push(format!("{} descriptors, all of known kinds", open.len()));
        }
        audited.drift.extend(extra.into_iter().map(|what| format!("descriptors: it holds {what}")));
    }
    match sandbox::audit::mappings(pid) {
        Ok(mapped) => {
            let extra = mappings::compare(vm.name, vm.system, instance, &program, &mapped);
            if extra.is_empty() {
                audited.right.push("maps its program, private memory and the objects that it may".to_owned());
            }
            audited.drift.extend(extra.into_iter().map(|what| format!("mappings: it has {what}")));
            audited.maps_guest_ram = Some(mappings::has_guest_ram(vm.name, &mapped));
        }
        Err(why) => audited.not_seen.push(format!("mappings: {why}")),
    }
}

/// Whether the program that a process executes is the one that is installed beside this one, or that a user gave.
fn installed(row: &Process, instance: &Instance, program: &str) -> Result<(), String> {
    if let Some(given) = &row.program_file {
        let is_copy = memory_name(program).is_some_and(|copied| file_name(given).as_deref() == Some(copied));
        return if is_copy { Ok(()) } else { Err(format!("and not a copy of {given}")) };
    }
    let installed = programs::path(instance.template.program).map_err(|problem| problem.to_string())?;
    if Path::new(program) == installed {
        Ok(())
    } else {
        Err(format!("and not {}", printable::path(&installed)))
    }
}

fn file_name(path: &str) -> Option<String> {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
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
        let drift: Vec<_> = audited.drift.iter().filter(is_lasting).cloned().collect();
        let passing = audited.drift.iter().filter(|seen| !drift.contains(seen));
        let mut kept = audited.clone();
        kept.not_seen.extend(passing.map(|seen| format!("whether this lasts, which was seen once: {seen}")));
        Audited { drift, ..kept }
    };
    last.iter().map(kept).collect()
}
