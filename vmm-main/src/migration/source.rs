// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's side of a migration: a pure state machine.
//!
//! ```text
//!   Offering ─► Precopy ─► Pausing ─► Finishing ─► AwaitingReady ─► Committing ─► Moved
//!       └──────────┴──────────┴───────────┴──────────────┤               └─► Ambiguous: paused, for a person to decide
//!                                 GivingUp ◄─────────────┘                     └─► Asking ─► GivingUp, Moved; Ambiguous
//!                                    └─► Stays: the guest runs on here, or is paused as it was
//! ```
//!
//! Up to `Committing` everything that goes wrong, and a cancellation, leads back to a guest that runs here: the
//! destination does not run it without `Commit`. From the moment that `Commit` is handed to the network this side does
//! not run it again of itself, whatever happens: only a person's word ends [`State::Ambiguous`]. Before it is acted
//! upon the other host is asked ([`Event::Resolve`]): if it says otherwise, the guest stays where it is.

use super::convergence::{Convergence, Decision, Limits, Round};
use super::message::Message;

/// Where the source stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The destination compares.
    Offering,
    /// Pages are sent while the guest runs.
    Precopy {
        /// The round that is being sent, from 0.
        round: u32,
    },
    /// The guest is being paused.
    Pausing,
    /// It is paused: disks are released, the last pages and the units are sent.
    Finishing,
    /// Everything is sent.
    AwaitingReady,
    /// `Commit` is sent.
    Committing,
    /// The guest is brought back to where it was before.
    GivingUp {
        /// Why.
        reason: String,
    },
    /// Over: the destination runs the guest.
    Moved,
    /// Over, and the guest is this side's.
    Stays {
        /// Why.
        reason: String,
        /// It runs, unless it was paused from the beginning, or cannot be resumed.
        runs: bool,
    },
    /// `Commit` was sent and its answer did not come: the guest is paused here, and may run there.
    Ambiguous,
    /// A person has decided, and the other host is asked whether that can be.
    Asking {
        /// The guest is to go on here.
        here: bool,
    },
}

/// What the other host says of the guest, asked after an answer that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whereabouts {
    /// It has the guest.
    There,
    /// It knows of no such migration.
    Unknown,
    /// It cannot be asked, or does not answer.
    NoAnswer,
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The destination says something.
    Received(Message),
    /// A round is sent; how it went.
    RoundSent(Round),
    /// The guest is paused, every process quiet.
    Paused,
    /// The last pages and all units are sent, the disks are released: this is what the destination is told of them.
    Finished(Message),
    /// The guest is back where it was; false if it is paused and cannot be resumed.
    Resumed(bool),
    /// Something on this host does not do its part.
    Failed(String),
    /// The connection is lost, or the destination has been silent for too long.
    LinkLost(String),
    /// Somebody wants it stopped.
    Cancel,
    /// A person has decided about [`State::Ambiguous`].
    Resolve {
        /// The guest goes on here; otherwise it runs there.
        here: bool,
        /// Whatever the other host says: it is not asked.
        forced: bool,
    },
    /// What the other host says.
    Answered(Whereabouts),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say this to the destination.
    Send(Message),
    /// Harvest, and send what is owed. Answered by `RoundSent`.
    SendRound,
    /// Slow the guest's CPUs down by so many percent of their time.
    Throttle(u8),
    /// Pause the guest. Answered by `Paused`.
    Pause,
    /// Release the disks; the last harvest, the last pages, the units. Answered by `Finished`.
    Finish,
    /// Take the disks back and let the guest go on, if it ran. Answered by `Resumed`.
    Resume,
    /// Ask the other host where the guest is. Answered by `Answered`.
    Ask,
    /// Close the connections.
    Close,
    /// The guest is not here any more: end its processes.
    Discard,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    state: State,
    convergence: Convergence,
    /// The guest ran when it began.
    ran: bool,
}

impl State {
    /// What users are told of it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Offering => "offering",
            Self::Precopy { .. } => "precopy",
            Self::Pausing => "pausing",
            Self::Finishing => "finishing",
            Self::AwaitingReady => "awaiting-ready",
            Self::Committing => "committing",
            Self::GivingUp { .. } => "giving-up",
            Self::Moved => "moved",
            Self::Stays { .. } => "stays",
            Self::Ambiguous => "ambiguous",
            Self::Asking { .. } => "asking",
        }
    }
}

impl Source {
    /// A migration that begins with this offer. `ran`: the guest runs now; otherwise it is paused, and moves paused.
    pub fn begin(offer: Vec<u8>, limits: Limits, ran: bool) -> (Self, Vec<Action>) {
        let machine = Self { state: State::Offering, convergence: Convergence::new(limits), ran };
        (machine, vec![Action::Send(Message::Offer(offer))])
    }

