// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every process of either set, killed or stopped at any of its messages of a save/restore.
//!
//! A move is counted first: what each process of the old set has while it lasts, and each of the new set from its start
//! on. Then it is done again, and one of them dies at one of these. Before the commit the death of a new process costs
//! the move, and that of an old one what it costs elsewhere; behind it they have changed places. A device's process
//! costs its device, the vSMMU's that serves the guest nothing, another one the machine, and nothing is left behind.
//!
//! A process that is stopped (SIGSTOP) lives, and answers no peer. It costs what its death costs, and the guest is held
//! up for no longer than a process may be without progress.
//!
//! A few moments are drawn each time, by a seed that is printed; `BULKHEAD_SEED` sets it. The full run draws more.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use ipc::protocol::budget;
use nix::sys::signal::{Signal, kill};
use tests::{FULL_RUN, SEEN, draw::Draw};

use crate::disk_guest::DiskGuest;
use crate::held::Held;
use crate::monitor::Monitor;
use crate::support::{COMMAND, programs};
use crate::tracer::{Counts, Plan, Tracer, under};

/// The processes, and those that serve a device.
const PROCESSES: [&str; 4] = ["vcpu", "smmu0", "vfio0", "nvme0"];
const OF_A_DEVICE: [&str; 2] = ["vfio0", "nvme0"];
/// Generations of the old set and of the new one.
const OLD: u32 = 1;
const NEW: u32 = 2;
/// Moments for each process of each set.
const DRAWN: u64 = 1;
const DRAWN_IN_FULL: u64 = 5;

/// From the stop of a process to the answer: until it is missed, and the others are through with what they have begun
/// with it.
const STOPPED_SPAN: Duration = budget::sum(&[budget::SILENCE, budget::STEP, budget::SLACK]);

/// What becomes of a process at its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Stopped,
}

/// A machine that is traced.
struct Traced {
    m: Monitor,
    guest: DiskGuest,
    tracer: Tracer,
    programs: PathBuf,
    _folder: tempfile::TempDir,
}

