// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest on the server's KVM, with a device of the server's own: the whole way, by the programs that ship.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{
    command::capture,
    guest::{GuestFiles, USER_SPACE_MARK},
    vm::{Options, Vm},
};

use super::{Verdict, guest::confined, vfio_interrupts};
use crate::{
    places,
    report::Report,
    seen::{self, EDU, Function, NVME, POWER_MANAGEMENT},
    suite::{self, Which},
};

const BOOT: Duration = Duration::from_secs(90);
/// How long a command in the guest may take.
pub const COMMAND: Duration = Duration::from_secs(60);

/// The guest makes a file system on the server's NVMe and reads back what it wrote; the server finds it there
/// afterwards.
pub fn nvme(report: &mut Report<'_>) -> Result<Verdict> {
    disk(report, Signals::Messages)
}

/// The same by a guest that uses no messages: the device has its pin.
pub fn intx(report: &mut Report<'_>) -> Result<Verdict> {
    disk(report, Signals::Pin)
}

/// How the device interrupts its guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signals {
    Messages,
    Pin,
}

fn disk(report: &mut Report<'_>, signals: Signals) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let device = seen::functions_with(NVME)?.into_iter().next().context("the server has no NVMe")?;
    device.bind_to_vfio()?;
    let faults = faults()?;
    let extra = match signals {
        Signals::Messages => "iommu.passthrough=0 iommu.strict=1",
        Signals::Pin => "iommu.passthrough=0 iommu.strict=1 pci=nomsi",
    };
    let mut vm = boot(report, std::slice::from_ref(&device), "kvm", extra)?;
    let sum = use_disk(report, &mut vm, signals)?;
    switched_off(report, &mut vm, &device)?;
    two_stages(report, &mut vm)?;
    if signals == Signals::Messages {
        doorbells(report, &mut vm)?;
    }
    counters(report, &vm, signals)?;
    confined(&vm, report)?;
    vm.power_off(COMMAND)?;
    let left = vm.left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    ensure!(self::faults()? == faults, "the server's SMMU has reported events: see the kernel's log");
    found_outside(report, &device, &sum)?;
    Ok(Verdict::Shown)
}

/// Two devices, each its own process and iommufd, in the two other ways that a guest may treat them.
pub fn modes(report: &mut Report<'_>) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let devices = seen::functions_with(NVME)?;
    for device in &devices {
        device.bind_to_vfio()?;
    }
    for (extra, kind, attached) in [
        ("iommu.passthrough=0 iommu.strict=0", "DMA-FQ", "stage 1"),
        ("iommu.passthrough=1", "identity", "bypass"),
    ] {
        let mut vm = boot(report, &devices, "kvm", extra)?;
        for index in 0..devices.len() {
            let found = run(&mut vm, &format!("cat /sys/class/nvme/nvme{index}/device/iommu_group/type"))?;
            ensure!(found == kind, "with {extra}, the group of nvme{index} has type {found}, not {kind}");
            let disk = format!("/dev/nvme{index}n1");
            run(&mut vm, &format!("dd if=/dev/urandom of={disk} bs=1M count=4 conv=fsync 2>/dev/null"))?;
            let sum = |vm: &mut Vm| run(vm, &format!("dd if={disk} bs=1M count=4 2>/dev/null | sha256sum"));
            let before = sum(&mut vm)?;
            run(&mut vm, "echo 3 >/proc/sys/vm/drop_caches")?;
            ensure!(sum(&mut vm)? == before, "with {extra}, nvme{index} gives back something else");
        }
        let inspect = vm.control_json("inspect")?;
        ensure!(inspect.matches(&format!("\"{attached}\"")).count() >= devices.len(), "{inspect}");
        report
            .evidence(format!("{} devices, {extra}: groups {kind}, attached to {attached}", devices.len()))?;
        vm.power_off(COMMAND)?;
        let left = vm.left_over();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    }
    Ok(Verdict::Shown)
}

/// A guest whose device does forbidden DMA: the guest gets the events, and the host's log has none of them.
pub fn told_faults(report: &mut Report<'_>) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let edu = seen::functions_with(EDU)?.into_iter().next().context("the server has no edu device")?;
    edu.bind_to_vfio()?;
    let told = ["host::host_device_that", "host::host_device_under", "host::linux"];
    let before = faults()?;
    suite::run(report, "tests-faults", Which::Only(&told))?;
    ensure!(faults()? == before, "the server's own log has the guest's faults");
    suite::run(report, "tests-faults", Which::Only(&["host::host_device_beyond"]))?;
    ensure!(faults()? > before, "the server's own log has none of the faults in stage 2");
    let log = seen::kernel_log()?;
    report.evidence(format!("server: {}", seen::line(&log, "event: F_").unwrap_or_default()))?;
    Ok(Verdict::Shown)
}

