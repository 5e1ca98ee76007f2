// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every process of either end is killed in every phase of a migration, and the connections are cut in each: the guest
//! is at one end, or paused with a reason, or has ended with its machine, and never at two. It keeps a disk busy all
//! the time and looks at every byte; nothing is left behind; and what failed succeeds the next time.
//!
//! [`phases`](crate::phases) says how a phase is held, [`expected`] what may become of the guest. Everyday runs draw
//! one case of each phase by a seed, long ones take all. [`damage`](crate::damage): the same at random bytes.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::disk::{self, busy};
use tests::draw::Draw;
use tests::guest::GuestFiles;
use tests::vm::Vm;
use tests::{in_run, processes};

use crate::phases::{End, Held, PHASES, Phase, state_of};
use crate::relay::until;
use crate::support::{BOOT, COMMAND, STRICT, launch_as};

const MIB: u64 = 32;
/// For a migration to end, whatever is done to it: a silent host is noticed after 30 s, and a disk's lock awaited for
/// longer.
const END: Duration = Duration::from_secs(120);

/// Processes of a machine with a disk, by the name that they have in `ps`.
const VICTIMS: [&str; 7] = ["launcher", "coordinator", "mover", "vcpu", "smmu0", "vfio0", "nvme0"];

/// Who connects besides, and says nothing: more than are heard at once.
const STRANGERS: usize = 8;

/// Processes die more often here than a user would put up with.
const DEATHS: [&str; 4] = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"];

/// What is done to a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// This process of the phase's end is killed.
    Kill(&'static str),
    /// The connections are closed.
    Cut,
    /// Nothing comes through any more, and nothing says so.
    Silence,
}

/// What became of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It runs on at the source.
    Stays,
    /// It runs at the destination.
    Moved,
    /// It is paused at the source, which does not know where it runs; it does not.
    PausedHere,
    /// The same, and it runs at the destination.
    PausedRunsThere,
    /// Its machine has ended.
    Ended,
}

/// How a machine is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Running,
    Paused,
    /// Nobody has come, and somebody may.
    Waiting,
    Ended,
}

use Outcome::{Ended, Moved, PausedHere, PausedRunsThere, Stays};

impl Fault {
    /// All that can be done in this phase.
    fn all(phase: &Phase) -> Vec<Self> {
        let is_there = |victim: &&str| match (phase.end, phase.state) {
            // Connections are dialled first, and closed last.
            (End::Source, "connecting" | "ambiguous") => *victim != "mover",
            (End::Destination, "listening" | "awaiting-offer") => {
                matches!(*victim, "launcher" | "coordinator" | "mover")
            }
            _ => true,
        };
        let kills = VICTIMS.into_iter().filter(is_there).map(Self::Kill);
        // The connections are the same ones at both ends.
        let of_link = phase.end == End::Source && phase.state != "ambiguous";
        kills.chain(of_link.then_some([Self::Cut, Self::Silence]).into_iter().flatten()).collect()
    }
}

