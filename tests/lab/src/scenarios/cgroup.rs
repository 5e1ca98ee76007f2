// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine in a control group of its own: what bounds all of its processes together, on a kernel with the
//! controllers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    command::capture,
    guest::GuestFiles,
    vm::{Options, Vm},
};

use super::Verdict;
use crate::{places, report::Report};

const SOON: Duration = Duration::from_secs(60);
const NAME: &str = "bounded";
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Every process is in the group, its limits are the group's, the group goes with the machine, and its memory limit
/// holds.
pub fn bounded(report: &mut Report<'_>) -> Result<Verdict> {
    let Some(above) = place()? else {
        return Ok(Verdict::Skipped("this kernel has no controllers of memory, pids and CPU".into()));
    };
    let group = above.join(format!("bulkhead-{NAME}"));
    let read = |file: &str| -> Result<String> {
        let path = group.join(file);
        Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
    };

    let mut vm = launch(&above)?;
    let members = read("cgroup.procs")?.lines().count();
    ensure!(members == 3, "{members} processes are in the group, not coordinator, vCPU and SMMU");
    let seen = vm.control_json("ps")?;
    let limits = [read("memory.max")?, read("pids.max")?, read("cpu.weight")?, read("memory.oom.group")?];
    ensure!(limits[2..] == ["50", "1"], "CPU weight and group kills are {limits:?}");
    let shown =
        format!("control group: {} MiB, {} tasks, CPU weight 50", limits[0].parse::<u64>()? >> 20, limits[1]);
    ensure!(seen.matches(&shown).count() == 3, "`ps` does not say of each process {shown:?}: {seen}");
    let held: u64 = read("memory.current")?.parse()?;
    ensure!(held > 1 << 20, "the group holds only {held} bytes: guest RAM is not in it");
    report.evidence(format!("3 processes in one group: {shown}"))?;
    ensure!(vm.control::<&str>("stop", &[])?.status.success(), "the machine cannot be stopped");
    ensure!(vm.console.wait_exit(SOON)?.success(), "the machine did not end with exit code 0");
    ensure!(!group.exists(), "the group outlives its machine");

    let mut vm = launch(&above)?;
    fs::write(group.join("memory.max"), "1M").context("less memory than the machine has in use")?;
    let status = vm.console.wait_exit(SOON)?;
    ensure!(
        status.code() == Some(3),
        "without memory the machine ended with {status}: {}",
        vm.console.errors()
    );
    ensure!(
        vm.console.errors().contains("signal 9"),
        "the log does not report the end by signal 9: {}",
        vm.console.errors()
    );
    ensure!(!group.exists(), "the group outlives a machine that was killed");
    report
        .evidence("with less memory than it uses the whole machine is ended, and its launcher reports it")?;
    Ok(Verdict::Shown)
}

/// An empty group that delegates its controllers to groups inside of it; none if there are no controllers.
fn place() -> Result<Option<PathBuf>> {
    let mount = Path::new("/tmp/control-groups");
    fs::create_dir_all(mount)?;
    capture(Command::new("mount").args(["-t", "cgroup2", "none"]).arg(mount))?;
    let offered = fs::read_to_string(mount.join("cgroup.controllers"))?;
    if !CONTROLLERS.iter().all(|wanted| offered.split_whitespace().any(|controller| controller == *wanted)) {
        return Ok(None);
    }
    fs::write(mount.join("cgroup.subtree_control"), "+memory +pids +cpu").context("the controllers")?;
    let above = mount.join("machines");
    fs::create_dir(&above)?;
    Ok(Some(above))
}

fn launch(above: &Path) -> Result<Vm> {
    let mut options =
        Options::new(places::PROGRAMS.into(), GuestFiles::in_cache(Path::new(places::GUEST)), NAME);
    options.memory = "128M".into();
    options.arguments = ["--cpu", "soft", "--cpu-weight", "50", "--cgroup"].map(String::from).to_vec();
    options.arguments.push(above.display().to_string());
    let mut vm = Vm::launch(options)?;
    vm.wait_running(SOON).with_context(|| vm.console.errors())?;
    Ok(vm)
}