/// The output of a command in the guest, which must end with exit code 0.
pub fn run(vm: &mut Vm, command: &str) -> Result<String> {
    let start = Instant::now();
    let answer = vm.console.run(command, COMMAND)?;
    println!("{:.1} s: {command}", start.elapsed().as_secs_f64());
    ensure!(answer.code == 0, "`{command}` ended with {} in the guest: {}", answer.code, answer.output);
    Ok(answer.output.trim().to_owned())
}

/// A guest at its shell, with these devices in the first slots.
pub fn boot(report: &mut Report<'_>, devices: &[Function], cpu: &str, extra: &str) -> Result<Vm> {
    let flags = devices.iter().flat_map(|device| ["--vfio".to_owned(), device.address.clone()]);
    boot_with(report, flags, cpu, extra)
}

/// A guest at its shell, with what devices these flags say.
pub fn boot_with(
    report: &mut Report<'_>,
    flags: impl IntoIterator<Item = String>,
    cpu: &str,
    extra: &str,
) -> Result<Vm> {
    let files = GuestFiles::in_cache(Path::new(places::GUEST));
    let mut options = Options::new(places::PROGRAMS.into(), files, "vfio");
    options.memory = "256M".into();
    options.extra = format!("quiet {extra}");
    // The emulated SMMU has no SubstreamIDs.
    options.arguments = ["--cpu", cpu, "--smmu-ssidsize", "0"].map(String::from).to_vec();
    options.arguments.extend(flags);
    let start = Instant::now();
    let mut vm = Vm::launch(options)?;
    vm.console.wait_for(USER_SPACE_MARK, BOOT).with_context(|| vm.console.errors())?;
    report.evidence(format!("guest's user space after {:.1} s", start.elapsed().as_secs_f64()))?;
    vm.console.shell(BOOT)?;
    vm.console.run("dmesg -n 1", COMMAND)?;
    Ok(vm)
}

