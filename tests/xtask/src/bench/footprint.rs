// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench footprint`: what memory the processes of an idle guest have, by the kernel's own count.
//!
//! A guest with one NVMe disk boots to its prompt and is left alone; then `smaps` of each process is read. *Private*
//! are pages that no other process has mapped: what the process costs. *Proportional* adds its share of programs that
//! several run. Shared memory files (guest RAM, dirty logs, rings) are left out: they are the guest's size, and the
//! same whoever maps them. A sealed process shows its maps to root alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use ::tests::{
    disk,
    guest::{GuestFiles, PROMPT},
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};

use crate::{
    guest,
    product::{self, Profile},
    progress::Step,
};

const BOOT: Duration = Duration::from_secs(180);
const END: Duration = Duration::from_secs(30);
/// How long a guest is left alone at its prompt: its kernel frees what it started with.
const IDLE: Duration = Duration::from_secs(5);
/// The guest's disk.
const DISK_MIB: u64 = 64;

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-footprint-options")]
pub struct Options {
    /// Programs that are built already, instead of those of the tree
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Programs of another build, measured in the same run
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
    #[command(flatten)]
    guest: guest::Options,
}

/// Memory of one process, or of several, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Footprint {
    private: u64,
    proportional: u64,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Release)?;
    let files = guest::obtain(&options.guest)?;
    let ours = measured(&programs, &files)?;
    let theirs = options.against.as_deref().map(|folder| measured(folder, &files)).transpose()?;
    println!("{}", table(&ours, theirs.as_ref()));
    Ok(ExitCode::SUCCESS)
}

/// The processes of an idle guest, by name.
fn measured(programs: &Path, files: &GuestFiles) -> Result<BTreeMap<String, Footprint>> {
    let programs = fs::canonicalize(programs).with_context(|| programs.display().to_string())?;
    let step = Step::begin(format!("an idle guest of {}", programs.display()));
    let folder = tempfile::tempdir().context("a folder for the disk")?;
    let options = vm::Options {
        nvme: vec![disk::image(&folder, DISK_MIB)?],
        ..vm::Options::new(programs.clone(), files.clone(), "footprint")
    };
    let mut vm = Vm::launch(options)?;
    let reached = vm.console.wait_for(PROMPT, BOOT).and_then(|_| vm.console.wait_for("# ", BOOT));
    reached.with_context(|| format!("the boot: {}", vm.console.errors().trim()))?;
    thread::sleep(IDLE);
    let seen = processes(&programs)?;
    vm.power_off(END)?;
    let hint = "only root may see the memory of sealed processes";
    ensure!(seen.len() > 1, "processes of {} cannot be seen: {hint}", programs.display());
    step.done(&format!("{} processes", seen.len()));
    Ok(seen)
}

/// Every process that runs a program of this folder. Machines of the same build that run beside this one are counted
/// too.
fn processes(programs: &Path) -> Result<BTreeMap<String, Footprint>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let process = entry.path();
        // One that ends meanwhile is none of an idle guest's.
        let Ok(program) = fs::read_link(process.join("exe")) else { continue };
        let Ok(program) = program.strip_prefix(programs) else { continue };
        let (Ok(line), Ok(maps)) =
            (fs::read(process.join("cmdline")), fs::read_to_string(process.join("smaps")))
        else {
            continue;
        };
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let name = match words.get(1).map(AsRef::as_ref) {
            Some("run") | None => "launcher".to_owned(),
            Some(name) if program == Path::new("bulkhead") => name.to_owned(),
            Some(name) => format!("{name} ({})", program.display()),
        };
        let before = found.insert(name, Footprint::read(&maps)?);
        ensure!(before.is_none(), "another machine of {} runs", programs.display());
    }
    Ok(found)
}

impl Footprint {
    /// From the text of a process's `smaps`.
    fn read(maps: &str) -> Result<Self> {
        let (mut sum, mut is_counted) = (Self::default(), false);
        for line in maps.lines() {
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains('-')) else {
                is_counted = !line.contains("/memfd:");
                continue;
            };
            let counted = match name {
                "Private_Clean" | "Private_Dirty" => &mut sum.private,
                "Pss" => &mut sum.proportional,
                _ => continue,
            };
            let count = value.trim().strip_suffix(" kB").and_then(|count| count.parse::<u64>().ok());
            let count = count.with_context(|| format!("no number of KiB: {line:?}"))?;
            *counted += if is_counted { count } else { 0 };
        }
        ensure!(sum.proportional > 0, "`smaps` has no memory counts");
        Ok(sum)
    }
}

fn table(ours: &BTreeMap<String, Footprint>, theirs: Option<&BTreeMap<String, Footprint>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
    let columns =
        ["process", "private KiB", "proportional KiB", "other private KiB", "other proportional KiB"];
    table.set_header(columns.iter().take(if theirs.is_some() { 5 } else { 3 }));
    let cells = |found: Option<Footprint>| match found {
        Some(Footprint { private, proportional }) => [private.to_string(), proportional.to_string()],
        None => [const { String::new() }; 2],
    };
    let sum = |all: &BTreeMap<String, Footprint>| {
        all.values().fold(Footprint::default(), |sum, one| Footprint {
            private: sum.private + one.private,
            proportional: sum.proportional + one.proportional,
        })
    };
    let names = ours.keys().chain(theirs.into_iter().flat_map(BTreeMap::keys));
    let names: std::collections::BTreeSet<&String> = names.collect();
    for name in names {
        let mut row = vec![name.clone()];
        row.extend(cells(ours.get(name).copied()));
        row.extend(theirs.into_iter().flat_map(|theirs| cells(theirs.get(name).copied())));
        table.add_row(row);
    }
    let mut row = vec!["together".to_owned()];
    row.extend(cells(Some(sum(ours))));
    row.extend(theirs.into_iter().flat_map(|theirs| cells(Some(sum(theirs)))));
    table.add_row(row);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "55d0c0000000-55d0c0001000 r-xp 00000000 08:01 77 /bin/bulkhead-smmu\nSize: 4 kB\nPss: 300 kB\n\
         Private_Clean: 100 kB\nPrivate_Dirty: 0 kB\nVmFlags: rd ex mr mw me\n\
         7f00c0000000-7f00c0001000 rw-s 00000000 00:01 9 /memfd:vm-guest-ram (deleted)\nPss: 4000 kB\n\
         Private_Clean: 0 kB\nPrivate_Dirty: 3000 kB\n7f00d0000000-7f00d0001000 rw-p 00000000 00:00 0 \n\
         Pss: 700 kB\nPss_Anon: 700 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: 700 kB\n";

    #[test]
    fn footprint_leaves_memory_files_out() {
        assert_eq!(Footprint::read(MAPS).unwrap(), Footprint { private: 800, proportional: 1000 });
    }

    #[test]
    fn footprint_of_maps_that_tell_nothing_is_refused() {
        assert!(Footprint::read("").is_err());
        assert!(Footprint::read(&MAPS.replace("300 kB", "300 pages")).is_err());
    }

    #[test]
    fn footprints_of_two_builds_stand_side_by_side() {
        let one = |name: &str| BTreeMap::from([(name.to_owned(), Footprint { private: 3, proportional: 5 })]);
        let text = table(&one("smmu0"), Some(&one("vcpu"))).to_string();
        assert!(text.contains("smmu0") && text.contains("vcpu") && text.contains("together"), "{text}");
    }
}
