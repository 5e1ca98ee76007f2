// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel that starts another: no reset of the machine lies between, so the second finds CPUs, GIC, ITS, SMMU and
//! NVMe as the first left them.

use std::{fs, path::PathBuf};

use tests::{
    guest::{COMMAND_LINE, GuestFiles, USER_SPACE_MARK},
    vm::Vm,
};

use crate::{
    smp::{assert_kernel_is_content, output, work_on_all},
    support::{BOOT, COMMAND, launch_as},
};

/// Where the initramfs lies on the disk that brings both files into the guest; the kernel is at its start.
const INITRAMFS_OFFSET_MIB: u64 = 32;
const DISK_LEN_MIB: u64 = 40;

/// How often a kernel starts its successor.
const TURNS: u32 = 2;

/// A disk with kernel and initramfs, which take trailing zeros.
fn disk(folder: &tempfile::TempDir, files: &GuestFiles) -> PathBuf {
    let mut content = fs::read(&files.kernel).unwrap();
    let offset = usize::try_from(INITRAMFS_OFFSET_MIB << 20).unwrap();
    assert!(content.len() <= offset, "the kernel has {} bytes", content.len());
    content.resize(offset, 0);
    content.extend(fs::read(&files.initramfs).unwrap());
    content.resize(usize::try_from(DISK_LEN_MIB << 20).unwrap(), 0);
    let path = folder.path().join("kernel.img");
    fs::write(&path, content).unwrap();
    path
}

/// Both files out of the disk, and the disk's sum: its DMA works, before and behind a new kernel.
fn copy_files(vm: &mut Vm) -> String {
    let initramfs_len = DISK_LEN_MIB - INITRAMFS_OFFSET_MIB;
    output(vm, &format!("dd if=/dev/nvme0n1 of=/tmp/Image bs=1M count={INITRAMFS_OFFSET_MIB} 2>/dev/null"));
    output(
        vm,
        &format!(
            "dd if=/dev/nvme0n1 of=/tmp/initramfs bs=1M skip={INITRAMFS_OFFSET_MIB} count={initramfs_len} 2>/dev/null"
        ),
    );
    output(vm, "cat /tmp/Image /tmp/initramfs | md5sum")
}

fn kernels_start_each_other(vcpu_count: u32) {
    let Some(files) = GuestFiles::selftest() else {
        println!(
            "{}the guest's programs are not there (`cargo xtask guest --cross` brings them)",
            tests::SKIPPED
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = disk(&folder, &files);
    let Some(mut vm) = launch_as(Some(files), "kexec", |options| {
        options.arguments = ["--cpu", "soft", "--vcpus", &vcpu_count.to_string()].map(String::from).to_vec();
        options.nvme = vec![image];
        // The tool writes over the machine's own command line, which must be as long as the next.
        options.extra = "turn=0".into();
    }) else {
        return;
    };
    vm.console.shell(BOOT).unwrap();
    let sum = copy_files(&mut vm);
    for turn in 1..=TURNS {
        vm.console.send(&format!("kexec /tmp/Image /tmp/initramfs '{COMMAND_LINE} turn={turn}'\n")).unwrap();
        // The prompt of before is still unread.
        vm.console.wait_for(USER_SPACE_MARK, BOOT).unwrap();
        vm.console.shell(BOOT).unwrap();
        assert!(output(&mut vm, "cat /proc/cmdline").ends_with(&format!("turn={turn}")));
        assert_eq!(output(&mut vm, "nproc"), vcpu_count.to_string());
        assert_eq!(copy_files(&mut vm), sum, "the disk reads differently behind kernel {turn}");
    }
    work_on_all(&mut vm, vcpu_count);
    assert_kernel_is_content(&mut vm);
    // The machine itself never started anew.
    assert!(vm.control_json("status").unwrap().contains("\"generation\": 1"));
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}

#[test]
fn kernel_started_by_a_kernel_works_on_one_cpu() {
    kernels_start_each_other(1);
}

#[test]
fn kernel_started_by_a_kernel_works_on_all_of_four_cpus() {
    kernels_start_each_other(4);
}
