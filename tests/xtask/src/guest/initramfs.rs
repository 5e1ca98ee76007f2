// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's initramfs: busybox with its applet names, `/init`, and programs given by the caller.
//!
//! Invariant: equal inputs give equal bytes, so a hash of the file names the guest. `/init` and its texts are
//! described in `tests/src/guest.rs`.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::cpio::Archive;

const INIT: &str = include_str!("../../../guest/init.sh");
const CONTINUITY: &str = include_str!("../../../guest/continuity.sh");

/// Names that `/init` and our scripts call: without one of them the guest would not work.
const APPLETS_NEEDED: [&str; 15] = [
    "cat",
    "cut",
    "date",
    "dd",
    "dmesg",
    "grep",
    "hostname",
    "mount",
    "poweroff",
    "rm",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "uname",
];

/// Names that make the shell comfortable; one that this busybox lacks is left out.
const APPLETS_WANTED: [&str; 74] = [
    "arch", "ash", "awk", "basename", "chmod", "chown", "clear", "cmp", "cp", "devmem", "df", "diff",
    "dirname", "du", "echo", "env", "expr", "false", "find", "free", "halt", "head", "hexdump", "id",
    "ifconfig", "insmod", "ip", "kill", "less", "ln", "ls", "lsmod", "lspci", "md5sum", "mkdir", "mkfifo",
    "mknod", "modprobe", "more", "mv", "nc", "nproc", "od", "ping", "printf", "ps", "pwd", "readlink",
    "reboot", "reset", "rmdir", "sed", "seq", "sort", "stat", "stty", "swapoff", "swapon", "sync", "tail",
    "tar", "tee", "test", "time", "top", "touch", "tr", "true", "tty", "umount", "uniq", "uptime", "vi",
    "wc",
];

/// A program to put into `/bin` beside busybox.
pub struct Program<'a> {
    /// Its name in `/bin`.
    pub name: &'a str,
    /// The file's bytes.
    pub content: &'a [u8],
}

/// Builds the archive around `busybox`.
pub fn build(busybox: &[u8], programs: &[Program<'_>]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.folder(folder)?;
    }
    // The kernel opens this before anything could have mounted a devtmpfs.
    archive.character_device("dev/console", 5, 1)?;
    archive.program("init", INIT.as_bytes())?;
    archive.program("bin/busybox", busybox)?;
    archive.program("bin/continuity", CONTINUITY.as_bytes())?;
    let present = applets(busybox);
    if let Some(name) = APPLETS_NEEDED.iter().find(|name| !present.contains(name.as_bytes())) {
        bail!("this busybox has no applet \"{name}\", which the guest's /init needs");
    }
    for name in applets_for_a_shell(busybox) {
        archive.link(&format!("bin/{name}"), "busybox")?;
    }
    for program in programs {
        archive.program(&format!("bin/{}", program.name), program.content)?;
    }
    archive.finish()
}

/// The names under which `busybox` can be called that scripts need and that make a shell comfortable.
pub fn applets_for_a_shell(busybox: &[u8]) -> Vec<&'static str> {
    let present = applets(busybox);
    let all = APPLETS_NEEDED.into_iter().chain(APPLETS_WANTED);
    all.filter(|name| present.contains(name.as_bytes())).collect()
}

/// Busybox holds its applet names in one table of NUL-terminated strings: everything short between two NULs.
fn applets(busybox: &[u8]) -> HashSet<&[u8]> {
    const APPLET_NAME_LEN_MAX: usize = 16;
    busybox.split(|byte| *byte == 0).filter(|name| name.len() <= APPLET_NAME_LEN_MAX).collect()
}

#[cfg(test)]
mod tests;
