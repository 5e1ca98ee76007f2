// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real processes under test: the built programs, hard-linked into a folder of the test's own, so that whatever is
//! left of them afterwards can be told from every other test's.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

pub mod guest;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::iter;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmm_main::launcher;
use vmm_main::system::{self, CpuKind};

/// More than any step takes on a busy machine; a test that waits longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The programs that a VM without physical devices may open, beside the built `bulkhead`.
fn programs() -> impl Iterator<Item = &'static str> {
    system::children()
        .map(|role| role.program)
        .filter(|program| *program != system::roles::VFIO_KERNEL_PROGRAM)
}

/// The kinds of CPU that this host has.
pub fn cpus() -> Vec<CpuKind> {
    let mut cpus = vec![CpuKind::Soft];
    match launcher::cpu::choose(Some(CpuKind::Kvm)) {
        Ok(_) => cpus.push(CpuKind::Kvm),
        Err(why) if std::env::consts::ARCH == "aarch64" => {
            eprintln!("SKIPPED: the vCPU process on KVM: {why}")
        }
        // Not left out: there is no such process on this architecture.
        Err(_) => {}
    }
    cpus
}

/// A place of the test's own: programs, runtime folder, files.
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    /// A new place; `None`, with the reason printed, where a program was not built.
    pub fn new() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("bulkhead-lab-").tempdir().unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_bulkhead"));
        for program in iter::once("bulkhead").chain(programs()) {
            let from = built.with_file_name(program);
            if !from.exists() {
                eprintln!("SKIPPED: {} is not built; run `cargo build --workspace --bins`", from.display());
                return None;
            }
            let to = folder.path().join(program);
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap();
        }
        fs::create_dir(folder.path().join("run")).unwrap();
        Some(Self { folder })
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A path in the place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `bulkhead` with these words, in the place's own runtime folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("bulkhead"));
        command.args(words).env("XDG_RUNTIME_DIR", self.path("run")).stdin(Stdio::null());
        command
    }

    /// Runs `bulkhead` to its end.
    pub fn bulkhead(&self, words: &[&str]) -> Output {
        let child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        finish(child)
    }

    /// The JSON that a command prints, which must succeed; `arguments` include `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.bulkhead(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a VM with this kernel.
    pub fn start(&self, kernel: &Path, words: &[&str]) -> Vm<'_> {
        self.started(self.command(&[]), kernel, words)
    }

    /// The same by an ordinary user.
    pub fn start_as(&self, uid: u32, kernel: &Path, words: &[&str]) -> Vm<'_> {
        let mut command = self.command(&[]);
        command.uid(uid).gid(uid);
        self.started(command, kernel, words)
    }

    /// The same by an ordinary user who is root of a user namespace that has no other id.
    pub fn start_in_one_id_as(&self, uid: u32, kernel: &Path) -> Vm<'_> {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(self.path("bulkhead"));
        command.env("XDG_RUNTIME_DIR", self.path("run")).uid(uid).gid(uid);
        self.started(command, kernel, &[])
    }

    fn started(&self, mut command: Command, kernel: &Path, words: &[&str]) -> Vm<'_> {
        let kernel = kernel.to_str().unwrap();
        let mut child = command
            .args(["run", "--kernel", kernel, "--memory", "16M"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let (tell, bytes) = channel();
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                if tell.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let (tell, lines) = channel();
        let stderr = child.stderr.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Vm { lab: self, child, stdin, bytes, lines, log: Vec::new() }
    }

    /// Everything that a VM of this place could have left behind, one line each.
    pub fn left_behind(&self) -> Vec<String> {
        let mut found: Vec<String> = fs::read_dir(self.path("run/bulkhead"))
            .into_iter()
            .flatten()
            .map(|entry| format!("file {}", entry.unwrap().path().display()))
            .collect();
        for pid in
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        {
            if pid.parse::<u32>().is_err() {
                continue;
            }
            // What cannot be read belongs to somebody else, or has just ended.
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if exe.starts_with(self.folder.path()) {
                found.push(format!("process {pid} {}", exe.display()));
            }
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(fd.path()).unwrap_or_default();
                if target.to_string_lossy().contains(&format!("/memfd:{}-", self.vm_name())) {
                    found.push(format!("memory object {} of process {pid}", target.display()));
                }
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.folder.path().to_string_lossy().into_owned();
        found.extend(mounts.lines().filter(|line| line.contains(&ours)).map(|line| format!("mount {line}")));
        found
    }

    /// The process called `name` of the VM that runs here, as `ps --json` shows it.
    pub fn process(&self, name: &str) -> serde_json::Value {
        let output = self.bulkhead(&["ps", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = all.as_object().unwrap().values().next().unwrap().as_array().unwrap().clone();
        rows.into_iter().find(|row| row["name"] == name).unwrap()
    }

    /// The host's number for the process called `name`.
    pub fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.process(name)["host_pid"].as_i64().unwrap()).unwrap()
    }

    /// The launcher of a VM of this place.
    pub fn launcher_pid(&self) -> Option<i32> {
        let entries =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let mut pids = entries.filter_map(|name| name.parse::<i32>().ok());
        let program = self.path("bulkhead");
        pids.find(|pid| {
            // What cannot be read belongs to somebody else, or has just ended.
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            exe == program && words.split(|byte| *byte == 0).nth(1) == Some(b"run")
        })
    }

    /// A name that no other test's VM has, as names of VMs are made.
    pub fn vm_name(&self) -> String {
        let name = self.folder.path().file_name().unwrap().to_string_lossy().to_lowercase();
        name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").trim_start_matches('-').to_owned()
    }
}

/// Waits for the end, kills what does not end.
pub fn finish(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the command did not end: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// A running `bulkhead run`.
pub struct Vm<'a> {
    pub lab: &'a Lab,
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    bytes: Receiver<Vec<u8>>,
    lines: Receiver<String>,
    /// The lines of standard error that were looked at.
    pub log: Vec<String>,
}

impl Vm<'_> {
    /// Waits for a line of the log that contains `text`.
    pub fn await_log(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no {text:?} in the log ({error}): {:#?}", self.log),
            }
        }
    }

    /// Waits until the guest runs.
    pub fn await_running(&mut self) {
        self.await_log("guest runs");
    }

    /// The next bytes that the guest prints; empty at the end of its output.
    pub fn output(&self) -> Vec<u8> {
        self.bytes.recv_timeout(PATIENCE).unwrap_or_default()
    }

    /// What has been printed by now.
    pub fn drain(&self) -> Vec<u8> {
        self.bytes.try_iter().flatten().collect()
    }

    /// Collects `count` bytes of what the guest prints.
    pub fn output_of(&self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = self.output();
            assert!(!more.is_empty(), "the guest stopped printing after {all:?}; log {:#?}", self.log);
            all.extend(more);
        }
        all
    }

    /// The process called `name`, as `ps --json` shows it.
    pub fn process(&self, name: &str) -> serde_json::Value {
        self.lab.process(name)
    }

    /// The host's number for the process called `name`.
    pub fn pid(&self, name: &str) -> i32 {
        self.lab.pid(name)
    }

    /// Waits for the end: status, the rest of the guest's output, the whole log.
    pub fn end(mut self) -> (ExitStatus, Vec<u8>, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                self.log.extend(self.lines.try_iter());
                panic!("the VM did not end: {:#?}", self.log);
            }
            thread::sleep(Duration::from_millis(5));
        };
        drop(self.stdin.take());
        let rest: Vec<u8> = self.bytes.iter().flatten().collect();
        self.log.extend(self.lines.iter());
        (status, rest, self.log.join("\n"))
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        // Only a test that failed half-way still has a child here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {pid}");
}
