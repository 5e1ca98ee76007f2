// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a device of the server's interrupts its guest: masked, paused, by a pin that it shares, and with CPUs in
//! software.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::vm::Vm;

use super::Verdict;
use super::vfio_guest::{COMMAND, boot, boot_with, first_bar, run};
use crate::report::Report;
use crate::seen::{self, NVME};

/// Two devices on one line, both busy: each has its interrupts, and no more than its share.
pub fn shared(report: &mut Report<'_>) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let devices = seen::functions_with(NVME)?;
    ensure!(devices.len() == 2, "the server has {} NVMe", devices.len());
    // Every fourth slot has the same line.
    let mut config = String::new();
    for (device, slot) in devices.iter().zip([1, 5]) {
        device.bind_to_vfio()?;
        config.push_str(&format!("[[device]]\nvfio = \"{}\"\nslot = {slot}\n", device.address));
    }
    const CONFIG: &str = "/tmp/shared.toml";
    fs::write(CONFIG, config).context("the guest's configuration")?;
    let flags = ["--config", CONFIG].map(String::from);
    let mut vm = boot_with(report, flags, "kvm", "iommu.passthrough=0 iommu.strict=1 pci=nomsi")?;
    run(&mut vm, "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null")?;
    let write = |disk: usize| format!("dd if=/tmp/data of=/dev/nvme{disk}n1 bs=64k conv=fsync 2>/dev/null");
    run(&mut vm, &format!("{} & other=$!; {} && wait $other", write(0), write(1)))?;
    run(&mut vm, "echo 3 >/proc/sys/vm/drop_caches")?;
    for disk in 0..devices.len() {
        run(&mut vm, &format!("head -c 4194304 /dev/nvme{disk}n1 | cmp - /tmp/data"))
            .with_context(|| format!("nvme{disk} gives back something else"))?;
    }
    let line = run(&mut vm, "grep nvme /proc/interrupts")?;
    let all = ["nvme0q0", "nvme0q1", "nvme1q0", "nvme1q1"];
    ensure!(line.lines().count() == 1 && all.iter().all(|name| line.contains(name)), "not one line: {line}");
    let late = run(&mut vm, "dmesg | grep -c 'nvme.*timeout\\|nobody cared' || true")?;
    ensure!(late == "0", "{late} lines of the log are about lost or unhandled interrupts");
    report.evidence(line.split_whitespace().collect::<Vec<_>>().join(" "))?;
    report.evidence("4 MiB on each of both at the same time, read back the same")?;
    let of = |name: &str| vm.counter(name).with_context(|| format!("no counter {name}"));
    report.evidence(format!(
        "the line fell {} times, vCPUs were kicked {} times for it",
        of("fell")?,
        of("end-kicks")?
    ))?;
    vm.power_off(COMMAND)?;
    Ok(Verdict::Shown)
}

/// The same device with software CPUs, which cannot listen to its eventfds: its own process brings its messages.
pub fn soft(report: &mut Report<'_>) -> Result<Verdict> {
    let device = seen::functions_with(NVME)?.into_iter().next().context("the server has no NVMe")?;
    device.bind_to_vfio()?;
    let mut vm = boot(report, std::slice::from_ref(&device), "soft", "iommu.passthrough=0 iommu.strict=1")?;
    run(&mut vm, "dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=16 conv=fsync 2>/dev/null")?;
    let sum = |vm: &mut Vm| run(vm, "dd if=/dev/nvme0n1 bs=64k count=16 2>/dev/null | sha256sum");
    let before = sum(&mut vm)?;
    run(&mut vm, "echo 3 >/proc/sys/vm/drop_caches")?;
    ensure!(sum(&mut vm)? == before, "the disk gives back something else");
    let of = |name: &str| vm.counter(name).with_context(|| format!("no counter {name}"));
    let (given, hopped) = (of("given")?, of("hopped")?);
    ensure!(given == 0 && hopped > 0, "{given} vectors were taken, {hopped} messages brought");
    report.evidence(format!(
        "1 MiB written and read back; {hopped} messages brought by the device's process"
    ))?;
    vm.power_off(COMMAND)?;
    Ok(Verdict::Shown)
}

/// The device goes on while the guest is paused, and what it signals then waits for the guest to go on.
pub fn paused_at_work(report: &mut Report<'_>, vm: &mut Vm) -> Result<()> {
    run(vm, "echo 3 >/proc/sys/vm/drop_caches")?;
    run(vm, "dd if=/dev/nvme0n1 of=/dev/null bs=64k count=1024 2>/dev/null & work=$!")?;
    for _ in 0..PAUSES {
        vm.control_json("pause")?;
        std::thread::sleep(Duration::from_millis(300));
        vm.control_json("resume")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    run(vm, "kill -0 $work").context("it has read all before it was paused for the last time")?;
    run(vm, "wait $work")?;
    let late = run(vm, "dmesg | grep -c 'nvme.*timeout' || true")?;
    ensure!(late == "0", "{late} requests waited for an interrupt in vain");
    report.evidence(format!("paused {PAUSES} times while it read: no interrupt was lost"))
}

/// How often the guest is paused while its disk is busy.
const PAUSES: usize = 5;

/// A vector that the guest masks holds its message back, the pending bits say so, and it comes when it is unmasked.
pub fn masked(report: &mut Report<'_>, vm: &mut Vm) -> Result<()> {
    const VECTOR: u64 = 1;
    let device = "/sys/class/nvme/nvme0/device";
    let config = run(vm, &format!("od -An -v -tx1 {device}/config"))?;
    let config: Vec<u8> = config.split_whitespace().filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    let bar = first_bar(vm)?;
    let bar =
        u64::from_str_radix(bar.trim_start_matches("0x"), 16).with_context(|| format!("BAR 0: {bar}"))?;
    let [table, pending] = msix_places(&config).with_context(|| format!("MSI-X in {config:02x?}"))?;
    let control = bar + table + VECTOR * 16 + 12;
    let bits = |vm: &mut Vm| run(vm, &format!("devmem {:#x} 32", bar + pending));
    ensure!(bits(vm)? == "0x00000000", "something is pending before anything is masked");
    run(vm, "echo 3 >/proc/sys/vm/drop_caches")?;
    run(vm, &format!("devmem {control:#x} 32 1"))?;
    run(vm, "dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1 skip=9000 2>/dev/null & read=$!")?;
    run(vm, "sleep 1; kill -0 $read").context("a read has ended without its interrupt")?;
    let held = bits(vm)?;
    ensure!(held == format!("{:#010x}", 1 << VECTOR), "pending bits while vector {VECTOR} is masked: {held}");
    run(vm, &format!("devmem {control:#x} 32 0; wait $read"))?;
    ensure!(bits(vm)? == "0x00000000", "it is pending after it came");
    report
        .evidence(format!("vector {VECTOR} masked: pending bits {held}, and its message came when unmasked"))
}

/// Where in BAR 0 the table and the pending bits lie, if the device has MSI-X there.
fn msix_places(config: &[u8]) -> Option<[u64; 2]> {
    let mut at = usize::from(*config.get(0x34)?);
    for _ in 0..48 {
        if at != 0 && *config.get(at)? == 0x11 {
            let word = |at: usize| Some(u32::from_le_bytes(*config.get(at..)?.first_chunk()?));
            let places = [word(at + 4)?, word(at + 8)?];
            return places.iter().all(|place| place & 7 == 0).then(|| places.map(u64::from));
        }
        at = usize::from(*config.get(at + 1)?);
    }
    None
}
