// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on an NVMe controller that is passed through behind the vSMMUv3: its own driver, its own stage 1.
//!
//! What the guest wrote is looked at from outside afterwards, by other programs than wrote it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

mod disk;

use std::path::PathBuf;

use tests::{guest::GuestFiles, vm::Vm};

use self::{
    disk::{check_outside, image, write_and_read_back},
    support::{BOOT, COMMAND, launch_with},
};

fn launch(name: &str, extra: &str, image: &PathBuf) -> Option<Vm> {
    let mut vm = launch_with(GuestFiles::cached(), name, extra, std::slice::from_ref(image))?;
    vm.console.shell(BOOT).unwrap();
    // The kernel's messages would stand between a command and its output.
    vm.console.run("dmesg -n 1", COMMAND).unwrap();
    Some(vm)
}

#[test]
fn nvme_behind_the_smmu_keeps_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder);
    let Some(mut vm) = launch("nvme", "iommu.passthrough=0 iommu.strict=1", &image) else { return };
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    assert_eq!(output("cat /sys/block/nvme0n1/device/device/iommu_group/type").trim(), "DMA");
    assert!(output("grep nvme0q1 /proc/interrupts").contains("ITS-MSI"));
    let sum = write_and_read_back(&mut vm.console);
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    output("umount /mnt");
    let noise = output("dmesg | grep -E 'arm-smmu-v3|nvme' | grep -iE 'error|timeout| fault|event 0x'");
    assert_eq!(noise.trim(), "");
    for process in ["vfio0", "nvme0"] {
        let seen = vm.control_json("ps").unwrap();
        assert!(seen.contains(&format!("\"{process}\"")), "{seen}");
    }
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    check_outside(&image, &sum);
}

#[test]
fn nvme_works_with_lazy_invalidation_and_in_bypass() {
    for (name, extra, kind) in [
        ("lazy", "iommu.passthrough=0 iommu.strict=0", "DMA-FQ"),
        ("bypass", "iommu.passthrough=1", "identity"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&folder);
        let Some(mut vm) = launch(name, extra, &image) else { return };
        let group = "cat /sys/block/nvme0n1/device/device/iommu_group/type";
        assert_eq!(vm.console.run(group, COMMAND).unwrap().output.trim(), kind);
        write_and_read_back(&mut vm.console);
        vm.power_off(COMMAND).unwrap();
    }
}

#[test]
fn nvme_stands_still_with_a_paused_guest_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder);
    let Some(mut vm) = launch("nvmepause", "", &image) else { return };
    let write = "dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=64 conv=fsync && echo all written";
    vm.console.send(&format!("{write}\n")).unwrap();
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
        let still = || std::fs::metadata(&image).and_then(|image| image.modified()).unwrap();
        let before = still();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(still(), before, "a stopped device wrote to its image");
        assert!(vm.control_json("resume").unwrap().contains("\"running\""));
    }
    vm.console.wait_for("\nall written", BOOT).unwrap();
    vm.power_off(COMMAND).unwrap();
}