/// What may become of the guest.
fn expected(phase: &Phase, fault: Fault) -> &'static [Outcome] {
    // The death of one of these ends a machine; any other process of the guest comes back.
    let ends_machine = matches!(fault, Fault::Kill("launcher" | "coordinator" | "vcpu"));
    match (phase.end, fault) {
        (_, Fault::Cut | Fault::Silence) if phase.runs_there() => &[PausedRunsThere],
        (_, Fault::Cut | Fault::Silence) if phase.is_committed() => &[PausedHere],
        (End::Destination, Fault::Kill("mover")) if phase.runs_there() => &[Moved, PausedRunsThere],
        (End::Destination, _) if phase.runs_there() && ends_machine => &[Ended],
        (End::Destination, _) if phase.runs_there() => &[Moved],
        // It says that it has failed, or cannot say anything.
        (End::Destination, Fault::Kill("mover" | "launcher" | "coordinator")) if phase.is_committed() => {
            &[PausedHere]
        }
        (End::Destination, _) if phase.is_committed() => &[Stays],
        (End::Source, _) if phase.state == "ambiguous" && ends_machine => &[PausedHere, Ended],
        (End::Source, _) if phase.state == "ambiguous" => &[PausedHere],
        (End::Source, Fault::Kill("mover")) if phase.runs_there() => &[Moved, PausedRunsThere],
        // The other connections end before the one that has the order.
        (End::Source, Fault::Kill("mover")) if phase.is_committed() => &[PausedHere, PausedRunsThere],
        // The order may still be on its way in a mover that goes with them.
        (End::Source, Fault::Kill("launcher" | "coordinator"))
            if !phase.runs_there() && phase.is_committed() =>
        {
            &[Moved, Ended]
        }
        // The guest is not this end's any more.
        (End::Source, _) if phase.is_committed() => &[Moved],
        (End::Source, _) if ends_machine => &[Ended],
        // It comes back, and the guest that still runs moves.
        (End::Source, Fault::Kill("smmu0" | "vfio0" | "nvme0")) if phase.is_precopy() => &[Moved],
        _ => &[Stays],
    }
}

/// A guest that keeps its disk busy.
pub fn busy_guest(name: &str, image: &Path) -> Option<Vm> {
    let mut vm = launch_as(GuestFiles::selftest(), name, |options| {
        options.memory = "128M".into();
        options.extra = STRICT.into();
        options.nvme = vec![image.into()];
        options.arguments = DEATHS.map(Into::into).to_vec();
    })?;
    vm.console.shell(BOOT).unwrap();
    busy::begin(&mut vm.console, COMMAND).unwrap();
    Some(vm)
}

/// Another host, which waits for its guest with these flags.
pub fn next_host(vm: &Vm, flags: &[String]) -> Vm {
    let next = vm.other_host_with(COMMAND, |options| {
        options.arguments = DEATHS.map(Into::into).into_iter().chain(flags.iter().cloned()).collect();
    });
    next.unwrap()
}

#[test]
fn guest_is_at_one_end_or_has_ended_for_a_reason_whatever_is_done_in_whatever_phase() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let start = || busy_guest("matrix", &image);
    let Some(mut vm) = start() else { return };
    let mut draw = Draw::by_seed();
    for phase in &PHASES {
        let all = Fault::all(phase);
        // A silent host is waited for for long.
        let quick: Vec<Fault> = all.iter().copied().filter(|fault| *fault != Fault::Silence).collect();
        let chosen = in_run(vec![quick[draw.below(quick.len())]], all);
        let mut outcomes = BTreeMap::<Outcome, Vec<String>>::new();
        for fault in chosen {
            let case = format!("{phase}, {fault:?}");
            println!("{case}");
            let (outcome, left) = attempt(vm, phase, fault);
            assert!(expected(phase, fault).contains(&outcome), "{case}: {outcome:?}");
            outcomes.entry(outcome).or_default().push(fault.to_string());
            vm = left.map_or_else(|| start().unwrap(), |vm| goes_on(vm, outcome, &case));
        }
        println!("COUNTED: migration, {phase}: {}", row(&outcomes));
    }
    busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kill(name) => name,
            Self::Cut => "link cut",
            Self::Silence => "link silent",
        })
    }
}

/// What happened to whom, as a row of the table.
pub fn row(outcomes: &BTreeMap<Outcome, Vec<String>>) -> String {
    let said = outcomes.iter().map(|(outcome, faults)| format!("{outcome:?} ({})", faults.join(", ")));
    said.collect::<Vec<_>>().join("; ")
}

