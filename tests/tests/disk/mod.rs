// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk image, a file system that a guest makes on it, and the same seen from outside, by other programs.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{SKIPPED, console::Console};

const IMAGE_LEN: u64 = 128 << 20;
/// A limit, for a slow and busy machine.
const COMMAND: Duration = Duration::from_secs(60);

/// An empty image in `folder`.
pub fn image(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(IMAGE_LEN)).unwrap();
    path
}

/// Makes a file system, writes 32 MiB, and returns the sum of what is read back after the caches were dropped.
pub fn write_and_read_back(console: &mut Console) -> String {
    let mut output = |command: &str| console.run(command, COMMAND).unwrap().output;
    output("mke2fs -F /dev/nvme0n1 && mkdir -p /mnt && mount -t ext4 /dev/nvme0n1 /mnt && echo mounted");
    output("dd if=/dev/urandom of=/mnt/data bs=1M count=32 && sync");
    let written = output("sha256sum </mnt/data");
    output("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(output("sha256sum </mnt/data"), written);
    written.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Checks that the image is a clean file system whose file has this sum.
pub fn check_outside(image: &Path, sum: &str) {
    let Ok(check) = Command::new("e2fsck").args(["-fn"]).arg(image).output() else {
        println!("{SKIPPED}e2fsck is not installed: the image is not looked at from outside");
        return;
    };
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let data = image.with_file_name("data");
    let dump = format!("dump /data {}", data.display());
    Command::new("debugfs").args(["-R", &dump]).arg(image).output().unwrap();
    let outside = Command::new("sha256sum").arg(&data).output().unwrap();
    assert!(String::from_utf8_lossy(&outside.stdout).starts_with(sum), "{sum}");
}
