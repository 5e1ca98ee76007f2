// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtual machine started by the product's own command line, from outside and with nothing shared.
//!
//! Each machine has a runtime folder of its own (`XDG_RUNTIME_DIR`), so that its control socket is found,
//! tests do not meet each other, and whatever it leaves behind is seen. Callers: the demo, the benches, the
//! suites.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    console::Console,
    guest::{self, GuestFiles},
    leftovers::{Leftovers, Scope},
};

/// How long the processes of a machine that ended may take to be gone from `/proc`.
const END: Duration = Duration::from_secs(5);

/// How a machine is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the built programs.
    pub programs: PathBuf,
    /// What it boots.
    pub guest: GuestFiles,
    /// As `--name` takes it.
    pub name: String,
    /// Guest RAM, as the command line takes it.
    pub memory: String,
    /// The guest is no Linux: no initramfs, and nothing but `extra` on its command line.
    pub bare: bool,
    /// Added to the kernel's command line.
    pub extra: String,
    /// Images of NVMe controllers behind the vSMMU.
    pub nvme: Vec<PathBuf>,
    /// Sockets of vfio-user servers whose devices are behind the vSMMU too.
    pub vfio_user: Vec<PathBuf>,
    /// Other arguments of `bulkhead run`.
    pub arguments: Vec<String>,
    /// The address at which its guest is waited for (`bulkhead receive`), instead of being booted.
    pub listen: Option<String>,
    /// Program and arguments that run it, such as a tracer's.
    pub under: Vec<String>,
}

impl Options {
    /// A machine of ordinary size that boots `guest` with the programs in `programs`.
    pub fn new(programs: PathBuf, guest: GuestFiles, name: &str) -> Self {
        Self {
            programs,
            guest,
            name: name.into(),
            memory: "512M".into(),
            bare: false,
            extra: String::new(),
            nvme: Vec::new(),
            vfio_user: Vec::new(),
            arguments: Vec::new(),
            listen: None,
            under: Vec::new(),
        }
    }

    /// The same for a guest that is no Linux but one file with the header of a kernel.
    pub fn bare(programs: PathBuf, kernel: PathBuf, name: &str) -> Self {
        let guest = GuestFiles { kernel, initramfs: PathBuf::new() };
        Self { bare: true, ..Self::new(programs, guest, name) }
    }