/// One migration with one fault. Returns what became of the guest, and where it is.
fn attempt(vm: Vm, phase: &'static Phase, fault: Fault) -> (Outcome, Option<Vm>) {
    let next = next_host(&vm, &[]);
    let folder = tempfile::tempdir().unwrap();
    let end = if phase.end == End::Source { &vm } else { &next };
    let mut held = Held::new(phase, end, folder.path(), &socket_of(&next));
    let migration = begin(&vm, &held.relay.address(), &[]);
    held.reach(&vm);
    match fault {
        Fault::Kill(name) => {
            let victim = until_there(&held, name);
            assert!(processes::signal(victim, Signal::KILL), "{name} has ended");
            // The order to run the guest must not come before the news of the death.
            assert!(until(COMMAND, || phase.state != "ready" || state_of(&next).as_deref() != Some("ready")));
        }
        Fault::Cut => held.relay.cut(),
        Fault::Silence => held.relay.silence(),
    }
    held.let_go();
    let answer = answer_of(migration);
    held.relay.step_aside();
    drop(held);
    let killed = if let Fault::Kill(name) = fault { Some((phase.end, name)) } else { None };
    settle(vm, next, &answer, killed)
}

/// The process, which may still be on its way.
fn until_there(held: &Held<'_>, name: &str) -> u32 {
    let mut found = None;
    assert!(
        until(COMMAND, || {
            found = held.process(name);
            found.is_some()
        }),
        "there is no {name}"
    );
    found.unwrap()
}

/// The socket at which a machine waits for its guest.
pub fn socket_of(vm: &Vm) -> PathBuf {
    vm.listens_at().and_then(|address| address.strip_prefix("unix:")).unwrap().into()
}

