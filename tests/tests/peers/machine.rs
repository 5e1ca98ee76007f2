// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine under test: a neighbour that works, a victim that does not, and ways to its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::hostile;
use crate::monitor::Monitor;
use crate::nvme::{Nvme, Place, STREAM, SUCCESS, identify, write_block};
use crate::smmu::{Granule, READ_WRITE, Smmu};
use crate::support::{COMMAND, programs};

/// What a device that is not there reads as.
pub const ALL_ONES: u32 = u32::MAX;

/// Configuration space of the victim: device 2.
const VICTIM: u64 = 0x3000_0000 + (2 << 15);
/// VS, the controller's version (NVM Express 1.4 section 3.1.2).
const VS: u64 = 0x08;

const PROGRAMS: [&str; 6] =
    ["bulkhead", "bulkhead-vcpu-soft", "bulkhead-vcpu", "bulkhead-smmu", "bulkhead-vfio", "bulkhead-nvme"];

/// Pages of the neighbour: its queues, and the one that it moves.
const PAGE_COUNT: u64 = 5;
const DATA: u64 = 4;

fn place(page: u64) -> Place {
    Place { gpa: 0x4300_0000 + page * 0x1_0000, iova: 0x12_4000_0000 + (page << 12) }
}

/// A running machine.
pub struct Machine {
    m: Monitor,
    smmu: Smmu,
    nvme: Nvme,
    /// What the victim is looked at by.
    victim: u64,
    slowed: Vec<(Arc<AtomicBool>, JoinHandle<()>)>,
    folder: TempDir,
}

impl Machine {
    /// Starts one; its second device has a hostile process, if there is a script for one. Nothing, where a suite has to skip.
    pub fn start(name: &str, script: Option<u8>) -> Option<Self> {
        let built = programs()?;
        let folder = tempfile::Builder::new().prefix("bulkhead-peers-").tempdir().unwrap();
        let own = folder.path().join("programs");
        fs::create_dir(&own).unwrap();
        for program in PROGRAMS {
            let (from, to) = (built.join(program), own.join(program));
            match script.filter(|_| program == "bulkhead-vfio") {
                Some(script) => hostile::write(&to, script),
                None => fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap(),
            }
        }
        let images = [0, 1].map(|index| image(&folder.path().join(format!("disk{index}.img"))));
        let mut m = Monitor::start(folder.path(), name, |options| {
            options.programs = own;
            options.nvme = images.to_vec();
        })?;
        let mut smmu = Smmu::enable(&mut m, Granule::K4, STREAM);
        for page in 0..PAGE_COUNT {
            smmu.map(&mut m, place(page).iova, place(page).gpa | READ_WRITE);
        }
        let mut nvme = Nvme::find(&mut m, [0, 1].map(place), [2, 3].map(place));
        nvme.enable(&mut m);
        let victim = if script.is_some() {
            VICTIM
        } else {
            // A register that only the server behind its process answers for.
            m.store32(VICTIM + 4, 0b10); // Memory Space
            let bar = u64::from(m.load32(VICTIM + 0x10) & !0xf) | u64::from(m.load32(VICTIM + 0x14)) << 32;
            bar + VS
        };
        Some(Self { m, smmu, nvme, victim, slowed: Vec::new(), folder })
    }

    /// The neighbour's I/O: a page is mapped anew, which waits for every device behind the SMMU, and used both ways.
    pub fn neighbour_works(&mut self) {
        let data = place(DATA);
        self.smmu.map(&mut self.m, data.iova, data.gpa | READ_WRITE);
        self.m.store64(data.gpa, 0);
        assert_eq!(self.nvme.run(&mut self.m, 0, identify(data.iova)), SUCCESS);
        assert_eq!(self.m.load64(data.gpa) & 0xffff, u64::from(self.nvme.vendor));
        assert_eq!(self.nvme.run(&mut self.m, 1, write_block(data.iova)), SUCCESS);
    }

    /// A register of the victim that never changes.
    pub fn victim_id(&mut self) -> u32 {
        self.m.load32(self.victim)
    }

    /// Runs `bulkhead TASK`, which must succeed.
    pub fn control(&self, task: &str) {
        let output = self.m.vm.control(task, &[] as &[&str]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{task}: {said}");
    }

    /// It can be inspected, paused and resumed.
    pub fn can_be_looked_at(&mut self) {
        for task in ["inspect", "pause", "resume"] {
            self.control(task);
        }
        self.neighbour_works();
    }

    /// Waits until the log has a line about the process and the reason.
    pub fn await_report(&mut self, process: &str, reason: &str) {
        let until = Instant::now() + COMMAND;
        let told = |log: &str| log.lines().any(|line| line.contains(process) && line.contains(reason));
        while !told(&self.m.vm.console.errors()) {
            assert!(Instant::now() < until, "{process}, {reason:?}: {}", self.m.vm.console.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to the process of this name.
    pub fn signal(&self, process: &str, signal: Signal) {
        kill_process(self.pid(process), signal).unwrap();
    }

    /// Lets the process run for a moment now and then only, until the machine ends.
    pub fn slow(&mut self, process: &str, stopped: Duration, runs: Duration) {
        let (pid, done) = (self.pid(process), Arc::new(AtomicBool::new(false)));
        let theirs = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                // Fails only for a process that is gone.
                let _ = kill_process(pid, Signal::STOP);
                std::thread::sleep(stopped);
                let _ = kill_process(pid, Signal::CONT);
                std::thread::sleep(runs);
            }
        });
        self.slowed.push((done, thread));
    }

    fn pid(&self, process: &str) -> Pid {
        let own = self.folder.path().join("programs");
        let is_it = |pid: &str| {
            // What cannot be read belongs to somebody else, or has just ended.
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            exe.starts_with(&own) && words.split(|byte| *byte == 0).nth(1) == Some(process.as_bytes())
        };
        let mut all =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let pid = all.find(|pid| pid.parse::<i32>().is_ok() && is_it(pid));
        Pid::from_raw(pid.unwrap_or_else(|| panic!("there is no process {process}")).parse().unwrap())
            .unwrap()
    }

    /// Stops the machine by command, and sees that nothing of it is left.
    pub fn end(mut self) {
        self.control("stop");
        for (done, thread) in self.slowed.drain(..) {
            done.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
        self.m.vm.console.wait_exit(COMMAND).unwrap();
        assert_eq!(self.m.vm.left_over(), [""; 0]);
    }
}

fn image(path: &Path) -> PathBuf {
    fs::File::create(path).and_then(|file| file.set_len(16 << 20)).unwrap();
    path.to_owned()
}