    /// Where it stands.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether nothing will happen any more without a person.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Moved | State::Stays { .. } | State::Ambiguous)
    }

    /// Whether it is not decided yet where the guest goes on.
    pub const fn may_give_up(&self) -> bool {
        match self.state {
            State::Offering
            | State::Precopy { .. }
            | State::Pausing
            | State::Finishing
            | State::AwaitingReady => true,
            State::Committing
            | State::GivingUp { .. }
            | State::Moved
            | State::Stays { .. }
            | State::Ambiguous
            | State::Asking { .. } => false,
        }
    }

    /// What follows from an event. One that has no place where the source stands changes nothing: it is late.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let state = std::mem::replace(&mut self.state, State::Moved);
        let (next, actions) = match (state, event) {
            (State::Committing, event) => self.committing(event),
            (State::Ambiguous, Event::Resolve { here, forced: true }) => Self::resolved(here),
            (State::Ambiguous, Event::Resolve { here, forced: false }) => {
                (State::Asking { here }, vec![Action::Ask])
            }
            // Only the host that has the guest knows. Another guest's knows nothing of this one, and whoever does not
            // answer may still hear `Commit`.
            (State::Asking { here: false }, Event::Answered(Whereabouts::There)) => Self::resolved(false),
            (State::Asking { .. }, Event::Answered(_)) => (State::Ambiguous, vec![]),
            (state @ State::Asking { .. }, _) => (state, vec![]),
            (state @ (State::Moved | State::Stays { .. } | State::Ambiguous), _) => (state, vec![]),
            (State::GivingUp { reason }, Event::Resumed(resumed)) => {
                (State::Stays { reason, runs: self.ran && resumed }, vec![])
            }
            (state @ State::GivingUp { .. }, _) => (state, vec![]),
            (_, Event::LinkLost(reason)) => (State::GivingUp { reason }, vec![Action::Resume, Action::Close]),
            (_, Event::Failed(reason)) => Self::give_up(reason),
            (_, Event::Cancel) => Self::give_up("cancelled".to_owned()),
            (_, Event::Received(Message::Failed(reason))) => Self::give_up(reason),
            (State::Offering, Event::Received(Message::Refuse(differences))) => {
                Self::give_up(differences.join("; "))
            }
            (State::Offering, Event::Received(Message::Accept)) if self.ran => {
                (State::Precopy { round: 0 }, vec![Action::SendRound])
            }
            (State::Offering, Event::Received(Message::Accept)) => (State::Pausing, vec![Action::Pause]),
            (State::Precopy { round }, Event::RoundSent(report)) => self.after_round(round, report),
            (State::Pausing, Event::Paused) => (State::Finishing, vec![Action::Finish]),
            (State::Finishing, Event::Finished(last)) => (State::AwaitingReady, vec![Action::Send(last)]),
            (State::AwaitingReady, Event::Received(Message::Ready)) => {
                (State::Committing, vec![Action::Send(Message::Commit)])
            }
            // Out of turn: whoever says so has lost its way, and is not to be given a guest.
            (_, Event::Received(message)) => {
                Self::give_up(format!("the destination said {message:?} out of turn"))
            }
            (
                state,
                Event::RoundSent(_)
                | Event::Paused
                | Event::Finished(_)
                | Event::Resumed(_)
                | Event::Resolve { .. }
                | Event::Answered(_),
            ) => (state, vec![]),
        };
        self.state = next;
        actions
    }

    /// A person's word, which nothing that is known speaks against.
    fn resolved(here: bool) -> (State, Vec<Action>) {
        match here {
            true => (State::GivingUp { reason: "resolved by hand".to_owned() }, vec![Action::Resume]),
            false => (State::Moved, vec![Action::Discard]),
        }
    }

    /// Only the destination's own word decides: that it runs the guest, or that it has failed and never will.
    fn committing(&self, event: Event) -> (State, Vec<Action>) {
        match event {
            Event::Received(Message::Running) => {
                (State::Moved, vec![Action::Send(Message::Known), Action::Discard, Action::Close])
            }
            // It says so only while it has not seen `Commit`, and takes none from then on.
            Event::Received(Message::Failed(reason)) => {
                (State::GivingUp { reason }, vec![Action::Resume, Action::Close])
            }
            Event::LinkLost(_) | Event::Failed(_) => (State::Ambiguous, vec![Action::Close]),
            _ => (State::Committing, vec![]),
        }
    }

    fn after_round(&mut self, round: u32, report: Round) -> (State, Vec<Action>) {
        let next = round.saturating_add(1);
        match self.convergence.after(next, report) {
            Decision::NextRound => (State::Precopy { round: next }, vec![Action::SendRound]),
            Decision::Throttle(percent) => {
                (State::Precopy { round: next }, vec![Action::Throttle(percent), Action::SendRound])
            }
            Decision::SwitchOver => (State::Pausing, vec![Action::Pause]),
            Decision::GiveUp(reason) => Self::give_up(reason),
        }
    }

    /// The destination is told, if it can be; it does not run the guest in any case.
    fn give_up(reason: String) -> (State, Vec<Action>) {
        let abort = Action::Send(Message::Abort(reason.clone()));
        (State::GivingUp { reason }, vec![abort, Action::Resume, Action::Close])
    }
}
