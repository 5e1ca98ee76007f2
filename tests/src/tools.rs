// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Foreign tools for comparison and for building test programs: QEMU and the arm64 cross compiler.
//!
//! A tool that the machine has is used as it is. Else `cargo xtask guest --qemu` / `--cross` unpacks it from
//! packages into the cache, without root; it runs with its own libraries ahead of the machine's, or, if it is made for
//! a newer C library than the machine's, with its own loader. Here tools are only looked for: nothing is fetched
//! behind the user's back.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{capture, find},
    guest::GuestFiles,
    places,
};

/// A program of a Debian package, and how to know that it works.
#[derive(Debug)]
pub struct Tool {
    /// The program's name, as on the PATH.
    pub program: &'static str,
    /// The packages that bring it, all of them unpacked into the same folder.
    pub packages: &'static [&'static str],
    /// Dependencies whose names contain one of these are unpacked too, even if the machine has them: they must match.
    pub whole: &'static [&'static str],
    /// Its folder in the cache.
    pub folder: &'static str,
    /// The task that fetches it.
    pub task: &'static str,
    /// A device model that it must have: older versions are no use.
    pub device: Option<&'static str>,
    /// It is unpacked from a newer distribution than the machine's may be, with all its libraries.
    pub newer: bool,
    /// It is unpacked from the backports of the machine's release, where that has an older one.
    pub backports: bool,
    /// True if a tool that starts is also the one that is wanted.
    pub suits: fn(&Ready) -> bool,
}

/// The machine emulator: the reference for speed, and for what programs compute.
pub const QEMU: Tool = Tool {
    program: "qemu-system-aarch64",
    packages: &["qemu-system-arm"],
    whole: &["qemu"],
    folder: "qemu",
    task: "cargo xtask guest --qemu",
    device: None,
    newer: false,
    backports: false,
    suits: |_| true,
};

/// The machine emulator as a vfio-user client, which it is since version 10.1.
pub const VFIO_USER_QEMU: Tool = Tool {
    folder: "qemu-vfio-user",
    task: "cargo xtask interop --fetch",
    device: Some("vfio-user-pci"),
    newer: true,
    ..QEMU
};

/// The C compiler for guest test programs.
pub const CROSS: Tool = Tool {
    program: "aarch64-linux-gnu-gcc",
    packages: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    whole: &["aarch64-linux-gnu", "arm64-cross"],
    folder: "cross",
    task: "cargo xtask guest --cross",
    device: None,
    newer: false,
    backports: false,
    suits: |_| true,
};

/// The same as a linker of arm64 programs: it needs the C library's start files too, of a static program that
/// can be loaded anywhere.
pub const CROSS_LINKER: Tool = Tool { suits: |ready| ready.finds("rcrt1.o"), ..CROSS };

/// The emulator of the Arm lab: the first major version whose SMMUv3 has two stages, nested, is 10.
pub const QEMU_LAB: Tool = Tool {
    packages: &["qemu-system-arm", "qemu-efi-aarch64"],
    backports: true,
    folder: "qemu-lab",
    task: "cargo xtask lab",
    suits: |ready| ready.major_version().is_some_and(|major| major >= 10) && ready.firmware().is_some(),
    ..QEMU
};

/// A tool ready to run.
#[derive(Debug, Clone)]
pub struct Ready {
    program: PathBuf,
    /// The root folder of an unpacked tool; nothing for one of the machine's own.
    root: Option<PathBuf>,
    /// What loads it, if the machine's loader is too old for it.
    loader: Option<PathBuf>,
}

impl Tool {
    /// The tool, if the machine or the cache has one that starts.
    pub fn installed(&self) -> Option<Ready> {
        let own = find(self.program).map(|program| Ready { program, root: None, loader: None });
        let root = places::cache().join(self.folder);
        let program = root.join("usr/bin").join(self.program);
        let loader = find_file(&root.join("usr/lib").join(triplet()), "ld-linux-").filter(|_| self.newer);
        let unpacked = Ready { program, root: Some(root), loader };
        own.into_iter().chain([unpacked]).find(|ready| self.is_met_by(ready))
    }

    fn is_met_by(&self, ready: &Ready) -> bool {
        // Of this device alone: for a list of all it would load every module there is, those of another version too.
        let has = |device: &str| {
            let described =
                capture(ready.command().args(["-M", "none", "-device", &format!("{device},help")]));
            described.is_ok_and(|text| text.contains(&format!("{device} options")))
        };
        ready.version().is_ok() && self.device.is_none_or(has) && (self.suits)(ready)
    }

