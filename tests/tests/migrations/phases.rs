// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The phases of a migration, as the states of source and destination are called, and how one is held in each: by a
//! frame that is not let through, or by a process that is stopped while the phase waits for it.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tests::processes;
use tests::vm::Vm;

use crate::relay::{Piece, Relay, Sender, until};
use crate::support::COMMAND;

/// One end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// A phase of one end.
#[derive(Debug)]
pub struct Phase {
    pub end: End,
    /// As `status` has it there.
    pub state: &'static str,
    /// What the other end's state is meanwhile, or was last.
    pub other: &'static str,
    /// Where the connections are held at first.
    hold: Piece,
    steps: &'static [Step],
}

/// What brings a migration to its phase.
#[derive(Debug)]
enum Step {
    /// Waits for the piece that is held.
    Await,
    /// Lets everything through.
    Release,
    /// Stops a process of the phase's end.
    Stop(&'static str),
    /// Stops it as soon as it is started.
    StopAtStart(&'static str),
    Continue(&'static str),
    /// Waits for this state of the phase's end.
    Until(&'static str),
    Cancel,
    /// Closes the connections.
    Cut,
}

use End::{Destination, Source};
use Step::{Await, Cancel, Continue, Cut, Release, Stop, StopAtStart, Until};

const OFFER: Piece = Piece::Message(Sender::Source, 1);
const LAST: Piece = Piece::Message(Sender::Source, 2);
const COMMIT: Piece = Piece::Message(Sender::Source, 3);
const ACCEPT: Piece = Piece::Message(Sender::Destination, 1);
const RUNNING: Piece = Piece::Message(Sender::Destination, 3);

/// The guest is paused when its disk holds still, which one does not that is stopped.
const PAUSING: &[Step] = &[Await, Stop("nvme0"), Release];
/// And its last pages are sent when the mover has sent them.
const FINISHING: &[Step] =
    &[Await, Stop("nvme0"), Release, Until("pausing"), Stop("mover"), Continue("nvme0")];
const GIVING_UP: &[Step] = &[Await, Stop("nvme0"), Release, Until("pausing"), Cancel];

/// All of them, in order.
pub const PHASES: [Phase; 18] = [
    phase(Source, "connecting", "listening", Piece::Greeting, &[Await]),
    phase(Source, "offering", "awaiting-offer", OFFER, &[Await]),
    phase(Source, "precopy", "receiving", Piece::Pages, &[Await]),
    phase(Source, "pausing", "receiving", Piece::Pages, PAUSING),
    phase(Source, "finishing", "receiving", Piece::Pages, FINISHING),
    phase(Source, "awaiting-ready", "receiving", LAST, &[Await]),
    phase(Source, "committing", "ready", COMMIT, &[Await]),
    phase(Source, "committing", "runs", RUNNING, &[Await]),
    phase(Source, "giving-up", "receiving", Piece::Pages, GIVING_UP),
    phase(Source, "ambiguous", "ready", COMMIT, &[Await, Cut]),
    phase(Destination, "listening", "connecting", Piece::Greeting, &[Await]),
    phase(Destination, "awaiting-offer", "offering", OFFER, &[Await]),
    phase(Destination, "preparing", "offering", ACCEPT, &[StopAtStart("smmu0")]),
    phase(Destination, "receiving", "precopy", Piece::Pages, &[Await]),
    phase(Destination, "receiving", "awaiting-ready", LAST, &[Await]),
    phase(Destination, "taking", "awaiting-ready", LAST, &[Await, Stop("smmu0"), Release]),
    phase(Destination, "ready", "committing", COMMIT, &[Await]),
    phase(Destination, "runs", "committing", RUNNING, &[Await]),
];

const fn phase(
    end: End,
    state: &'static str,
    other: &'static str,
    hold: Piece,
    steps: &'static [Step],
) -> Phase {
    Phase { end, state, other, hold, steps }
}

impl Phase {
    /// Whether the source has sent `Commit` by then.
    pub fn is_committed(&self) -> bool {
        [self.state, self.other].iter().any(|state| matches!(*state, "committing" | "ambiguous"))
    }

    /// Whether no state of the guest is saved by then.
    pub fn is_precopy(&self) -> bool {
        matches!(self.state, "connecting" | "offering" | "precopy" | "pausing")
    }

    /// Whether the guest runs at the destination by then.
    pub fn runs_there(&self) -> bool {
        [self.state, self.other].contains(&"runs")
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = if self.end == Source { "source" } else { "destination" };
        write!(f, "{end} {} (the other end: {})", self.state, self.other)
    }
}

/// A migration through a relay that is held in a phase.
pub struct Held<'v> {
    phase: &'static Phase,
    vm: &'v Vm,
    pub relay: Relay,
    stopped: Vec<u32>,
}

impl<'v> Held<'v> {
    /// The relay to a host at this socket, and what will be held there. `vm` is the phase's end.
    pub fn new(phase: &'static Phase, vm: &'v Vm, folder: &Path, to: &Path) -> Self {
        Self { phase, vm, relay: Relay::holding(folder, to, phase.hold), stopped: Vec::new() }
    }

    /// Brings the migration that has begun to the phase.
    pub fn reach(&mut self, source: &Vm) {
        for step in self.phase.steps {
            let done = match step {
                Await => self.relay.await_held(COMMAND),
                Release => {
                    self.relay.release();
                    true
                }
                Stop(name) => self.stop(name),
                StopAtStart(name) => until(COMMAND, || self.stop(name)),
                Continue(name) => self.process(name).is_some_and(|pid| processes::signal(pid, Signal::CONT)),
                Until(state) => until(COMMAND, || state_of(self.vm).as_deref() == Some(state)),
                Cancel => source.control("migrate", &["--cancel"]).unwrap().status.success(),
                Cut => {
                    self.relay.cut();
                    true
                }
            };
            assert!(done, "{}: {step:?} is not reached: {:?}", self.phase, state_of(self.vm));
        }
        // A coordinator that starts processes answers when they are there.
        let starts = matches!(self.phase.steps, [StopAtStart(_)]);
        let is_there = || state_of(self.vm).as_deref() == Some(self.phase.state);
        assert!(starts || until(COMMAND, is_there), "{} is not reached: {:?}", self.phase, state_of(self.vm));
    }

    /// The process of the phase's end.
    pub fn process(&self, name: &str) -> Option<u32> {
        let launcher = self.vm.console.pid();
        if name == "launcher" { Some(launcher) } else { processes::named(launcher, name) }
    }

    fn stop(&mut self, name: &str) -> bool {
        let stopped = self.process(name).filter(|pid| processes::signal(*pid, Signal::STOP));
        self.stopped.extend(stopped);
        stopped.is_some()
    }

    /// Lets the migration go on.
    pub fn let_go(&mut self) {
        self.relay.release();
        for pid in self.stopped.drain(..) {
            // It may be the one that was killed.
            processes::signal(pid, Signal::CONT);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Where the migration stands at this end.
pub fn state_of(vm: &Vm) -> Option<String> {
    let status: Value = serde_json::from_str(&vm.control_json("status").ok()?).ok()?;
    status.get("migration")?.get("state")?.as_str().map(str::to_owned)
}
