// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a device of the server's is killed under the guest's I/O: its next life takes over what the host does
//! for the device, and the guest does not notice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::Spread;
use tests::crash::{Life, kill_and_await};
use tests::disk::work;
use tests::draw::Draw;
use tests::starved;
use tests::vm::Vm;

use super::Verdict;
use super::vfio_guest::{COMMAND, boot_with, disk_of, run};
use crate::report::Report;
use crate::seen::{self, NVME};

/// The process of the guest's first device.
const PROCESS: &str = "vfio0";
/// Says where its two disks are, by their numbers.
const ADDRESSES: &str = "until [ -b /dev/nvme1n1 ]; do sleep 0.1; done; \
    cat /sys/class/nvme/nvme0/address /sys/class/nvme/nvme1/address";
const KILLS: u32 = 5;
const KILLS_OFTEN: u32 = 100;
/// Milliseconds of the guest's work before a kill.
const BEFORE_MAX: u64 = 400;
/// What a next life must not ask the kernel for.
const DISTURBING: [&str; 7] = [
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "VFIO_DEVICE_RESET",
    "interrupts_disconnected",
    "IOMMU_IOAS_MAP_FILE",
    "IOMMU_HWPT_ALLOC",
    "IOMMU_VIOMMU_ALLOC",
];

/// Kills under I/O through the guest's own tables, and a gap that lasts.
pub fn everyday(report: &mut Report<'_>) -> Result<Verdict> {
    killed(report, KILLS)
}

/// The same many times.
pub fn often(report: &mut Report<'_>) -> Result<Verdict> {
    killed(report, KILLS_OFTEN)
}

fn killed(report: &mut Report<'_>, kills: u32) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let device = seen::functions_with(NVME)?.into_iter().next().context("the server has no NVMe")?;
    device.bind_to_vfio()?;
    let flags = ["--vfio", &device.address, "--device-restarts-per-minute", "1000"].map(String::from);
    let mut vm = boot_with(report, flags.clone(), "kvm", "iommu.passthrough=0 iommu.strict=1")?;
    under_io(report, &mut vm, kills)?;
    let rounds = work::finish_unnoticed(vm, COMMAND)?;
    report.evidence(format!(
        "{rounds} rounds of a MiB written and read back, none wrong; no word of the guest's drivers"
    ))?;
    // In bypass, so that the guest has no orders for its SMMU, which would wait.
    let mut vm = boot_with(report, flags, "kvm", "iommu.passthrough=1")?;
    in_the_gap(report, &mut vm)?;
    vm.finish(COMMAND)?;
    Ok(Verdict::Shown)
}

/// Of two devices the guest loses one for good, under I/O on the other, which has to wait until the lost one does no
/// DMA any more. Then nobody of the machine holds it: the server's own driver can have it.
pub fn lost(report: &mut Report<'_>) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let devices = seen::functions_with(NVME)?;
    let [first, second, ..] = &devices[..] else { return Ok(Verdict::Skipped("it takes two NVMes".into())) };
    let mut flags = ["--device-restart", "never"].map(String::from).to_vec();
    for device in &devices {
        device.bind_to_vfio()?;
        flags.extend(["--vfio".to_owned(), device.address.clone()]);
    }
    let mut vm = boot_with(report, flags, "kvm", "iommu.passthrough=0 iommu.strict=1")?;
    // The one that it does not work on: its kernel finds them side by side, and numbers them as they come.
    let works_on_first = run(&mut vm, ADDRESSES)?.lines().is_sorted();
    let (other, device) = if works_on_first { ("vfio1", second) } else { (PROCESS, first) };
    work::begin(&mut vm.console, COMMAND)?;
    let life = Life::of(&vm, other)?.with_context(|| format!("there is no process {other}"))?;
    ensure!(life.kill(), "{other} has ended before");
    let begun = Instant::now();
    device.rebind("nvme")?;
    let disk = disk_of(device)?;
    report.evidence(format!(
        "{other} killed, and not followed: the server has its disk as {} after {:.1} s, while the guest runs",
        disk.display(),
        begun.elapsed().as_secs_f64()
    ))?;
    for _ in 0..3 {
        work::another_round(&mut vm.console, COMMAND).with_context(|| vm.console.errors())?;
    }
    let status = vm.control_json("status")?;
    ensure!(status.contains(other), "the guest has lost nothing: {status}");
    let rounds = work::end(&mut vm.console, COMMAND)?;
    let late = run(&mut vm, "dmesg | grep 'CMD_SYNC timeout' || true")?;
    let late = starved::unexplained(late);
    ensure!(late.is_empty(), "the guest's commands to its SMMU did not complete: {late}");
    report
        .evidence(format!("{rounds} rounds of a MiB on the other disk, none wrong, no command timed out"))?;
    vm.finish(COMMAND)?;
    Ok(Verdict::Shown)
}