    /// Why it is missing, and what brings it.
    pub fn missing(&self) -> String {
        let with = self.device.map(|device| format!(" with {device}")).unwrap_or_default();
        format!("{}{with} is not installed (`{}` brings it)", self.program, self.task)
    }
}

impl Ready {
    /// A command that runs the tool.
    pub fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(&self.program) };
        let folders = [root.join("usr/lib").join(triplet()), root.join("lib").join(triplet())];
        let path = env::join_paths(folders).unwrap_or_default();
        if let Some(loader) = &self.loader {
            let mut command = Command::new(loader);
            command.arg("--library-path").arg(path).arg(&self.program);
            return command;
        }
        let mut command = Command::new(&self.program);
        command.env("LD_LIBRARY_PATH", path);
        command
    }

    /// The first line of what the tool says about its version; an error if it does not start.
    pub fn version(&self) -> Result<String> {
        let text = capture(self.command().arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_string())
    }

    /// The number before the first dot of the version.
    fn major_version(&self) -> Option<u32> {
        let text = self.version().ok()?;
        text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok())
    }

    /// True if the compiler has this file among its own or the C library's.
    fn finds(&self, file: &str) -> bool {
        // What is not found is printed as it was given, what is found with its folder.
        let answer = capture(self.command().arg(format!("-print-file-name={file}")));
        answer.is_ok_and(|path| path.trim().contains('/') && Path::new(path.trim()).exists())
    }

    /// UEFI for emulated arm64 machines, as package qemu-efi-aarch64 brings it.
    pub fn firmware(&self) -> Option<PathBuf> {
        const FIRMWARE: &str = "usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
        let file = self.root.as_deref().unwrap_or(Path::new("/")).join(FIRMWARE);
        file.is_file().then_some(file)
    }

    /// A command that runs another program of the same packages.
    pub fn beside(&self, program: &str) -> Command {
        Self { program: self.program.with_file_name(program), ..self.clone() }.command()
    }

    /// The emulator's command, told where its own data are.
    pub fn emulator(&self) -> Command {
        let mut command = self.command();
        if let Some(root) = &self.root {
            command.arg("-L").arg(root.join("usr/share/qemu"));
        }
        command
    }

    /// The program's path, and the folder of its libraries where it brings its own.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A command that boots `guest` on QEMU's emulation of a machine like ours, its console on stdin and
    /// stdout. `extra` is added to the kernel's command line.
    pub fn boot(&self, guest: &GuestFiles, extra: &str) -> Command {
        let mut command = self.machine(1, 512, &guest.kernel, extra);
        path_option(&mut command, "-initrd", &guest.initramfs);
        command
    }

    /// The same without an initramfs, with an NVMe disk over `image`.
    pub fn boot_disk(&self, cpus: u32, memory_mib: u32, kernel: &Path, image: &Path, extra: &str) -> Command {
        let mut command = self.machine(cpus, memory_mib, kernel, extra);
        let mut drive = std::ffi::OsString::from("if=none,id=disk,format=raw,file=");
        drive.push(image);
        command.arg("-drive").arg(drive).args(["-device", "nvme,drive=disk,serial=disk"]);
        command
    }

    fn machine(&self, cpus: u32, memory_mib: u32, kernel: &Path, extra: &str) -> Command {
        let mut command = self.emulator();
        command.args(["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-accel", "tcg"]);
        command.args(["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()]);
        command.args(["-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]);
        path_option(&mut command, "-kernel", kernel);
        // QEMU's machine has a PL011 where ours has a 16550: the only difference in the command line.
        let line = crate::guest::COMMAND_LINE.replace("ttyS0", "ttyAMA0");
        command.arg("-append").arg(format!("{line} {extra}"));
        command
    }
}

fn path_option(command: &mut Command, option: &str, file: &Path) {
    command.arg(option).arg(file);
}

fn triplet() -> String {
    format!("{}-linux-gnu", env::consts::ARCH)
}

/// The file in `folder` whose name begins with `start`, if there is one.
pub fn find_file(folder: &Path, start: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let begins = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    files.filter(|path| path.is_file()).find(|path| begins(path))
}
