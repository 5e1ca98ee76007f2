// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file system on a guest's disk: made, filled and read back by the guest, then looked at from outside.
//!
//! What is read back comes from the device: the guest's caches are dropped, and its kernel's count of sectors read must
//! grow by the whole file. Sums are MD5: a third of SHA-256's instructions on an interpreted CPU, and no data here is
//! chosen by an attacker. Callers: the demo, the NVMe suites.

pub mod busy;
pub mod work;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    SKIPPED,
    command::{capture, find},
    console::Console,
};

/// Programs of the machine that read a file system without mounting it (package e2fsprogs).
const CHECKERS: [&str; 2] = ["e2fsck", "debugfs"];

/// A sector, as the kernel counts them in `/sys/block/*/stat`.
const SECTOR_LEN: u64 = 512;

/// The file that is written, seen from the file system's root.
const FILE: &str = "/data";

/// An empty image of `mib` MiB in `folder`.
pub fn image(folder: &tempfile::TempDir, mib: u64) -> Result<PathBuf> {
    let path = folder.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(mib << 20)).context("an empty image")?;
    Ok(path)
}

/// Makes a file system on the guest's `device` (a name in `/dev`), writes `mib` MiB of random bytes, syncs, drops
/// the caches, reads back, unmounts. Returns the file's sum; `limit` is for each step.
pub fn fill(console: &mut Console, device: &str, mib: u64, limit: Duration) -> Result<String> {
    let mut run = |command: &str| console.output(command, limit);
    let read = format!("cat /sys/block/{device}/stat");
    run(&format!("mke2fs -F /dev/{device}"))?;
    run(&format!("mkdir -p /mnt && mount -t ext4 /dev/{device} /mnt"))?;
    run(&format!("dd if=/dev/urandom of=/mnt{FILE} bs=1M count={mib} && sync"))?;
    let written = sum(&run(&format!("md5sum </mnt{FILE}"))?)?;
    run("echo 3 >/proc/sys/vm/drop_caches")?;
    let before = sectors_read(&run(&read)?)?;
    let found = sum(&run(&format!("md5sum </mnt{FILE}"))?)?;
    let sectors = sectors_read(&run(&read)?)?.saturating_sub(before);
    run("umount /mnt")?;
    ensure!(found == written, "{mib} MiB were written with sum {written} and read back with sum {found}");
    let expected = (mib << 20) / SECTOR_LEN;
    ensure!(
        sectors >= expected,
        "the file has {expected} sectors, the device was asked for {sectors}: some came from a cache"
    );
    Ok(found)
}

/// The sum of the file in `image`, whose file system must be clean; `None` where the programs to look are not
/// installed. No guest may be using the image.
pub fn seen_from_outside(image: &Path) -> Result<Option<String>> {
    if CHECKERS.iter().any(|program| find(program).is_none()) {
        return Ok(None);
    }
    capture(Command::new("e2fsck").arg("-fn").arg(image)).context("the file system is not clean")?;
    let folder = tempfile::tempdir().context("a folder for the image's file")?;
    let file = folder.path().join("data");
    capture(Command::new("debugfs").arg("-R").arg(format!("dump {FILE} {}", file.display())).arg(image))?;
    sum(&capture(Command::new("md5sum").arg(&file))?).map(Some)
}

/// Checks that the file in `image` has this sum, read from outside; prints a line where the programs are missing.
pub fn check_from_outside(image: &Path, sum: &str) -> Result<()> {
    match seen_from_outside(image)? {
        Some(outside) => {
            ensure!(outside == sum, "the file has sum {sum} in the guest, {outside} from outside")
        }
        None => println!("{SKIPPED}{}", not_seen()),
    }
    Ok(())
}

/// What to say where [`seen_from_outside`] could not look.
pub fn not_seen() -> String {
    format!("{} are not installed: the image is not verified from outside", CHECKERS.join(" and "))
}

/// The sum in a line of md5sum.
fn sum(line: &str) -> Result<String> {
    let word = line.split_whitespace().next().unwrap_or_default();
    ensure!(word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()), "no MD5 sum in {line:?}");
    Ok(word.into())
}

/// The third number of a block device's statistics (Linux Documentation/block/stat.rst).
fn sectors_read(line: &str) -> Result<u64> {
    let number = line.split_whitespace().nth(2).and_then(|word| word.parse().ok());
    number.with_context(|| format!("no count of sectors in {line:?}"))
}

#[cfg(test)]
mod tests;