impl Traced {
    fn start(name: &str, built: &Path, plan: Plan) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
        let (image, launcher) = (folder.path().join("disk.img"), folder.path().join("launcher"));
        fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
        let mut m = Monitor::launch(folder.path(), name, |options| {
            options.programs = built.into();
            options.nvme = vec![image];
            // What is lost in a move is seen if it does not come back.
            let words = ["--cpu", "soft", "--vcpus", "2", "--device-restart", "never"];
            options.arguments = words.map(Into::into).to_vec();
            options.under = under(&launcher);
        })?;
        let tracer = Tracer::start_counting(launcher, plan);
        m.vm.wait_running(COMMAND).unwrap();
        let mut guest = DiskGuest::start(&mut m);
        guest.works(&mut m);
        Some(Self { m, guest, tracer, programs: built.into(), _folder: folder })
    }

    /// Moves it, and this becomes of the process that comes to its message meanwhile: what the command says, and how
    /// long after that, if there was one.
    fn moves(&self, fate: Fate) -> (Output, Option<Duration>) {
        let mut met = None;
        let mut meet = |process| {
            if fate == Fate::Killed {
                kill(process, Signal::SIGKILL).unwrap();
            }
            met = Some(Instant::now());
        };
        self.tracer.begin();
        let mut command = self.m.vm.controller().command::<&str>("save-restore", &[]);
        let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut waiting = Some(running);
        loop {
            match self.tracer.stopped.recv_timeout(Duration::from_millis(20)) {
                Ok(process) => {
                    meet(process);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let Some(running) = &mut waiting else { break };
                    if running.try_wait().unwrap().is_some() {
                        // One that is being stopped at this moment is told of still.
                        self.tracer.give_up();
                        let late = self.tracer.stopped.recv_timeout(Duration::from_millis(500));
                        late.into_iter().for_each(meet);
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.tracer.give_up();
        let output = waiting.take().unwrap().wait_with_output().unwrap();
        (output, met.map(|met| met.elapsed()))
    }

    /// Switches it off, and sees that nothing is left.
    fn end(mut self) {
        self.m.vm.console.send(".").unwrap();
        assert!(self.m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", self.m.vm.console.errors());
        assert_eq!(self.m.vm.left_over(), [""; 0]);
        self.tracer.finish();
    }
}

/// Each process of each set dies, at moments that are drawn.
pub fn any_message() {
    let Some(built) = programs() else { return };
    let Some(counts) = count(&built) else { return };
    let mut draw = Draw::by_seed();
    let count = if env::var_os(FULL_RUN).is_some() { DRAWN_IN_FULL } else { DRAWN };
    let (mut lives, mut lost) = (0, 0);
    for process in PROCESSES {
        for generation in [OLD, NEW] {
            let messages = counts[&(process.to_owned(), generation)];
            for _ in 0..count {
                let message = draw.message(messages);
                lives += 1;
                lost +=
                    u32::from(one(&built, process, generation, message, messages, Fate::Killed).is_some());
            }
        }
    }
    println!("{SEEN}{lost} of {lives} moves lost a process at a message; a whole one has {counts:?}");
    assert!(lost > 0, "no move reached its point");
}

/// A device's process of each set is stopped, the new one in the middle of what it does; in the full run each other one
/// too, and the new one at any moment.
pub fn stopped() {
    let Some(built) = programs() else { return };
    let Some(counts) = count(&built) else { return };
    let mut draw = Draw::by_seed();
    let is_full = env::var_os(FULL_RUN).is_some();
    let processes = if is_full { &PROCESSES[..] } else { &["vfio0"] };
    let mut spans = Vec::new();
    for process in processes {
        for generation in [OLD, NEW] {
            let messages = counts[&((*process).to_owned(), generation)];
            let mut moments = vec![];
            // While it opens its device, and its server is given the device's state.
            let is_opening = (*process, generation) == ("vfio0", NEW);
            moments.extend(is_opening.then(|| messages / 4 * 3 + draw.message(messages / 8)));
            moments.extend((is_full || !is_opening).then(|| draw.message(messages)));
            for message in moments {
                spans.extend(one(&built, process, generation, message, messages, Fate::Stopped));
            }
        }
    }
    println!(
        "{SEEN}{} processes stopped in a move, which was answered so long after that: {spans:.1?}",
        spans.len()
    );
    assert!(spans.iter().all(|span| *span < STOPPED_SPAN), "a guest was held up: {spans:?}");
    assert!(!spans.is_empty(), "no move reached its point");
}

/// What each process has in a move.
fn count(built: &Path) -> Option<Counts> {
    let mut traced = Traced::start("moves-counted", built, Plan::Count)?;
    let (output, _) = traced.moves(Fate::Killed);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = traced.tracer.counts();
    traced.guest.works(&mut traced.m);
    traced.end();
    Some(counts)
}

/// One of them: how long after it the move was answered, if it was come to.
fn one(
    built: &Path,
    process: &'static str,
    generation: u32,
    message: u64,
    of: u64,
    fate: Fate,
) -> Option<Duration> {
    let name = format!("moves-{process}-{generation}-{message}");
    let plan = Plan::Stop { process, generation, message };
    let mut traced = Traced::start(&name, built, plan).unwrap();
    let held = Held::by_machine(&traced.programs);
    let (output, met) = traced.moves(fate);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let has_moved = output.status.success();
    let first = said.lines().next().unwrap_or("it has moved");
    println!(
        "{process} of generation {generation} at message {message} of {of}, {fate:?}: {met:.1?}; {first}"
    );
    let Traced { m, guest, .. } = &mut traced;
    if met.is_none() {
        assert!(has_moved, "{said}");
        guest.works(m);
        traced.end();
        return None;
    }
    // An old process that dies behind the commit is missed by no process, and neither is a new one before it.
    let is_past_commit = has_moved || generation == NEW && !said.contains("the guest is running");
    let was_needed = is_past_commit == (generation == NEW);
    if !was_needed {
        guest.works(m);
        if !has_moved {
            // Its neighbours may tell of its end first, and whose kill it was cannot be seen.
            let tells = said.contains(process) || process == "nvme0" && said.contains("vfio0");
            assert!(tells, "{said}");
            held.is_again(&traced.programs);
            let again = traced.m.vm.control_json("save-restore");
            assert!(again.is_ok(), "the next move: {again:?}");
            traced.guest.works(&mut traced.m);
        }
        traced.end();
    } else if process == "smmu0" && (generation == OLD || has_moved) {
        // It comes back; one that has not begun when it dies has nothing to come back from.
        guest.works(m);
        traced.end();
    } else if OF_A_DEVICE.contains(&process) {
        guest.loses_its_disk(m);
        traced.end();
    } else {
        let code = traced.m.vm.console.wait_exit(COMMAND).unwrap().code();
        let report = traced.m.vm.console.errors();
        assert!(code == Some(3) && report.contains(process), "{code:?}: {report}");
        assert_eq!(traced.m.vm.left_over(), [""; 0]);
        traced.tracer.finish();
    }
    met
}
