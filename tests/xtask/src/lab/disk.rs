// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab server's disk: busybox, the runner, the programs, the suites and the guests' files, as one ext4 image.
//!
//! A disk is read as far as it is used, where an initramfs would be loaded whole before the kernel starts. It is made
//! by `mke2fs` from a folder, without root and without mounting; the server writes to a throw-away overlay.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use ::lab::places as inside;
use ::tests::{
    command::{remove_folder, set_mode, write_whole},
    places,
    tools::Ready,
};
use anyhow::{Context, Result};

use super::cross::{self, Everything};
use crate::{ext4, guest::initramfs};

/// What goes onto the disk.
pub struct Contents<'a> {
    pub built: &'a Everything,
    /// The small kernel, which guests boot too.
    pub kernel: &'a Path,
    /// The folder of the guest's files (`target/guest`).
    pub guest: &'a Path,
    /// The folder of the public suite's flat images, if one is given.
    pub arm_suite: Option<&'a Path>,
}

/// Folders of the root, beside those that hold files.
const FOLDERS: [&str; 8] = ["dev", "proc", "sys", "tmp", "run", "root", "etc", "sbin"];

/// Room on the disk beyond its contents: scenarios may write.
const ROOM: u64 = 256 << 20;

/// Makes the image in `folder` and returns its path.
pub fn make(folder: &Path, linker: &Ready, contents: &Contents<'_>) -> Result<PathBuf> {
    let root = folder.join("disk");
    remove_folder(&root)?;
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    for name in FOLDERS {
        fs::create_dir_all(at(name)).with_context(|| format!("{name} of the lab's disk"))?;
    }
    let stripped = folder.join("stripped");
    for built in &contents.built.programs {
        place(&cross::stripped(linker, &built.file, &stripped)?, &at(inside::PROGRAMS).join(&built.name))?;
    }
    for built in &contents.built.suites {
        place(&cross::stripped(linker, &built.file, &stripped)?, &at(inside::SUITES).join(&built.name))?;
    }
    place(contents.kernel, &at(inside::GUEST).join("Image"))?;
    place(&contents.guest.join("Image"), &at(inside::DEBIAN_KERNEL))?;
    for name in ["initramfs.cpio", "busybox"] {
        place(&contents.guest.join(name), &at(inside::GUEST).join(name))?;
    }
    for image in
        contents.arm_suite.map(fs::read_dir).transpose().context("the suite's images")?.into_iter().flatten()
    {
        let image = image.context("the suite's images")?.path();
        if let (Some("flat"), Some(name)) = (image.extension().and_then(OsStr::to_str), image.file_name()) {
            place(&image, &at(inside::ARM_SUITE).join(name))?;
        }
    }
    let busybox = fs::read(contents.guest.join("busybox")).context("busybox")?;
    write_whole(&at("bin/busybox"), &busybox)?;
    set_mode(&at("bin/busybox"), 0o755)?;
    for name in initramfs::applets_for_a_shell(&busybox) {
        std::os::unix::fs::symlink("busybox", at("bin").join(name)).context("a link to busybox")?;
    }
    write_whole(&at("sbin/init"), include_bytes!("../../../lab/init.sh"))?;
    set_mode(&at("sbin/init"), 0o755)?;
    write_whole(&at(inside::BUILT_IN), places::target().display().to_string().as_bytes())?;
    image(folder, &root)
}

/// A file at `to`: linked if it can be, for the folder only lives until the image is made.
fn place(from: &Path, to: &Path) -> Result<()> {
    let above = to.parent().context("a file on the lab's disk without a folder")?;
    fs::create_dir_all(above).with_context(|| format!("{} could not be made", above.display()))?;
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("{} could not be put onto the lab's disk", from.display()))
}

fn image(folder: &Path, root: &Path) -> Result<PathBuf> {
    let image = folder.join("disk.ext4");
    ext4::write(root, &image, ROOM, &["-O", "^has_journal"]).context("the lab's disk")?;
    remove_folder(root)?;
    Ok(image)
}
