// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination's side of a migration: a pure state machine.
//!
//! ```text
//!   AwaitingOffer ─► Preparing ─► Receiving ─► Taking ─► Ready ─► Runs
//!        └──────────────┴─────────────┴───────────┴────────┴─► Over: nothing was started, or everything is ended
//! ```
//!
//! Without `Commit` the guest never runs here: whatever goes wrong before, a link that is lost above all, ends this
//! side and all of its processes. With `Commit` it runs, whatever becomes of the link then: nothing that can fail is
//! left to be done. As long as the source has not said that it knows, it can ask.

use super::message::Message;

/// Where the destination stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Connected; nothing is known of the guest.
    AwaitingOffer,
    /// The offer fits; processes are started and configured, devices bound.
    Preparing,
    /// Pages and units arrive.
    Receiving,
    /// Everything has arrived: disks are locked; load, arm, replay.
    Taking,
    /// Everything that can fail is done.
    Ready,
    /// The guest is let go here, and runs.
    Runs {
        /// The source has heard so. Otherwise it may ask, also when the link is lost.
        is_known: bool,
    },
    /// It does not and will not.
    Over {
        /// Why.
        reason: String,
    },
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The source says something.
    Received(Message),
    /// The offer does not fit: a sentence for each difference.
    Differs(Vec<String>),
    /// The offer fits.
    Fits,
    /// Processes are configured, devices bound.
    Prepared,
    /// All units have arrived as the source says, and every process has taken its own; all streams are replayed.
    Taken,
    /// Every process has begun, and is paused if the guest was.
    Arrived,
    /// Something on this host does not do its part.
    Failed(String),
    /// The connection is lost, or the source has been silent for too long.
    LinkLost(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say this to the source.
    Send(Message),
    /// Compare the offer with this host. Answered by `Fits` or `Differs`.
    Compare(Vec<u8>),
    /// Start and configure processes, bind devices. Answered by `Prepared`.
    Prepare,
    /// Check what has arrived against this; lock the disks; load, arm, replay. Answered by `Taken`.
    Take(Message),
    /// Drop cached pages of the disks, and let the guest run. Answered by `Arrived`.
    Go,
    /// End everything that was started, and close the connections.
    End,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    state: State,
}

impl State {
    /// What users are told of it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AwaitingOffer => "awaiting-offer",
            Self::Preparing => "preparing",
            Self::Receiving => "receiving",
            Self::Taking => "taking",
            Self::Ready => "ready",
            Self::Runs { .. } => "runs",
            Self::Over { .. } => "over",
        }
    }
}

impl Destination {
    /// A destination that somebody has just connected to.
    pub const fn new() -> Self {
        Self { state: State::AwaitingOffer }
    }

    /// Where it stands.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// What follows from an event. One that has no place where the destination stands changes nothing: it is late.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let state = std::mem::replace(&mut self.state, State::AwaitingOffer);
        let (next, actions) = match (state, event) {
            (state @ State::Runs { .. }, Event::Arrived) => (state, vec![Action::Send(Message::Running)]),
            (State::Runs { .. }, Event::Received(Message::Known)) => (State::Runs { is_known: true }, vec![]),
            // What happens to the link or to the source is nothing to the guest any more.
            (state @ (State::Runs { .. } | State::Over { .. }), _) => (state, vec![]),
            (_, Event::LinkLost(reason)) => (State::Over { reason }, vec![Action::End]),
            (_, Event::Failed(reason)) => Self::fail(reason),
            (_, Event::Received(Message::Abort(reason))) => {
                (State::Over { reason: format!("the source has given up: {reason}") }, vec![Action::End])
            }
            (State::AwaitingOffer, Event::Received(Message::Offer(offer))) => {
                (State::Preparing, vec![Action::Compare(offer)])
            }
            (State::Preparing, Event::Differs(differences)) => (
                State::Over { reason: differences.join("; ") },
                vec![Action::Send(Message::Refuse(differences)), Action::End],
            ),
            (State::Preparing, Event::Fits) => (State::Preparing, vec![Action::Prepare]),
            (State::Preparing, Event::Prepared) => (State::Receiving, vec![Action::Send(Message::Accept)]),
            (State::Receiving, Event::Received(last @ Message::Last { .. })) => {
                (State::Taking, vec![Action::Take(last)])
            }
            (State::Taking, Event::Taken) => (State::Ready, vec![Action::Send(Message::Ready)]),
            (State::Ready, Event::Received(Message::Commit)) => {
                (State::Runs { is_known: false }, vec![Action::Go])
            }
            // Out of turn: a source that has lost its way.
            (_, Event::Received(message)) => Self::fail(format!("the source said {message:?} out of turn")),
            (state, Event::Differs(_) | Event::Fits | Event::Prepared | Event::Taken | Event::Arrived) => {
                (state, vec![])
            }
        };
        self.state = next;
        actions
    }

    fn fail(reason: String) -> (State, Vec<Action>) {
        let failed = Action::Send(Message::Failed(reason.clone()));
        (State::Over { reason }, vec![failed, Action::End])
    }
}

impl Default for Destination {
    fn default() -> Self {
        Self::new()
    }
}
