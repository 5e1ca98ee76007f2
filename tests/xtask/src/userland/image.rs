// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The disk that a Debian is installed on: what debootstrap's first stage leaves, made without root and without running
//! anything of it.
//!
//! Required packages are unpacked, all lie in apt's cache, and `/debootstrap` says which is where, in debootstrap's own
//! files. The second stage is the guest's work. The image is kept under a checksum of all that it is made from.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ::tests::command::{set_mode, write_whole};
use anyhow::{Context, Result, ensure};

use super::packages::Packages;
use crate::{ext4, progress::Step};

const SECOND_STAGE: &[u8] = include_bytes!("../../../guest/userland/second-stage.sh");
const AUTOLOGIN: &[u8] = include_bytes!("../../../guest/userland/autologin.conf");

/// Where apt keeps packages.
const ARCHIVES: &str = "var/cache/apt/archives";

/// debootstrap finds the package index by the address of a mirror, which it never asks in its second stage.
const MIRROR: &str = "http://localhost/debian";
const INDEX_START: &str = "localhost_debian_dists_";

/// Folders that are one with those of the same name in `/usr`.
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];

/// Room for what the packages unpack to.
const ROOM: u64 = 1 << 30;

/// The image, made if it is not in `cache` or `update` says so, and the number of its packages.
pub fn obtain(cache: &Path, update: bool) -> Result<(PathBuf, usize)> {
    let mut sum = crc32fast::Hasher::new();
    sum.update(SECOND_STAGE);
    sum.update(AUTOLOGIN);
    sum.update(include_bytes!("packages.rs"));
    sum.update(include_bytes!("image.rs"));
    let image = cache.join(format!("userland-{:08x}.ext4", sum.finalize()));
    let names = image.with_extension("packages");
    if update || !(image.is_file() && names.is_file()) {
        let step = Step::begin("userland");
        step.at("packages");
        let packages = Packages::fetch(cache)?;
        step.at("image");
        let count = make(&packages, cache, &image)?;
        packages.remove()?;
        write_whole(&names, format!("{count}\n").as_bytes())?;
        step.done(&format!("{count} packages on {}", image.display()));
    }
    let count = fs::read_to_string(&names).context("the number of packages")?;
    let count = count.trim().parse().context("the number of packages in the cache is none")?;
    Ok((image, count))
}

fn make(packages: &Packages, cache: &Path, image: &Path) -> Result<usize> {
    let folder = tempfile::tempdir_in(cache).context("a folder for the userland")?;
    let root = folder.path();
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name)).context("a folder of the userland")?;
        symlink(format!("usr/{name}"), root.join(name)).context("a link of the userland")?;
    }
    for (_, package) in &packages.required {
        unpack_through_links(package, root)?;
    }
    let all = || packages.required.iter().chain(&packages.base);
    let mut places = String::new();
    fs::create_dir_all(root.join(ARCHIVES)).context("apt's cache in the userland")?;
    for (name, package) in all() {
        let file = package.file_name().context("a package without a file name")?;
        fs::copy(package, root.join(ARCHIVES).join(file)).with_context(|| format!("package {name}"))?;
        places.push_str(&format!("{name} /{ARCHIVES}/{}\n", file.to_string_lossy()));
    }
    installer(packages, root, &places)?;
    let write = |path: &str, content: &[u8]| write_whole(&root.join(path), content);
    write(
        &format!("var/lib/apt/lists/{INDEX_START}{}_main_binary-arm64_Packages", packages.suite),
        packages.index.as_bytes(),
    )?;
    write("var/lib/dpkg/status", b"")?;
    write("var/lib/dpkg/available", b"")?;
    write("etc/hostname", b"bulkhead-guest\n")?;
    write("etc/fstab", b"")?;
    write("etc/systemd/system/serial-getty@.service.d/autologin.conf", AUTOLOGIN)?;
    write("second-stage", SECOND_STAGE)?;
    set_mode(&root.join("second-stage"), 0o755)?;
    for mounted in ["dev", "proc", "sys"] {
        fs::create_dir_all(root.join(mounted)).context("a mount point of the userland")?;
    }
    ext4::write(root, image, ROOM, &[])?;
    Ok(all().count())
}

/// `/debootstrap`, as the first stage leaves it.
fn installer(packages: &Packages, root: &Path, places: &str) -> Result<()> {
    let from = packages.installer.path();
    let to = root.join("debootstrap");
    let shared = from.join("usr/share/debootstrap");
    let copy = |file: PathBuf, name: &str| -> Result<()> {
        let content = fs::read(&file).with_context(|| format!("debootstrap's {}", file.display()))?;
        write_whole(&to.join(name), &content)
    };
    copy(from.join("usr/sbin/debootstrap"), "debootstrap")?;
    set_mode(&to.join("debootstrap"), 0o755)?;
    copy(shared.join("functions"), "functions")?;
    copy(shared.join("scripts").join(&packages.suite), "suite-script")?;
    copy(shared.join("scripts/debian-common"), "debian-common")?;
    let names = |list: &[(String, PathBuf)]| {
        list.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ") + "\n"
    };
    let facts = [
        ("arch", "arm64\n".to_string()),
        ("suite", format!("{}\n", packages.suite)),
        ("mirror", format!("{MIRROR}\n")),
        ("variant", "minbase\n".to_string()),
        ("required", names(&packages.required)),
        ("base", names(&packages.base)),
        ("debpaths", places.to_string()),
    ];
    facts.iter().try_for_each(|(name, text)| write_whole(&to.join(name), text.as_bytes()))
}

/// Unpacks a package so that what it has in `/bin` goes to `/usr/bin`.
fn unpack_through_links(package: &Path, root: &Path) -> Result<()> {
    let mut unpacker = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("dpkg-deb did not start")?;
    let archive = unpacker.stdout.take().context("dpkg-deb without an output")?;
    let status = Command::new("tar")
        .args(["-x", "-p", "--keep-directory-symlink", "-C"])
        .arg(root)
        .stdin(archive)
        .status()
        .context("tar did not start")?;
    let unpacked = unpacker.wait().context("dpkg-deb cannot be waited for")?;
    ensure!(status.success() && unpacked.success(), "{} could not be unpacked", package.display());
    Ok(())
}
