// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on an NVMe controller that is passed through behind the vSMMUv3: its own driver, its own stage 1.
//!
//! What the guest wrote is looked at from outside afterwards, by other programs than wrote it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::{fs::File, path::PathBuf, process::Command};

use tests::{guest::GuestFiles, vm::Vm};

use self::support::{BOOT, COMMAND, launch_with};

const IMAGE_LEN: u64 = 128 << 20;

fn image(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(IMAGE_LEN)).unwrap();
    path
}

fn launch(name: &str, extra: &str, image: &PathBuf) -> Option<Vm> {
    let mut vm = launch_with(GuestFiles::cached(), name, extra, std::slice::from_ref(image))?;
    vm.console.shell(BOOT).unwrap();
    // The kernel's messages would stand between a command and its output.
    vm.console.run("dmesg -n 1", COMMAND).unwrap();
    Some(vm)
}

/// Makes a file system, writes 32 MiB, and returns the sum of what is read back after the caches were dropped.
fn write_and_read_back(vm: &mut Vm) -> String {
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    output("mke2fs -F /dev/nvme0n1 && mkdir -p /mnt && mount -t ext4 /dev/nvme0n1 /mnt && echo mounted");
    output("dd if=/dev/urandom of=/mnt/data bs=1M count=32 && sync");
    let written = output("sha256sum </mnt/data");
    output("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(output("sha256sum </mnt/data"), written);
    written.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn nvme_behind_the_smmu_keeps_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder);
    let Some(mut vm) = launch("nvme", "iommu.passthrough=0 iommu.strict=1", &image) else { return };
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    assert_eq!(output("cat /sys/block/nvme0n1/device/device/iommu_group/type").trim(), "DMA");
    assert!(output("grep nvme0q1 /proc/interrupts").contains("ITS-MSI"));
    let sum = write_and_read_back(&mut vm);
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

    let Ok(check) = Command::new("e2fsck").args(["-fn"]).arg(&image).output() else {
        println!("{}e2fsck is not installed: the image is not looked at from outside", tests::SKIPPED);
        return;
    };
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let data = folder.path().join("data");
    let dump = format!("dump /data {}", data.display());
    Command::new("debugfs").args(["-R", &dump]).arg(&image).output().unwrap();
    let outside = Command::new("sha256sum").arg(&data).output().unwrap();
    assert!(String::from_utf8_lossy(&outside.stdout).starts_with(&sum), "{sum}");
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
        write_and_read_back(&mut vm);
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
