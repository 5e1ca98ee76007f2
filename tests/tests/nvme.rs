// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on an NVMe controller that is passed through behind the vSMMUv3: its own driver, its own stage
//! 1.
//!
//! What the guest wrote is looked at from outside afterwards, by other programs than wrote it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tests::{
    FULL_RUN, SKIPPED,
    disk::{self, work},
    guest::GuestFiles,
    starved,
    vm::Vm,
};

use self::support::{BOOT, COMMAND, STRICT, launch_as, launch_with};

const DISK: &str = "nvme0n1";
/// What the everyday runs write: enough for hundreds of commands, done in seconds.
const SHORT_MIB: u64 = 32;
/// What the full run writes: with the caches, more than the guest keeps in its memory at once.
const LONG_MIB: u64 = 256;
/// For sums over the long file.
const LONG: Duration = Duration::from_secs(240);

fn launch(files: Option<GuestFiles>, name: &str, extra: &str, image: &PathBuf) -> Option<Vm> {
    starved::watch();
    let mut vm = launch_with(files, name, extra, std::slice::from_ref(image))?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

fn launch_with_granule(
    files: &GuestFiles,
    name: &str,
    extra: &str,
    image: &Path,
    granule: &str,
) -> Option<Vm> {
    starved::watch();
    let mut vm = launch_as(Some(files.clone()), name, |options| {
        options.extra = extra.into();
        options.nvme = vec![image.into()];
        options.arguments = vec!["--smmu-granules".into(), granule.into()];
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

/// The output of a command in the guest, which must end with exit code 0.
fn output(vm: &mut Vm, command: &str) -> String {
    vm.console.output(command, COMMAND).unwrap().trim().to_owned()
}

fn domain(vm: &mut Vm) -> String {
    output(vm, &format!("cat /sys/block/{DISK}/device/device/iommu_group/type"))
}

/// Errors in the logs of the drivers of SMMU and disk, unless the host alone explains them.
fn complaints(vm: &mut Vm) -> String {
    starved::unexplained(work::complaints(&mut vm.console, COMMAND).unwrap().trim().to_owned())
}

/// Powers off, and looks at the image from outside: a clean file system, and the file as the guest saw it.
fn end_and_look(vm: Vm, image: &Path, sum: &str) {
    vm.finish(COMMAND).unwrap();
    disk::check_from_outside(image, sum).unwrap();
}

#[test]
fn nvme_behind_the_smmu_keeps_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, 4 * SHORT_MIB).unwrap();
    let Some(mut vm) = launch(GuestFiles::cached(), "nvme", STRICT, &image) else { return };
    assert_eq!(domain(&mut vm), "DMA");
    assert!(output(&mut vm, "grep nvme0q1 /proc/interrupts").contains("ITS-MSI"));
    let sum = disk::fill(&mut vm.console, DISK, SHORT_MIB, COMMAND).unwrap();
    assert_eq!(complaints(&mut vm), "");
    for process in ["vfio0", "nvme0"] {
        let seen = vm.control_json("ps").unwrap();
        assert!(seen.contains(&format!("\"{process}\"")), "{seen}");
    }
    end_and_look(vm, &image, &sum);
}

#[test]
fn nvme_keeps_a_file_larger_than_the_guest_can_cache() {
    if std::env::var_os(FULL_RUN).is_none() {
        println!("{SKIPPED}{LONG_MIB} MiB through an NVMe: in the full run only (`cargo xtask test`)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, 2 * LONG_MIB).unwrap();
    let Some(mut vm) = launch(GuestFiles::cached(), "nvmelong", STRICT, &image) else { return };
    assert_eq!(domain(&mut vm), "DMA");
    let sum = disk::fill(&mut vm.console, DISK, LONG_MIB, LONG).unwrap();
    assert_eq!(complaints(&mut vm), "");
    end_and_look(vm, &image, &sum);
}

#[test]
fn nvme_works_with_lazy_invalidation_and_in_bypass() {
    for (name, extra, kind) in [
        ("lazy", "iommu.passthrough=0 iommu.strict=0", "DMA-FQ"),
        ("bypass", "iommu.passthrough=1", "identity"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = disk::image(&folder, 4 * SHORT_MIB).unwrap();
        let Some(mut vm) = launch(GuestFiles::cached(), name, extra, &image) else { return };
        assert_eq!(domain(&mut vm), kind);
        let sum = disk::fill(&mut vm.console, DISK, SHORT_MIB, COMMAND).unwrap();
        assert_eq!(complaints(&mut vm), "");
        end_and_look(vm, &image, &sum);
    }
}

/// The matrix again on a kernel of other pages, and an SMMU that has that granule only: no other can be in use.
fn works_with_pages(pages: &str, len_kib: u64, why_not: &str) {
    let Some(files) = GuestFiles::with_pages(pages) else {
        println!("{SKIPPED}a guest kernel with pages of {len_kib} KiB: {why_not}");
        return;
    };
    for (name, extra, kind) in [
        ("strict", STRICT, "DMA"),
        ("lazy", "iommu.passthrough=0 iommu.strict=0", "DMA-FQ"),
        ("bypass", "iommu.passthrough=1", "identity"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = disk::image(&folder, 4 * SHORT_MIB).unwrap();
        let name = format!("{name}{pages}");
        let Some(mut vm) = launch_with_granule(&files, &name, extra, &image, pages) else { return };
        let page = output(&mut vm, "grep -m1 KernelPageSize /proc/self/smaps");
        assert!(page.ends_with(&format!(" {len_kib} kB")), "{page}");
        assert_eq!(domain(&mut vm), kind);
        let sum = disk::fill(&mut vm.console, DISK, SHORT_MIB, COMMAND).unwrap();
        assert_eq!(complaints(&mut vm), "");
        end_and_look(vm, &image, &sum);
    }
}

#[test]
fn nvme_works_with_a_kernel_of_16k_pages() {
    works_with_pages("16k", 16, "`cargo xtask guest --page-sizes` brings one");
}

#[test]
fn nvme_works_with_a_kernel_of_64k_pages() {
    works_with_pages("64k", 64, "Debian packs none (see `cargo xtask guest --page-sizes`)");
}

#[test]
fn nvme_stands_still_with_a_paused_guest_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, 128).unwrap();
    let Some(mut vm) = launch(GuestFiles::cached(), "nvmepause", "", &image) else { return };
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

/// A machine with these images whose guest runs, and how long after its launch it did.
fn started(name: &str, images: &[PathBuf]) -> Option<(Vm, Duration)> {
    starved::watch();
    let begun = Instant::now();
    let mut vm = launch_with(GuestFiles::cached(), name, "", images)?;
    vm.wait_running(BOOT).unwrap();
    Some((vm, begun.elapsed()))
}

#[test]
fn guest_finds_sixteen_disks_and_reads_each() {
    let folder = tempfile::tempdir().unwrap();
    let count = 16;
    let images: Vec<PathBuf> = (0..count)
        .map(|index| {
            let image = folder.path().join(format!("disk{index}.img"));
            // What is read back says which disk it was.
            std::fs::write(&image, vec![b'a' + index; 1 << 20]).unwrap();
            image
        })
        .collect();
    let Some((mut none, without)) = started("sixteen-none", &[]) else { return };
    none.console.shell(BOOT).unwrap();
    none.power_off(COMMAND).unwrap();
    let Some((mut vm, with)) = started("sixteen", &images) else { return };
    vm.console.shell(BOOT).unwrap();
    let disks = output(&mut vm, "ls -d /sys/block/nvme*n1 | wc -l");
    assert_eq!(disks, count.to_string());
    // The guest numbers controllers in the order in which they answer.
    let first = "for disk in /dev/nvme*n1; do head -c 1 $disk; done; echo";
    let mut found: Vec<u8> = output(&mut vm, first).into_bytes();
    found.sort_unstable();
    assert_eq!(String::from_utf8(found).unwrap(), "abcdefghijklmnop");
    let groups = output(&mut vm, "ls /sys/kernel/iommu_groups | wc -l");
    assert!(groups.parse::<u8>().unwrap() >= count, "{groups} groups: every disk is behind the SMMU");
    assert_eq!(complaints(&mut vm), "");
    let each = with.saturating_sub(without) / count.into();
    println!(
        "SEEN: the guest runs after {without:.2?} without devices, {with:.2?} with {count}: {each:.2?} for each"
    );
    vm.finish(COMMAND).unwrap();
}

/// Has the guest work on its disk, and moves it `turns` times into new processes meanwhile.
fn works_through_moves(mut vm: Vm, turns: u32, folder: &Path, image: &Path) {
    work::begin(&mut vm.console, COMMAND).unwrap();
    for turn in 1..=turns {
        let answer = vm.control_json("save-restore").unwrap();
        assert!(answer.contains(&format!("\"generation\": {}", turn + 1)), "{answer}");
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    work::end(&mut vm.console, COMMAND).unwrap();
    assert_eq!(complaints(&mut vm), "");
    let sum = output(&mut vm, "md5sum < /tmp/mib");
    vm.finish(COMMAND).unwrap();
    let written = std::fs::read(image).unwrap();
    let mib = folder.join("mib");
    std::fs::write(&mib, written.get(1 << 20..2 << 20).unwrap()).unwrap();
    let file = std::fs::File::open(mib).unwrap();
    let outside = std::process::Command::new("md5sum").stdin(file).output().unwrap();
    assert_eq!(String::from_utf8(outside.stdout).unwrap().trim(), sum, "as the host sees it");
}

#[test]
fn nvme_at_work_is_saved_and_restored_with_its_guest() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, SHORT_MIB).unwrap();
    let Some(vm) = launch(GuestFiles::cached(), "nvmemoves", STRICT, &image) else { return };
    works_through_moves(vm, 30, folder.path(), &image);
}

#[test]
fn nvme_of_a_server_that_stays_goes_on_through_save_and_restore() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, SHORT_MIB).unwrap();
    let Some(programs) = support::programs() else { return };
    starved::watch();
    let socket = folder.path().join("nvme.sock");
    let mut command = std::process::Command::new(programs.join("bulkhead-nvme"));
    command.arg("--image").arg(&image).arg("--socket-path").arg(&socket);
    let server = Ended(command.spawn().unwrap());
    let until = Instant::now() + COMMAND;
    while !socket.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let vm = launch_as(GuestFiles::cached(), "nvmestays", |options| {
        options.extra = STRICT.into();
        options.vfio_user = vec![socket];
    });
    let Some(mut vm) = vm else { return };
    vm.console.shell(BOOT).unwrap();
    works_through_moves(vm, 10, folder.path(), &image);
    drop(server);
}

/// A process that is ended with its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
