// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save/restores: again and again, and those that fail: at every step that can, one process refuses or dies, and the guest goes on where it was.
//!
//! Real machines, whose vCPU or vSMMU process is the shipped one with faults by order ([`faulty`]). After each attempt the user
//! is told the process and the step, the guest's memory and registers are as before, and the machine has the processes, the
//! descriptors and the memory objects that it had: nothing leaks. At last a save/restore without a fault succeeds.
//!
//! As the hostile processes of `peers`, the faulty ones are this program itself, under another name.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod faulty;
#[expect(dead_code, reason = "the guest of another suite, of which this one needs a part")]
#[path = "../faults/monitor.rs"]
mod monitor;
#[expect(dead_code, reason = "this suite starts machines of its own making only")]
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dev_smmu::service::{Descriptors, SmmuProgram};
use faulty::{FAULTS, Faulty, How};
use monitor::Monitor;
use sandbox::profiles;
use support::{COMMAND, programs};
use tests::SEEN;
use vcpu::{Soft, VcpuProgram};

/// By name, as test runners ask for them.
const TESTS: [(&str, fn()); 3] = [
    ("guest_that_dirties_memory_moves_again_and_again_and_loses_nothing", loops),
    ("vcpu_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        each_fault("bulkhead-vcpu-soft", "vcpu");
    }),
    ("smmu_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        each_fault("bulkhead-smmu", "smmu0");
    }),
];

const PROGRAMS: [&str; 6] =
    ["bulkhead", "bulkhead-vcpu-soft", "bulkhead-vcpu", "bulkhead-smmu", "bulkhead-vfio", "bulkhead-nvme"];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    match words.first().map(String::as_str) {
        // Ends when the coordinator does.
        Some("bulkhead-vcpu-soft") => {
            let profile = profiles::vcpu_soft();
            return drop(process::run::<Faulty<VcpuProgram<Soft>>>(&profile, |fds| Ok(fds.take_rest())));
        }
        Some("bulkhead-smmu") => {
            return drop(process::run::<Faulty<SmmuProgram>>(&profiles::smmu(), Descriptors::take));
        }
        _ => {}
    }
    tests::runner::run(&words, &TESTS);
}

/// How often the guest moves, unless `BULKHEAD_MOVES` says how often.
const MOVES: u64 = 30;
/// Pages that it dirties, and words of each move.
const PAGE_COUNT: u64 = 512;
const WORDS: u64 = 6;