/// `bulkhead migrate`, to this address.
pub fn begin(vm: &Vm, to: &str, arguments: &[&str]) -> Child {
    let arguments = [&["--json", "--to", to], arguments].concat();
    let mut command = vm.controller().command("migrate", &arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its answer, in time.
pub fn answer_of(mut migration: Child) -> Output {
    assert!(until(END, || migration.try_wait().unwrap().is_some()), "the migration does not end");
    migration.wait_with_output().unwrap()
}

/// What became of the guest of a migration that has answered, and where it is: a paused one is told what is the case.
pub fn settle(
    mut vm: Vm,
    mut next: Vm,
    answer: &Output,
    killed: Option<(End, &str)>,
) -> (Outcome, Option<Vm>) {
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    let mut there = place(&mut next);
    if there == Place::Waiting {
        next.control_json("stop").unwrap();
        there = place(&mut next);
    }
    let here = place(&mut vm);
    let logs = || format!("{said}\nsource: {}\ndestination: {}", vm.console.errors(), next.console.errors());
    match (here, there) {
        (Place::Running, Place::Ended) => {
            assert!(!answer.status.success() && !said.is_empty(), "no reason: {}", logs());
            assert_nothing_left(&next, Some(&vm), killed.filter(|(end, _)| *end == End::Destination));
            (Stays, Some(vm))
        }
        (Place::Ended, Place::Running) => {
            assert_nothing_left(&vm, Some(&next), killed.filter(|(end, _)| *end == End::Source));
            (Moved, Some(next))
        }
        (Place::Paused, Place::Running) => {
            assert!(said.contains("--resolve"), "no advice: {}", logs());
            for (command, words) in [("resume", &[""; 0][..]), ("migrate", &["--resolve", "resume"])] {
                assert!(!vm.control(command, words).unwrap().status.success(), "at two ends: {}", logs());
            }
            // The other host says that it has it, whoever else has connected there and says nothing.
            let strangers: Vec<_> = (0..STRANGERS).map(|_| UnixStream::connect(socket_of(&next))).collect();
            let resolved = vm.control("migrate", &["--resolve", "discard"]).unwrap();
            assert!(resolved.status.success(), "{resolved:?}: {}", logs());
            assert!(strangers.iter().all(Result::is_ok));
            assert!(vm.console.wait_exit(COMMAND).unwrap().success());
            assert_nothing_left(&vm, Some(&next), None);
            (PausedRunsThere, Some(next))
        }
        (Place::Paused, Place::Ended) => {
            assert!(said.contains("--resolve"), "no advice: {}", logs());
            assert!(
                !vm.control("resume", &[""; 0]).unwrap().status.success(),
                "it may run there: {}",
                logs()
            );
            let resolved = vm.control("migrate", &["--resolve", "resume", "--force"]).unwrap();
            assert!(resolved.status.success(), "{resolved:?}: {}", logs());
            assert_nothing_left(&next, Some(&vm), killed.filter(|(end, _)| *end == End::Destination));
            (PausedHere, Some(vm))
        }
        (Place::Ended, Place::Ended) => {
            // Whoever is killed first says nothing any more.
            let (end, name) = killed.unwrap_or_else(|| panic!("nobody was killed: {}", logs()));
            let errors = if end == End::Source { vm.console.errors() } else { next.console.errors() };
            assert!(name == "launcher" || errors.contains(name), "no report of {name}: {}", logs());
            assert_nothing_left(&vm, None, killed.filter(|(end, _)| *end == End::Source));
            assert_nothing_left(&next, None, killed.filter(|(end, _)| *end == End::Destination));
            (Ended, None)
        }
        (here, there) => panic!("{here:?} at the source, {there:?} at the destination: {}", logs()),
    }
}

/// Nothing is left of this machine; a launcher that was killed has not removed its files.
fn assert_nothing_left(vm: &Vm, beside: Option<&Vm>, killed: Option<(End, &str)>) {
    let mut left = beside.map_or_else(|| vm.left_over(), |other| vm.left_over_beside(other));
    if killed.is_some_and(|(_, name)| name == "launcher") {
        left.retain(|thing| !thing.starts_with("file "));
    }
    assert!(left.is_empty(), "left behind: {}", left.join(", "));
}

/// How the machine is, as soon as it stays so.
fn place(vm: &mut Vm) -> Place {
    let mut found = None;
    let is_known = until(END, || {
        let status = vm.control_json("status").ok();
        let status: Option<Value> = status.and_then(|status| serde_json::from_str(&status).ok());
        let phase = status.as_ref().and_then(|status| status["phase"].as_str());
        let waits = status.as_ref().is_some_and(|status| status["migration"]["state"] == "listening");
        let seen = match phase {
            Some("running") => Some(Place::Running),
            Some("paused") => Some(Place::Paused),
            Some("created") if waits => Some(Place::Waiting),
            // One that was killed cannot say that it has ended.
            None if vm.console.has_ended() => Some(Place::Ended),
            _ => None,
        };
        // One whose CPUs have died says so for a moment longer.
        let was = std::mem::replace(&mut found, seen);
        if seen.is_some() && seen != was {
            std::thread::sleep(Duration::from_millis(200));
        }
        seen.is_some() && seen == was
    });
    assert!(is_known, "the machine does not settle: {}", vm.console.errors());
    if found == Some(Place::Ended) {
        vm.console.wait_exit(COMMAND).unwrap();
    }
    found.unwrap()
}

/// The guest is whole. One that is where it was moves, now that nothing is done to it.
pub fn goes_on(mut vm: Vm, outcome: Outcome, case: &str) -> Vm {
    busy::gap(&mut vm.console, COMMAND).unwrap_or_else(|error| panic!("{case}: {error:#}"));
    if matches!(outcome, Stays | PausedHere) {
        let mut next = next_host(&vm, &[]);
        let again = vm.migrate_to(&next, &["--json"]).unwrap();
        assert!(again.status.success(), "{case}: not the second time: {again:?}");
        assert!(vm.console.wait_exit(COMMAND).unwrap().success(), "{case}");
        busy::gap(&mut next.console, COMMAND).unwrap_or_else(|error| panic!("{case}: {error:#}"));
        vm = next;
    }
    busy::end_unnoticed(&mut vm.console, COMMAND).unwrap_or_else(|error| panic!("{case}: {error:#}"));
    busy::begin(&mut vm.console, COMMAND).unwrap();
    vm
}
