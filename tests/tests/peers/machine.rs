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
use tests::{programs, vm::Controller};

use crate::hostile;
use crate::monitor::Monitor;
use crate::nvme::{LOST, Nvme, Place, STREAM, SUCCESS, identify, write_block};
use crate::smmu::{Granule, READ_WRITE, Smmu};
use crate::support::{self, COMMAND};

/// The victim: device 2, its configuration space, and its StreamID.
const VICTIM: u64 = 2;
const VICTIM_CONFIG: u64 = 0x3000_0000 + (VICTIM << 15);
const VICTIM_STREAM: u64 = VICTIM << 3;

/// The program of the victim's process that is replaced.
const VFIO: &str = "bulkhead-vfio";

/// Pages of the neighbour: its queues, and the one that it moves; and the same of the victim.
const PAGE_COUNT: u64 = 10;
const DATA: u64 = 4;
const VICTIMS: u64 = 5;

fn place(page: u64) -> Place {
    Place { gpa: 0x4300_0000 + page * 0x1_0000, iova: 0x12_4000_0000 + (page << 12) }
}

/// A machine.
pub struct Machine {
    m: Monitor,
    /// What drives it, once it runs.
    guest: Option<Guest>,
    slowed: Vec<(Arc<AtomicBool>, JoinHandle<()>)>,
    folder: TempDir,
}

/// The guest's drivers.
struct Guest {
    smmu: Smmu,
    neighbour: Nvme,
    /// None, if it was not there when it was looked for.
    victim: Option<Nvme>,
}

impl Machine {
    /// Starts one, and its guest's drivers; its second device has a hostile process, if there is a script for one.
    /// Nothing, where a suite has to skip.
    pub fn start(name: &str, script: Option<u8>) -> Option<Self> {
        let mut machine = Self::launch(name, script, |_| Vec::new())?;
        machine.boot();
        Some(machine)
    }

    /// Launches one, under another program whose words `under` makes with a file of the machine's folder.
    pub fn launch(name: &str, script: Option<u8>, under: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let built = support::programs()?;
        let folder = tempfile::Builder::new().prefix("bulkhead-peers-").tempdir().unwrap();
        let own = folder.path().join("programs");
        programs::folder_without(script.map(|_| VFIO), &built, &own).unwrap();
        if let Some(script) = script {
            hostile::write(&own.join(VFIO), script);
        }
        let images = [0, 1].map(|index| image(&folder.path().join(format!("disk{index}.img"))));
        let under = under(&folder.path().join("launcher"));
        let m = Monitor::launch(folder.path(), name, |options| {
            options.programs = own;
            options.nvme = images.to_vec();
            // What it does costs its device: no next life does it again.
            options.arguments = ["--device-restart", "never"].map(Into::into).to_vec();
            options.under = under;
        })?;
        Some(Self { m, guest: None, slowed: Vec::new(), folder })
    }

    /// Waits until the guest runs, and starts its drivers.
    pub fn boot(&mut self) {
        let m = &mut self.m;
        m.vm.wait_running(COMMAND).unwrap();
        let mut smmu = Smmu::enable(m, Granule::K4, STREAM);
        for page in 0..PAGE_COUNT {
            smmu.map(m, place(page).iova, place(page).gpa | READ_WRITE);
        }
        let mut neighbour = Nvme::find(m, [0, 1].map(place), [2, 3].map(place));
        neighbour.enable(m);
        // Both devices have the same tables.
        smmu.stream = VICTIM_STREAM;
        smmu.put_stream(m, smmu.entry());
        smmu.renew_stream(m);
        smmu.stream = STREAM;
        let [admin, io] = [[0, 1], [2, 3]].map(|pair| pair.map(|page| place(VICTIMS + page)));
        let victim = Nvme::find_device(m, VICTIM, admin, io);
        self.guest = Some(Guest { smmu, neighbour, victim });
    }

    /// The neighbour's I/O: a page is mapped anew, which waits for every device behind the SMMU, and used both ways.
    pub fn neighbour_works(&mut self) {
        let Some(Guest { smmu, neighbour, .. }) = &mut self.guest else { panic!("the guest has no drivers") };
        let (m, data) = (&mut self.m, place(DATA));
        smmu.map(m, data.iova, data.gpa | READ_WRITE);
        m.store64(data.gpa, 0);
        assert_eq!(neighbour.run(m, 0, identify(data.iova)), SUCCESS);
        assert_eq!(m.load64(data.gpa) & 0xffff, u64::from(neighbour.vendor));
        assert_eq!(neighbour.run(m, 1, write_block(data.iova)), SUCCESS);
    }

    /// Whether the victim does a command from a reset on, which takes DMA of its queues and its data.
    pub fn victim_works(&mut self) -> bool {
        let victim = self.guest.as_mut().and_then(|guest| guest.victim.as_mut());
        victim.is_some_and(|victim| victim.identifies(&mut self.m, place(VICTIMS + DATA).iova))
    }

    /// Whether the victim is lost to the guest, by a register that only its server answers for.
    pub fn victim_is_lost(&mut self) -> bool {
        let victim = self.guest.as_ref().and_then(|guest| guest.victim.as_ref());
        let first = match victim {
            Some(victim) => victim.version(&mut self.m),
            None => self.m.load32(VICTIM_CONFIG),
        };
        first == LOST
    }

    /// What controls it while its guest is driven.
    pub fn controller(&self) -> Controller {
        self.m.vm.controller()
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

    /// Waits until the log has a line about the process and one of these reasons.
    pub fn await_report(&mut self, process: &str, reasons: &[&str]) {
        let until = Instant::now() + COMMAND;
        let is_told =
            |line: &str| line.contains(process) && reasons.iter().any(|reason| line.contains(reason));
        let told = |log: &str| log.lines().any(is_told);
        while !told(&self.m.vm.console.errors()) {
            assert!(Instant::now() < until, "{process}, {reasons:?}: {}", self.m.vm.console.errors());
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

    /// The file whose path a program around it was given.
    pub fn launcher_file(&self) -> PathBuf {
        self.folder.path().join("launcher")
    }

    /// Waits until the machine has ended, and sees that nothing of it is left: exit code, and what it has said.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let status = self.m.vm.console.wait_exit(COMMAND).unwrap();
        let said = self.m.vm.console.errors();
        assert_eq!(self.m.vm.left_over(), [""; 0], "{said}");
        (status.code(), said)
    }

    /// Stops the machine by command, and sees that nothing of it is left.
    pub fn end(mut self) {
        self.control("stop");
        for (done, thread) in self.slowed.drain(..) {
            done.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
        let (code, said) = self.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

fn image(path: &Path) -> PathBuf {
    fs::File::create(path).and_then(|file| file.set_len(16 << 20)).unwrap();
    path.to_owned()
}