fn under_io(report: &mut Report<'_>, vm: &mut Vm, kills: u32) -> Result<()> {
    work::begin(&mut vm.console, COMMAND)?;
    let mut draw = Draw::by_seed();
    let mut gaps = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
        gaps.push(kill_and_await(vm, PROCESS, COMMAND).with_context(|| vm.console.errors())?);
        work::another_round(&mut vm.console, COMMAND).with_context(|| vm.console.errors())?;
    }
    let inspect = vm.control_json("inspect")?;
    for call in DISTURBING {
        ensure!(vm.counter(call).is_none(), "the next life has called {call}: {inspect}");
    }
    let of = |name: &str| vm.counter(name).with_context(|| format!("no counter {name}: {inspect}"));
    // The queue of events, which was the life before's.
    let destroyed = of("IOMMU_DESTROY")?;
    ensure!(destroyed == 1, "{destroyed} objects were destroyed: {inspect}");
    let (given, heard, slots) = (of("given")?, of("vectors")?, of("vfio0.slots")?);
    ensure!(given > 0 && heard > 0 && slots > 0, "{given} vectors given, {heard} heard, {slots} slots");
    report.evidence(format!("{kills} kills under I/O: back after {}", Spread::of(gaps)))?;
    report.evidence(format!(
        "calls of the last life: {} of VFIO_DEVICE_SET_IRQS, {destroyed} IOMMU_DESTROY; none of {}",
        of("VFIO_DEVICE_SET_IRQS")?,
        DISTURBING.join(", ")
    ))?;
    report.evidence(format!("{heard} of {given} vectors on irqfds and {slots} slots after it"))
}

/// While there is no process, because nobody starts one, the device goes on: its DMA and its interrupts.
fn in_the_gap(report: &mut Report<'_>, vm: &mut Vm) -> Result<()> {
    let pid = |name: &str| -> Result<Pid> {
        Ok(Life::of(vm, name)?.with_context(|| format!("there is no process {name}"))?.pid)
    };
    let (coordinator, process) = (pid("coordinator")?, pid(PROCESS)?);
    let generation = Life::of(vm, PROCESS)?.map(|life| life.generation);
    kill_process(coordinator, Signal::STOP).context("stop the coordinator")?;
    kill_process(process, Signal::KILL).context("kill the device's process")?;
    let begun = Instant::now();
    let read = "dd if=/dev/nvme0n1 of=/dev/null bs=4k count=256 iflag=direct 2>/dev/null";
    let before = interrupts(vm)?;
    let done = run(vm, read);
    let after = interrupts(vm)?;
    let span = begun.elapsed();
    kill_process(coordinator, Signal::CONT).context("let the coordinator go on")?;
    done?;
    ensure!(after >= before + 256, "256 reads made {} interrupts", after - before);
    while Life::of(vm, PROCESS)?.is_none_or(|life| Some(life.generation) <= generation) {
        ensure!(begun.elapsed() < COMMAND, "no next life: {}", vm.console.errors());
    }
    run(vm, read)?;
    report.evidence(format!(
        "in a gap of {:.1} s the guest read 256 blocks with {} interrupts",
        span.as_secs_f64(),
        after - before
    ))
}

/// How often the disk has interrupted the guest, which has one CPU.
fn interrupts(vm: &mut Vm) -> Result<u64> {
    let lines = run(vm, "grep nvme0q /proc/interrupts")?;
    let counts = lines.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(counts.sum())
}