    /// The command that runs the machine, its console on stdin and stdout.
    pub fn command(&self, runtime: &Path) -> Command {
        let program = self.programs.join("bulkhead");
        let mut command = match self.under.split_first() {
            Some((first, more)) => {
                let mut command = Command::new(first);
                command.args(more).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("XDG_RUNTIME_DIR", runtime);
        match &self.listen {
            None => command.arg("run"),
            Some(address) => command.args(["receive", "--listen", address.as_str()]),
        };
        command.arg("--kernel").arg(&self.guest.kernel);
        let first_words = if self.bare {
            ""
        } else {
            command.arg("--initramfs").arg(&self.guest.initramfs);
            guest::COMMAND_LINE
        };
        command.args(["--memory", &self.memory, "--name", &self.name, "--console", "stdio"]);
        for image in &self.nvme {
            command.arg("--nvme").arg(image);
        }
        for socket in &self.vfio_user {
            command.arg("--vfio-user").arg(socket);
        }
        command.args(&self.arguments);
        command.arg("--cmdline").arg(format!("{first_words} {}", self.extra).trim());
        command
    }
}

/// The address of a host that waits for a guest at this socket.
pub fn address(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

/// A running machine.
pub struct Vm {
    /// Standard input and output of `bulkhead run`.
    pub console: Console,
    options: Options,
    runtime: tempfile::TempDir,
    scope: Scope,
    before: Leftovers,
}

impl Vm {
    /// Starts the machine; returns as soon as `bulkhead run` runs.
    pub fn launch(options: Options) -> Result<Self> {
        let runtime = tempfile::tempdir().context("a runtime folder for the machine")?;
        let scope = Scope { programs: options.programs.clone(), sockets: runtime.path().join("bulkhead") };
        let before = scope.present();
        let console = Console::start(&mut options.command(runtime.path()))?;
        Ok(Self { console, options, runtime, scope, before })
    }

    /// Runs `bulkhead TASK ARGUMENTS... NAME` against this machine.
    pub fn control<A: AsRef<OsStr>>(&self, task: &str, arguments: &[A]) -> Result<Output> {
        let mut command = self.controller().command(task, arguments);
        command.output().with_context(|| format!("`bulkhead {task}` did not start"))
    }

    /// The control commands of this machine, for use while the machine is borrowed.
    pub fn controller(&self) -> Controller {
        Controller {
            program: self.options.programs.join("bulkhead"),
            runtime: self.runtime.path().into(),
            name: self.options.name.clone(),
        }
    }

    /// What `bulkhead TASK NAME --json` prints; an error if it does not end with exit code 0.
    pub fn control_json(&self, task: &str) -> Result<String> {
        let output = self.control(task, &["--json"])?;
        if !output.status.success() {
            bail!(
                "`bulkhead {task}` ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The rows of `bulkhead ps`.
    pub fn processes(&self) -> Result<Vec<Value>> {
        let all: Value =
            serde_json::from_str(&self.control_json("ps")?).context("`bulkhead ps` is not JSON")?;
        // By the name of the machine, of which there is one.
        let rows = all.as_object().and_then(|all| all.values().next()?.as_array()).context("no processes")?;
        Ok(rows.clone())
    }

    /// Waits until the machine's control socket answers and says that the guest runs.
    pub fn wait_running(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.control_json("status") {
                Ok(status) if status.contains("\"running\"") => return Ok(()),
                Ok(status) => status,
                Err(error) => format!("{error:#}"),
            };
            if self.console.has_ended() {
                bail!("the machine ended before its guest ran: {}", self.console.errors().trim());
            }
            if Instant::now() >= deadline {
                bail!("the guest does not run after {:.1} s: {last}", limit.as_secs_f64());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The sum of the counters whose names end in `.NAME`, if `bulkhead inspect` shows any.
    pub fn counter(&self, name: &str) -> Option<u64> {
        let json = self.control_json("inspect").ok()?;
        let key = format!("{name}\"");
        let mut parts = json.split(&key).peekable();
        let mut values = Vec::new();
        while let (Some(before), Some(rest)) = (parts.next(), parts.peek()) {
            // A whole key, or the end of one behind a dot.
            if before.ends_with(['.', '"']) {
                let digits =
                    rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
                values.extend(digits.collect::<String>().parse::<u64>());
            }
        }
        values.into_iter().fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
    }

    /// A machine of the same kind on another host, with a runtime folder of its own: its guest is to come from this
    /// one. Returns when that can connect.
    pub fn other_host(&self, limit: Duration) -> Result<Self> {
        self.other_host_with(limit, |_| ())
    }

    /// The same, with whatever else `set` sets.
    pub fn other_host_with(&self, limit: Duration, set: impl FnOnce(&mut Options)) -> Result<Self> {
        // This machine's folder is there for as long as the other one needs the socket.
        let socket = self.runtime.path().join("next.sock");
        let mut options = Options { listen: Some(address(&socket)), ..self.options.clone() };
        set(&mut options);
        let other = Self::launch(options)?;
        let until = Instant::now() + limit;
        while !other.console.errors().contains("waits for a guest at") {
            if other.console.has_ended() || Instant::now() >= until {
                bail!("nobody waits for the guest: {}", other.console.errors().trim());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(other)
    }

    /// Runs `bulkhead migrate` from this machine to the other.
    pub fn migrate_to(&self, other: &Self, arguments: &[&str]) -> Result<Output> {
        self.migration_to(other, arguments)?.output().context("`bulkhead migrate` did not start")
    }

    /// `bulkhead migrate` from this machine to the other.
    pub fn migration_to(&self, other: &Self, arguments: &[&str]) -> Result<Command> {
        let to = other.options.listen.as_deref().context("it does not wait for a guest")?;
        Ok(self.controller().command("migrate", &[&["--to", to], arguments].concat()))
    }

    /// The folder of this machine's control socket.
    pub fn sockets(&self) -> &Path {
        &self.scope.sockets
    }

    /// Has the guest power off, and waits for `bulkhead run` to end with exit code 0.
    pub fn power_off(&mut self, limit: Duration) -> Result<()> {
        self.console.send("poweroff -f\n")?;
        let status = self.console.wait_exit(limit)?;
        if !status.success() {
            bail!("`bulkhead run` ended with {status}: {}", self.console.errors().trim());
        }
        Ok(())
    }

    /// The same, and nothing is left of the machine.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        self.power_off(limit)?;
        let left = self.left_over();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    }

    /// What exists now that did not before the launch, once the machine has ended.
    pub fn left_over(&self) -> Vec<String> {
        self.scope.beyond(&self.before, END)
    }

    /// The same beside a machine that goes on.
    pub fn left_over_beside(&self, other: &Self) -> Vec<String> {
        self.scope.beyond_beside(&self.before, Some(other.console.pid()), END)
    }

    /// The address at which it waits, or waited, for a guest.
    pub fn listens_at(&self) -> Option<&str> {
        self.options.listen.as_deref()
    }
}

/// The command line against one machine.
#[derive(Debug, Clone)]
pub struct Controller {
    program: PathBuf,
    runtime: PathBuf,
    name: String,
}

impl Controller {
    /// `bulkhead TASK ARGUMENTS... NAME`.
    pub fn command<A: AsRef<OsStr>>(&self, task: &str, arguments: &[A]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("XDG_RUNTIME_DIR", &self.runtime).arg(task).args(arguments).arg(&self.name);
        command.stdin(Stdio::null());
        command
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("options", &self.options).finish_non_exhaustive()
    }
}