/// In the guest: the disk is the server's, in a group of its own with the window mapped flat; returns the sum of what
/// was written and read back.
fn use_disk(report: &mut Report<'_>, vm: &mut Vm, signals: Signals) -> Result<String> {
    let mut output = |command: &str| run(vm, command);
    // Its driver looks at it while user space starts.
    output(
        "n=0; until [ -b /dev/nvme0n1 ]; do n=$((n+1)); [ $n -lt 200 ] || break; sleep 0.2; done; [ -b /dev/nvme0n1 ]",
    )?;
    let serial = output("cat /sys/class/nvme/nvme0/serial")?;
    ensure!(serial.starts_with("lab"), "the guest's NVMe has serial {serial:?}");
    let group = "/sys/class/nvme/nvme0/device/iommu_group";
    let kind = output(&format!("cat {group}/type"))?;
    ensure!(kind == "DMA", "the guest's group has type {kind}");
    let window = output(&format!("grep 0x0000000008000000 {group}/reserved_regions"))?;
    ensure!(window.contains(" direct"), "the guest does not map the window flat: {window}");
    let window = window.lines().find(|line| line.contains("direct")).unwrap_or_default();
    report.evidence(format!("guest: nvme0 {serial}, group type {kind}, {window}"))?;
    output("mke2fs -F /dev/nvme0n1 65536 >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/nvme0n1 /mnt")?;
    let start = Instant::now();
    output("dd if=/dev/urandom of=/mnt/data bs=1M count=16 && sync")?;
    let written = output("sha256sum </mnt/data")?;
    output("echo 3 >/proc/sys/vm/drop_caches")?;
    let read = output("sha256sum </mnt/data")?;
    ensure!(written == read, "what was read back is not what was written: {written}, {read}");
    report.evidence(format!(
        "16 MiB written, sum {:.12}, read back in {:.1} s",
        read,
        start.elapsed().as_secs_f64()
    ))?;
    let interrupts = output("grep nvme0q /proc/interrupts | tail -n 1")?;
    let kind = match signals {
        Signals::Messages => "MSI",
        Signals::Pin => "Level",
    };
    ensure!(interrupts.contains(kind), "not by {kind}: {interrupts}");
    let count: u64 =
        interrupts.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or_default();
    if signals == Signals::Pin {
        // One that is brought again although it was dealt with is seen by the guest and not by the device's process.
        let raised = vm.counter("raised").context("no counter raised")?;
        ensure!(count < 2 * raised, "the pin was asserted {raised} times: {interrupts}");
    }
    report.evidence(interrupts.split_whitespace().collect::<Vec<_>>().join(" "))?;
    vfio_interrupts::paused_at_work(report, vm)?;
    if signals == Signals::Messages {
        vfio_interrupts::masked(report, vm)?;
    }
    let mut output = |command: &str| run(vm, command);
    let busy = "dd if=/dev/urandom of=/mnt/more bs=64k count=128 conv=fsync 2>/dev/null";
    // Every write of it comes to a good end, those included that the reset has met.
    output(&format!(
        "{busy} & work=$!; echo 1 >/sys/class/nvme/nvme0/reset_controller && wait $work && sync"
    ))?;
    ensure!(output("cat /sys/class/nvme/nvme0/state")? == "live", "the controller did not come back");
    output("umount /mnt && echo 1 >/sys/class/nvme/nvme0/device/reset")?;
    output("mount -t ext4 /dev/nvme0n1 /mnt")?;
    let found = output("sha256sum </mnt/data || ls -lai /mnt")?;
    ensure!(
        found == read,
        "after a reset of the function the file is another: {found}; {}",
        output("dmesg | tail -n 20")?
    );
    report.evidence("the controller reset under writes, then the function: the file is as it was")?;
    println!("{}", output("dmesg | grep nvme")?);
    output("umount /mnt")?;
    reboot(report, vm, &read)?;
    Ok(read.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The guest starts anew: other processes take over the device that the first ones had bound.
fn reboot(report: &mut Report<'_>, vm: &mut Vm, sum: &str) -> Result<()> {
    vm.console.send("reboot -f\n")?;
    vm.console.wait_for(USER_SPACE_MARK, BOOT).with_context(|| vm.console.errors())?;
    vm.console.shell(BOOT)?;
    run(vm, "dmesg -n 1")?;
    run(vm, "mkdir -p /mnt && mount -t ext4 -o ro /dev/nvme0n1 /mnt")?;
    ensure!(run(vm, "sha256sum </mnt/data")? == sum, "after a reboot the file is another");
    run(vm, "umount /mnt")?;
    report.evidence("the guest rebooted, and has its disk again in new processes")
}

/// While memory space is disabled, or the function is in D3hot, its registers read as all ones; afterwards they are
/// there again.
fn switched_off(report: &mut Report<'_>, vm: &mut Vm, device: &Function) -> Result<()> {
    const COMMAND_REGISTER: u64 = 4;
    let power = device.capability(POWER_MANAGEMENT)?.context("it has no power management")? + 4;
    let folder = "/sys/bus/pci/devices/0000:00:01.0";
    run(vm, &format!("echo 0000:00:01.0 >{folder}/driver/unbind"))?;
    let bar = first_bar(vm)?;
    let set = |at: u64, value: &str| {
        format!("printf '\\{value}' | dd of={folder}/config bs=1 seek={at} conv=notrunc 2>/dev/null")
    };
    run(vm, &set(COMMAND_REGISTER, "2"))?;
    let there = run(vm, &format!("devmem {bar} 32"))?;
    ensure!(there != "0xFFFFFFFF" && there != "0x00000000", "its first register reads {there}");
    for (register, off, on, what) in
        [(power, "3", "0", "D3hot"), (COMMAND_REGISTER, "0", "2", "no memory space")]
    {
        run(vm, &set(register, off))?;
        let gone = run(vm, &format!("devmem {bar} 32"))?;
        ensure!(gone == "0xFFFFFFFF", "in {what} its first register reads {gone}");
        run(vm, &set(register, on))?;
        let back = run(vm, &format!("devmem {bar} 32"))?;
        ensure!(back == there, "after {what} its first register reads {back}, not {there}");
    }
    run(vm, "echo 0000:00:01.0 >/sys/bus/pci/drivers/nvme/bind")?;
    report.evidence(format!("its first register reads {there}; in D3hot and without memory space all ones"))
}

/// Where the guest sees the device's first BAR.
pub fn first_bar(vm: &mut Vm) -> Result<String> {
    run(vm, "cut -d ' ' -f 1 /sys/bus/pci/devices/0000:00:01.0/resource | head -n 1")
}

/// The device works with queues at addresses that are no guest memory: one stage alone could not take it there.
fn two_stages(report: &mut Report<'_>, vm: &mut Vm) -> Result<()> {
    /// Admin Submission Queue Base Address (NVMe 1.4 section 3.1.9).
    const ASQ: u32 = 0x28;
    let bar = first_bar(vm)?;
    let queue = run(vm, &format!("devmem $(({bar} + {ASQ})) 64"))?;
    let address = u64::from_str_radix(queue.trim_start_matches("0x"), 16).context("the queue's address")?;
    let memory = run(vm, "grep 'System RAM' /proc/iomem")?;
    let mut ranges = memory.lines().filter_map(|line| line.trim().split_once(" :")?.0.split_once('-'));
    let holds = |(first, last): (&str, &str)| {
        let [first, last] = [first, last].map(|digits| u64::from_str_radix(digits, 16));
        first.is_ok_and(|first| first <= address) && last.is_ok_and(|last| address <= last)
    };
    ensure!(address != 0 && memory.contains('-'), "queue at {queue}, memory: {memory}");
    ensure!(!ranges.any(holds), "its queue is at {queue}, in guest memory: {memory}");
    report.evidence(format!("its admin queue is at {queue}, where the guest has no memory: two stages"))
}

/// The device's registers are in the guest: its doorbells ring without anybody else hearing of it.
fn doorbells(report: &mut Report<'_>, vm: &mut Vm) -> Result<()> {
    let of = |vm: &Vm, name: &str| vm.counter(name).with_context(|| format!("no counter {name}"));
    let asked = |vm: &Vm| {
        Ok::<_, anyhow::Error>(of(vm, "vfio0.reads")? + of(vm, "vfio0.writes")? + of(vm, "vfio0.posts")?)
    };
    let slots = of(vm, "vfio0.slots")?;
    ensure!(slots > 0, "no part of the device's BARs is a memory slot: {}", vm.control_json("inspect")?);
    let before = asked(vm)?;
    run(vm, "dd if=/dev/nvme0n1 of=/dev/null bs=4k count=256 iflag=direct 2>/dev/null")?;
    let after = asked(vm)?;
    ensure!(after == before, "256 reads of the disk were {} accesses to its process", after - before);
    report.evidence(format!(
        "{slots} memory slots of its BARs: 256 reads of the disk, 0 accesses to its process"
    ))
}

/// What the product counts: the host's SMMU does the walking, and batches go down as one call.
fn counters(report: &mut Report<'_>, vm: &Vm, signals: Signals) -> Result<()> {
    let inspect = vm.control_json("inspect")?;
    for text in ["iommufd, nested", "stage 1"] {
        ensure!(inspect.contains(text), "`bulkhead inspect` does not say {text:?}: {inspect}");
    }
    let of = |name: &str| vm.counter(name).with_context(|| format!("no counter {name}: {inspect}"));
    let (commands, calls) = (of("invalidations")?, of("ioctls")?);
    ensure!(commands > 0 && calls > 0, "no invalidation reached the host: {commands}, {calls}");
    report.evidence(format!("{commands} invalidations of the guest's went down in {calls} ioctls"))?;
    let (given, heard) = (of("given")?, of("vectors")?);
    let (hopped, signalled) = (of("hopped")?, of("signalled")?);
    ensure!(hopped + signalled == 0, "{hopped} messages were brought by a process, {signalled} by a call");
    let raised = of("raised")?;
    match signals {
        Signals::Messages => ensure!(given > 0 && heard > 0, "on irqfds: {heard} vectors of {given} given"),
        Signals::Pin => ensure!(raised > 0 && heard == 0, "the pin was asserted {raised} times"),
    }
    report.evidence(format!(
        "{heard} of {given} vectors on irqfds, 0 messages brought by a process; the pin was asserted {raised} times"
    ))
}

/// How many events the server's own SMMU has reported.
fn faults() -> Result<usize> {
    Ok(seen::kernel_log()?
        .lines()
        .filter(|line| line.contains("arm-smmu-v3") && line.contains("event"))
        .count())
}

/// The server's own driver finds the guest's file.
fn found_outside(report: &mut Report<'_>, device: &Function, sum: &str) -> Result<()> {
    device.rebind("nvme")?;
    let disk = disk_of(device)?;
    fs::create_dir_all("/tmp/disk").context("a place to mount")?;
    capture(Command::new("mount").args(["-t", "ext4", "-o", "ro"]).arg(&disk).arg("/tmp/disk"))?;
    let found = capture(Command::new("sha256sum").arg("/tmp/disk/data"));
    capture(Command::new("umount").arg("/tmp/disk"))?;
    let found = found?;
    ensure!(found.starts_with(sum), "the server reads another sum: {found}, not {sum}");
    report.evidence(format!("the server reads the same from {}", disk.display()))
}

/// The disk of an NVMe controller, which its driver takes a moment to make.
pub fn disk_of(device: &Function) -> Result<PathBuf> {
    let until = Instant::now() + COMMAND;
    loop {
        for controller in fs::read_dir(device.folder().join("nvme")).into_iter().flatten().flatten() {
            let name = format!("{}n1", controller.file_name().to_string_lossy());
            let disk = Path::new("/dev").join(name);
            if disk.exists() {
                return Ok(disk);
            }
        }
        ensure!(Instant::now() < until, "no disk appears at {}", device.address);
        std::thread::sleep(Duration::from_millis(100));
    }
}
