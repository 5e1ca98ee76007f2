// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The packages of a small Debian with systemd, and debootstrap, which installs them.
//!
//! What is required, and what that needs, can be run once it is unpacked (debootstrap's first stage); the others are
//! installed by these.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest::apt::{self, Apt, Installed, Suites};

/// apt's patterns for what every Debian has.
const REQUIRED: [&str; 2] = ["?essential", "?priority(required)"];

/// A file system whose `/bin` is `/usr/bin` already needs no program to get there. Not in every release.
const MERGED: &str = "usr-is-merged";

/// Enough for systemd to bring up a machine with devices and a login, and programs that use a CPU in their own ways:
/// Perl for the interpreter, OpenSSL for the instructions of cryptography.
const MORE: [&str; 10] =
    ["apt", "systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "openssl", "perl"];

const INSTALLER: &str = "debootstrap";

/// Packages in files, and what is said about them.
pub struct Packages {
    /// Name and file of those to unpack first.
    pub required: Vec<(String, PathBuf)>,
    /// Name and file of the others.
    pub base: Vec<(String, PathBuf)>,
    /// Their records in the package index.
    pub index: String,
    /// The release's code name.
    pub suite: String,
    /// The folder with debootstrap's files, as they lie in the root.
    pub installer: tempfile::TempDir,
    apt: Apt,
}

impl Packages {
    /// Fetches them into `cache`.
    pub fn fetch(cache: &Path) -> Result<Self> {
        let apt = Apt::prepare(&cache.join("apt-userland"), "arm64", Installed::Nothing, Suites::AsHere)?;
        let mut required: Vec<&str> = REQUIRED.into();
        required.extend(apt.candidate(MERGED).is_ok().then_some(MERGED));
        let first = apt.with_dependencies(&required)?;
        let all: Vec<&str> = required.iter().copied().chain(MORE).collect();
        let files = apt.download_with_dependencies(&all)?;
        let (mut required, mut base, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            let name = package_of(&file)?;
            names.push(name.clone());
            if first.contains(&name) { required.push((name, file)) } else { base.push((name, file)) }
        }
        let index = apt.records(&names)?;
        let installer = tempfile::tempdir_in(cache).context("a folder for debootstrap")?;
        apt::unpack(&apt.download(&apt.candidate(INSTALLER)?)?, installer.path())?;
        Ok(Self { required, base, index, suite: apt::codename()?, installer, apt })
    }

    /// Removes the files.
    pub fn remove(self) -> Result<()> {
        self.apt.clean()
    }
}

/// A package's file is called NAME_VERSION_ARCHITECTURE.deb.
fn package_of(file: &Path) -> Result<String> {
    let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('_'));
    Ok(name.with_context(|| format!("{} is not named like a package", file.display()))?.0.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::package_of;

    #[test]
    fn name_of_a_package_stands_before_its_version() {
        assert_eq!(package_of(Path::new("/a_b/libc6_2.36-9_arm64.deb")).unwrap(), "libc6");
        assert_eq!(package_of(Path::new("mount_1%3a2_arm64.deb")).unwrap(), "mount");
        assert!(package_of(Path::new("/a_b/lock")).is_err());
    }
}
