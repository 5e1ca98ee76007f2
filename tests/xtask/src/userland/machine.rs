// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One machine with its own copy of the disk: Debian's second stage runs on it, then systemd.
//!
//! The texts that are waited for are `tests/guest/userland/second-stage.sh`'s, and the prompt of a stock Debian.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use ::tests::{
    command::{capture, find},
    console::Console,
    guest::GuestFiles,
    tools::Ready,
    vm::{self, Vm},
};
use anyhow::{Context, Result, bail, ensure};

const COUNT_MARK: &str = "userland: packages configured: ";
const SECOND_STAGE_MARK: &str = "userland: second stage ended, exit code ";
const PROMPT: &str = "root@bulkhead-guest:~# ";

/// Limits for a busy machine; an idle one needs a few minutes for the first, and less than one for the second.
const SECOND_STAGE: Duration = Duration::from_secs(90 * 60);
const BOOT: Duration = Duration::from_secs(20 * 60);
const COMMAND: Duration = Duration::from_secs(10 * 60);

const MEMORY_MIB: u32 = 1024;

/// What runs the guest.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Our machine on software CPUs: the folder of its programs.
    Bulkhead(PathBuf),
    /// QEMU's emulation.
    Qemu(Ready),
}

/// A machine that is not running.
pub struct Machine<'a> {
    pub engine: Engine,
    pub cpus: u32,
    pub kernel: &'a Path,
    /// Its own: it is written.
    pub disk: &'a Path,
}

/// The outcome of a boot with systemd.
pub struct Booted {
    pub took: Duration,
    /// What `systemctl is-system-running` says.
    pub state: String,
    /// Units that failed, a line each.
    pub failed: String,
}

/// A running machine, by its console.
enum Running {
    Vm(Box<Vm>),
    Qemu(Console),
}

impl Running {
    fn console(&mut self) -> &mut Console {
        match self {
            Self::Vm(vm) => &mut vm.console,
            Self::Qemu(console) => console,
        }
    }

    fn end(&mut self) -> Result<()> {
        let status = self.console().wait_exit(COMMAND)?;
        ensure!(status.success(), "the machine ended with {status}: {}", self.console().errors().trim());
        Ok(())
    }
}

impl Machine<'_> {
    /// Has every package installed and configured. `package_count` of them must be in the end.
    pub fn second_stage(&self, package_count: usize) -> Result<Duration> {
        let begun = Instant::now();
        let mut running = self.start("init=/second-stage")?;
        let console = running.console();
        let stage = (|| -> Result<()> {
            console.wait_for(COUNT_MARK, SECOND_STAGE)?;
            let audit = console.wait_for(SECOND_STAGE_MARK, COMMAND)?;
            let code = console.wait_for("\n", COMMAND)?;
            ensure!(code.trim() == "0", "debootstrap ended with code {}", code.trim());
            let (count, audit) = audit.split_once('\n').unwrap_or((&audit, ""));
            ensure!(count.trim() == package_count.to_string(), "{} packages are configured", count.trim());
            ensure!(audit.trim().is_empty(), "dpkg's audit says: {}", audit.trim());
            Ok(())
        })();
        stage.with_context(|| {
            format!("the second stage; the end of the console:\n{}", tail(running.console()))
        })?;
        let took = begun.elapsed();
        running.end()?;
        self.check_disk()?;
        Ok(took)
    }

    /// Boots what was installed, and asks.
    pub fn boot(&self) -> Result<Booted> {
        let begun = Instant::now();
        let mut running = self.start("")?;
        let asked = self.ask(running.console(), begun);
        let booted =
            asked.with_context(|| format!("the end of the console:\n{}", tail(running.console())))?;
        running.end()?;
        self.check_disk()?;
        Ok(booted)
    }

    fn ask(&self, console: &mut Console, begun: Instant) -> Result<Booted> {
        console.wait_for(PROMPT, BOOT)?;
        let state = console.run("systemctl is-system-running --wait", COMMAND)?;
        let took = begun.elapsed();
        let failed = console.run("systemctl --failed --no-legend --plain --no-pager", COMMAND)?.output;
        let cpus = console.run("nproc", COMMAND)?.output;
        ensure!(cpus == self.cpus.to_string(), "the guest has {cpus} CPUs");
        console.send("systemctl poweroff\n")?;
        Ok(Booted { took, state: state.output, failed })
    }

    fn start(&self, extra: &str) -> Result<Running> {
        let line = format!("root=/dev/nvme0n1 rw {extra}");
        match &self.engine {
            Engine::Bulkhead(programs) => {
                let guest = GuestFiles { kernel: self.kernel.into(), initramfs: PathBuf::new() };
                let mut options = vm::Options::new(programs.clone(), guest, "userland");
                options.bare = true;
                options.extra = format!("{} {line}", ::tests::guest::COMMAND_LINE);
                options.memory = format!("{MEMORY_MIB}M");
                options.nvme.push(self.disk.into());
                options.arguments =
                    ["--cpu", "soft", "--vcpus", &self.cpus.to_string()].map(String::from).to_vec();
                Ok(Running::Vm(Box::new(Vm::launch(options)?)))
            }
            Engine::Qemu(qemu) => {
                let mut command = qemu.boot_disk(self.cpus, MEMORY_MIB, self.kernel, self.disk, &line);
                Ok(Running::Qemu(Console::start(&mut command)?))
            }
        }
    }

    /// The file system is clean, seen from outside, where the program to see it with is installed.
    fn check_disk(&self) -> Result<()> {
        if find("e2fsck").is_none() {
            return Ok(());
        }
        capture(Command::new("e2fsck").arg("-fn").arg(self.disk))
            .context("the file system is not clean")
            .map(drop)
    }
}

/// The last lines on a console.
fn tail(console: &Console) -> String {
    const LINES: usize = 15;
    let text = console.transcript();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LINES);
    lines.iter().skip(first).map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// A copy of `image` in `folder` that is as sparse.
pub fn copy_of(image: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("disk.img");
    let status = Command::new("cp").arg("--sparse=always").arg(image).arg(&copy).status();
    match status {
        Ok(status) if status.success() => Ok(copy),
        Ok(status) => bail!("cp ended with {status}"),
        Err(error) => Err(error).context("cp did not start"),
    }
}