/// Every word that the guest has ever stored is as it was stored last, after each move.
fn loops() {
    let Some(built) = programs() else { return };
    let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
    let set = |options: &mut tests::vm::Options| {
        options.programs = built;
        options.arguments = ["--cpu", "soft", "--vcpus", "2"].map(Into::into).to_vec();
    };
    let Some(mut m) = Monitor::start(folder.path(), "moves", set) else { return };
    let count = std::env::var("BULKHEAD_MOVES").ok().map_or(MOVES, |text| text.parse().unwrap());
    let mut stored = BTreeMap::new();
    let (mut downtimes, mut value) = (Vec::new(), 0x1234_5678_9abc_def1_u64);
    for round in 0..count {
        for _ in 0..WORDS {
            // xorshift64
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            let gpa = 0x4200_0000 + (value % PAGE_COUNT) * 0x1000 + (value >> 40) % 512 * 8;
            m.store64(gpa, value);
            stored.insert(gpa, value);
        }
        // The last store is done, and the guest waits for the next word, when it moves.
        let (last, expected) = stored.last_key_value().unwrap();
        assert_eq!(m.load64(*last), *expected);
        let moved: serde_json::Value =
            serde_json::from_str(&m.vm.control_json("save-restore").unwrap()).unwrap();
        assert_eq!(moved["generation"], round + 2);
        downtimes.push(moved["downtime_us"].as_u64().unwrap());
        // A few each time, all of them at the end.
        let skip = if round + 1 == count { 1 } else { 16 };
        for (gpa, expected) in stored.iter().step_by(skip) {
            assert_eq!(m.load64(*gpa), *expected, "{gpa:#x} after move {round}");
        }
    }
    downtimes.sort_unstable();
    println!(
        "{SEEN}{count} moves, {} words as they were stored; the guest stood still for {} us, in the middle of them",
        stored.len(),
        downtimes[downtimes.len() / 2]
    );
    m.vm.console.send(".").unwrap();
    assert!(m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", m.vm.console.errors());
    assert_eq!(m.vm.left_over(), [""; 0]);
}

/// The faults of one process, all in one machine.
fn each_fault(program: &str, process: &str) {
    let Some(built) = programs() else { return };
    let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
    let own = folder.path().join("programs");
    fs::create_dir(&own).unwrap();
    for name in PROGRAMS {
        let from = if name == program { PathBuf::from("/proc/self/exe") } else { built.join(name) };
        let from = from.canonicalize().unwrap();
        let to = own.join(name);
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap();
    }
    let set = |options: &mut tests::vm::Options| {
        options.programs.clone_from(&own);
        options.arguments = ["--cpu", "soft", "--vcpus", "2"].map(Into::into).to_vec();
    };
    let Some(mut m) = Monitor::start(folder.path(), &format!("moves-{process}"), set) else { return };
    let mut guest = Guest(0);
    guest.works(&mut m);
    let before = Held::by_machine(&own);
    let mut table = Vec::new();
    for (step, how) in FAULTS {
        let begun = Instant::now();
        let output = m.vm.control::<&str>("save-restore", &[]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{process} {step:?} {how:?} and the guest moved");
        let named = format!("{} of {process}: ", step.as_str());
        let why = if how == How::Dies { "77" } else { "by order" };
        assert!(said.contains(&named) && said.contains(why), "{step:?} {how:?}: {said}");
        assert!(said.contains("the guest is running"), "{said}");
        guest.works(&mut m);
        let status: serde_json::Value = serde_json::from_str(&m.vm.control_json("status").unwrap()).unwrap();
        assert_eq!((&status["phase"], &status["generation"]), (&"running".into(), &1.into()), "{status}");
        before.is_again(&own);
        let first = said.lines().next().unwrap_or_default();
        table.push(format!("{step:?} {how:?}, {} ms: {first}", begun.elapsed().as_millis()));
    }
    let output = m.vm.control::<&str>("save-restore", &[]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    guest.works(&mut m);
    before.is_again(&own);
    println!(
        "{SEEN}{process}: {} of {} faults left the guest where it was, and the next move succeeds",
        table.len(),
        FAULTS.len()
    );
    for row in table {
        println!("{SEEN}  {row}");
    }
    m.vm.console.send(".").unwrap();
    assert!(m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", m.vm.console.errors());
    assert_eq!(m.vm.left_over(), [""; 0]);
}

/// What the guest remembers.
struct Guest(u64);

impl Guest {
    /// It has what it stored the last time, and stores something new.
    fn works(&mut self, m: &mut Monitor) {
        const PLACE: u64 = 0x4300_0000;
        if self.0 != 0 {
            assert_eq!(m.load64(PLACE), self.0);
        }
        self.0 = self.0 * 3 + 1;
        m.store64(PLACE, self.0);
        assert_eq!(m.load64(PLACE), self.0);
    }
}

/// What a machine holds: its processes by name, and the coordinator's descriptors by what they are of.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    processes: BTreeMap<String, usize>,
    descriptors: BTreeMap<String, usize>,
}

impl Held {
    fn by_machine(programs: &Path) -> Self {
        let (mut processes, mut descriptors) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // What cannot be read belongs to somebody else, or has just ended; commands come and go.
            let name = words.split(|byte| *byte == 0).nth(1).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            if !exe.starts_with(programs) || ["save-restore", "status"].contains(&&*name) {
                continue;
            }
            if name == "coordinator" {
                for fd in fs::read_dir(entry.path().join("fd")).unwrap().flatten() {
                    let target = fs::read_link(fd.path()).unwrap_or_default();
                    // Sockets and the like are named by their number.
                    let target = target
                        .to_string_lossy()
                        .trim_end_matches(|c: char| "0123456789]".contains(c))
                        .to_owned();
                    *descriptors.entry(target).or_default() += 1;
                }
            }
            *processes.entry(name).or_default() += 1;
        }
        assert!(processes.contains_key("coordinator") && !descriptors.is_empty(), "{processes:?}");
        Self { processes, descriptors }
    }

    /// Waits until the machine holds this again: the connection of the last command, and the last process, are closed
    /// behind the answer.
    fn is_again(&self, programs: &Path) {
        let until = Instant::now() + COMMAND;
        loop {
            let now = Self::by_machine(programs);
            if now == *self {
                return;
            }
            assert!(Instant::now() < until, "it held {self:#?} and holds {now:#?}");
            std::thread::yield_now();
        }
    }
}
