// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An ext4 image out of a folder, by `mke2fs`: without root and without mounting.
//!
//! Files keep the owner that they have in the folder, so what an ordinary user unpacked is that user's on the image
//! too. Callers: the lab server's disk, the userland's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ::tests::command::{capture, find};
use anyhow::{Context, Result};

/// Places of mke2fs that ordinary users do not have on their PATH.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Writes the file system with the contents of `root`, and `room` bytes beyond them, to `image`; `options` go to
/// mke2fs.
pub fn write(root: &Path, image: &Path, room: u64, options: &[&str]) -> Result<()> {
    let system = SYSTEM_FOLDERS.iter().map(|folder| Path::new(folder).join("mke2fs"));
    let program = find("mke2fs")
        .or_else(|| system.into_iter().find(|file| file.is_file()))
        .context("mke2fs is not installed (package e2fsprogs)")?;
    let part = part_of(image);
    let kib = (len_of(root)? + room) / 1024;
    capture(
        Command::new(program)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=1"])
            .args(options)
            .arg("-d")
            .arg(root)
            .arg(&part)
            .arg(format!("{kib}k")),
    )?;
    fs::rename(&part, image).with_context(|| format!("{} could not be put in place", image.display()))
}

/// Beside the image, so that it can be renamed.
fn part_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_os_string();
    name.push(".part");
    name.into()
}

/// The bytes of all files in `folder`.
fn len_of(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?.flatten() {
        let path = entry.path();
        let data = path.symlink_metadata().with_context(|| format!("{}", path.display()))?;
        sum += if data.is_dir() { len_of(&path)? } else { data.len() };
    }
    Ok(sum)
}
