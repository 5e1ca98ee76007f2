// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs that ship boot a guest on the lab server, on software vCPUs and on KVM.

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    guest::{GuestFiles, USER_SPACE_MARK},
    vm::{Options, Vm},
};

use super::Verdict;
use crate::{
    places,
    report::Report,
    suite::{self, Which},
};

const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(30);

/// How often a register is read and written to see what that costs.
const ACCESSES: u64 = 200;
/// What the console's interrupts may add to a count or take from it: what is typed comes in pieces. (Seen: 3.)
const TOLERANCE: u64 = 20;

/// SMMU_GERRORN, which the guest may write at any time (IHI 0070 section 6.3.20), from the start of the registers.
const SMMU_GERRORN: u64 = 0x64;

/// On software vCPUs.
pub fn software(report: &mut Report<'_>) -> Result<Verdict> {
    let mut vm = boot(report, "soft", &["--cpu", "soft"])?;
    confined(&vm, report)?;
    end(&mut vm)
}

/// On KVM with one CPU, and what the guest's accesses to its SMMU cost there.
pub fn kvm(report: &mut Report<'_>) -> Result<Verdict> {
    let mut vm = boot(report, "kvm", &["--cpu", "kvm"])?;
    confined(&vm, report)?;
    exits(&mut vm, report)?;
    end(&mut vm)
}

/// The engine on KVM by itself, with guests of a few instructions.
pub fn kvm_engine(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "vcpu-unit", Which::Only(&["kvm::"]))?;
    Ok(Verdict::Shown)
}

/// On KVM with two CPUs, both at work.
pub fn kvm_two(report: &mut Report<'_>) -> Result<Verdict> {
    let mut vm = boot(report, "kvm-two", &["--cpu", "kvm", "--vcpus", "2"])?;
    let count = vm.console.run("nproc", COMMAND)?.output;
    ensure!(count == "2", "the guest has {count} CPUs, not 2");
    let timers = vm.console.run("grep arch_timer /proc/interrupts", COMMAND)?.output;
    let per_cpu: Vec<u64> = timers.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    ensure!(
        per_cpu.len() == 2 && per_cpu.iter().all(|count| *count > 0),
        "a CPU has no timer interrupts: {timers}"
    );
    report.evidence(format!("2 CPUs, timer interrupts {per_cpu:?}"))?;
    end(&mut vm)
}

/// On KVM with two CPUs at work, moved into new processes again and again: nothing is lost, and time goes on.
pub fn kvm_moved(report: &mut Report<'_>) -> Result<Verdict> {
    moved(report, 5)
}

/// The same, so often that what is lost in one move of many shows.
pub fn kvm_moved_often(report: &mut Report<'_>) -> Result<Verdict> {
    moved(report, 100)
}

fn moved(report: &mut Report<'_>, moves: u64) -> Result<Verdict> {
    // Twice for each move, and further.
    let counts = 3 * moves;
    let mut vm = boot(report, "kvm-moved", &["--cpu", "kvm", "--vcpus", "2"])?;
    // A CPU that never sleeps beside one that counts, checks a hash over its memory, and compares clocks.
    vm.console.run("(while :; do :; done) & spin=$!", COMMAND)?;
    vm.console.send(&format!("continuity {counts} 0.1\n"))?;
    vm.console.wait_for("continuity 1 ok", BOOT)?;
    let mut downtimes = Vec::new();
    for turn in 1..=moves {
        let moved: Value = serde_json::from_str(&vm.control_json("save-restore")?).context("not JSON")?;
        let number =
            |name: &str| moved.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}"));
        ensure!(number("generation")? == turn + 1, "the guest is in generation {}", number("generation")?);
        downtimes.push(number("downtime_us")? / 1000);
        vm.console.wait_for(&format!("continuity {} ok", 1 + 2 * turn), BOOT)?;
    }
    vm.control_json("pause")?;
    vm.control_json("resume")?;
    vm.console.wait_for(&format!("continuity {counts} ok"), BOOT)?;
    ensure!(!vm.console.transcript().contains("FAILED"), "the guest noticed: {}", vm.console.transcript());
    report.evidence(format!(
        "{moves} moves under load, guest counts to {counts}; downtimes in ms {downtimes:?}"
    ))?;
    vm.console.run("kill $spin", COMMAND)?;
    end(&mut vm)
}

/// A guest at its shell, sealed processes below it.
fn boot(report: &mut Report<'_>, name: &str, flags: &[&str]) -> Result<Vm> {
    let files = GuestFiles::in_cache(Path::new(places::GUEST));
    let mut options = Options::new(places::PROGRAMS.into(), files, name);
    options.memory = "128M".into();
    options.extra = "quiet".into();
    options.arguments = flags.iter().map(ToString::to_string).collect();
    let start = Instant::now();
    let mut vm = Vm::launch(options)?;
    vm.console.wait_for(USER_SPACE_MARK, BOOT).with_context(|| vm.console.errors())?;
    let took = start.elapsed().as_secs_f64();
    vm.console.shell(BOOT)?;
    let answer = vm.console.run("uname -rm", COMMAND)?;
    ensure!(answer.code == 0, "`uname` ended with {}", answer.code);
    report.evidence(format!("{} in user space after {took:.1} s", answer.output))?;
    Ok(vm)
}

fn end(vm: &mut Vm) -> Result<Verdict> {
    vm.power_off(COMMAND)?;
    let left = vm.left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(Verdict::Shown)
}

/// Reads of the SMMU's registers stay in the guest; each write leaves it once.
fn exits(vm: &mut Vm, report: &mut Report<'_>) -> Result<()> {
    let log = vm.console.run("dmesg | grep -m 1 arm-smmu-v3", COMMAND)?.output;
    let base = log.split("arm-smmu-v3 ").nth(1).and_then(|rest| rest.split('.').next()).unwrap_or_default();
    let base = u64::from_str_radix(base, 16).with_context(|| format!("the SMMU's address in {log:?}"))?;
    let register = base + SMMU_GERRORN;
    let value = vm.console.run(&format!("devmem {register:#x} 32"), COMMAND)?;
    ensure!(value.code == 0, "the guest's devmem does not work: {}", value.output);
    // The console's own accesses are in all counts, so a loop that touches nothing is the zero of the scale. The
    // numbers of commands go over it too: from here on they all have two digits.
    for _ in 0..10 {
        vm.console.run("true", COMMAND)?;
    }
    let nothing = exits_of(vm, "true")?;
    let reads = exits_of(vm, &format!("devmem {register:#x} 32"))?;
    let writes = exits_of(vm, &format!("devmem {register:#x} 32 {}", value.output.trim()))?;
    for (what, seen) in
        [("an empty loop", &nothing), ("reads of an SMMU register", &reads), ("writes of it", &writes)]
    {
        report.evidence(format!("{ACCESSES} x {what}: {seen}"))?;
    }
    ensure!(reads.to_user < nothing.to_user + TOLERANCE, "reads of the SMMU's registers leave the guest");
    ensure!(
        writes.to_user.abs_diff(nothing.to_user + ACCESSES) < TOLERANCE,
        "writes do not leave the guest once each"
    );
    Ok(())
}

/// Exits of the guest, as the kernel counts them (KVM_GET_STATS_FD).
struct Exits {
    all: u64,
    to_user: u64,
    in_kernel: u64,
    /// Accesses to devices by our own count, for which the kernel has no direction.
    reads: u64,
    writes: u64,
}

impl Exits {
    fn now(vm: &Vm) -> Result<Self> {
        let counter = |name| vm.counter(name).with_context(|| format!("there is no counter {name}"));
        Ok(Self {
            all: counter("exits")?,
            to_user: counter("mmio_exit_user")?,
            in_kernel: counter("mmio_exit_kernel")?,
            reads: counter("mmio-reads")?,
            writes: counter("mmio-writes")?,
        })
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, to_user, in_kernel, reads, writes } = self;
        write!(
            f,
            "mmio_exit_user {to_user} (reads {reads}, writes {writes}), mmio_exit_kernel {in_kernel}, exits {all}"
        )
    }
}

/// The exits while the guest runs `command` again and again.
fn exits_of(vm: &mut Vm, command: &str) -> Result<Exits> {
    const SCRIPT: &str = "/tmp/accesses";
    // What is typed and printed while counting is the same whatever the command.
    let script = format!("for i in $(seq {ACCESSES}); do {command} >/dev/null; done");
    vm.console.run(&format!("echo '{script}' >{SCRIPT}"), COMMAND)?;
    let before = Exits::now(vm)?;
    let answer = vm.console.run(&format!("sh {SCRIPT}"), COMMAND)?;
    ensure!(answer.code == 0 && answer.output.is_empty(), "`{command}` in the guest: {}", answer.output);
    let after = Exits::now(vm)?;
    Ok(Exits {
        all: after.all - before.all,
        to_user: after.to_user - before.to_user,
        in_kernel: after.in_kernel - before.in_kernel,
        reads: after.reads - before.reads,
        writes: after.writes - before.writes,
    })
}

/// Every process is what its profile says: the product's own audit, from outside.
pub fn confined(vm: &Vm, report: &mut Report<'_>) -> Result<()> {
    let rows = vm.processes()?;
    let mut names = Vec::new();
    for row in &rows {
        let name = row.get("name").and_then(Value::as_str).unwrap_or("?");
        let drift = row.pointer("/observed/drift").and_then(Value::as_array);
        let drift = drift.with_context(|| format!("{name} was not audited"))?;
        ensure!(drift.is_empty(), "{name} is not as its profile says: {drift:?}");
        names.push(name);
    }
    report.evidence(format!("no drift: {}", names.join(" ")))
}
