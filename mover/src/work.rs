// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tasks of one migration have in common: RAM, states, counters, and whether it is being closed.
//!
//! The control thread gives orders and closes; tasks carry. Nothing here waits but [`Work::closing`].

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ipc::migration::frame::Kind;
use ipc::protocol::budget;
use ipc::protocol::control::Event;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::mover::{MESSAGES_MAX, MoverNotice};
use process::Events;
use thiserror::Error;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::connection::GreetingError;
use crate::lane::{LaneError, Sender};
use crate::ram::Ram;
use crate::states::{Outgoing, States};
use crate::transfer::{Carried, TransferError};

/// The most orders that wait.
pub const ORDERS_MAX: usize = 256;

/// For what lane 0 may still bring from the other host before a lane that was found lost is told to be: it says more
/// than the loss does.
const LAST_WORD: Duration = Duration::from_secs(4);

/// What a migration's tasks share.
#[derive(Debug)]
pub struct Work {
    /// Guest RAM.
    pub ram: Ram,
    /// The states that may come.
    pub states: States,
    /// What has been carried.
    pub counters: Counters,
    closing: watch::Sender<bool>,
    events: Events,
}

/// An order of the coordinator, for lane 0.
#[derive(Debug)]
pub enum Order {
    /// Send what is owed.
    Round(u32),
    /// Send this state.
    State(Outgoing),
    /// Send this message.
    Say(Vec<u8>),
}

/// Why the connection to the other host is not used any more.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// What was carried, since the beginning.
#[derive(Debug, Default)]
pub struct Counters {
    rounds: AtomicU64,
    pages: AtomicU64,
    zero_pages: AtomicU64,
    heard: AtomicU64,
    lanes: AtomicU64,
}

impl Work {
    /// Nothing is carried.
    #[must_use]
    pub fn new(ram: Ram, events: Events) -> Self {
        let (states, counters) = (States::default(), Counters::default());
        Self { ram, states, counters, closing: watch::Sender::new(false), events }
    }

    /// Tells the coordinator.
    pub fn tell(&self, notice: MoverNotice) {
        self.events.tell(Event::Carried(notice));
    }

    /// Passes a message of the other coordinator on.
    ///
    /// # Errors
    /// If there are more than any migration has.
    pub fn hear(&self, message: &[u8]) -> Result<(), Lost> {
        if self.counters.heard.fetch_add(1, Relaxed) >= MESSAGES_MAX as u64 {
            return Err(Lost(format!("the other host sends more than {MESSAGES_MAX} messages")));
        }
        self.tell(MoverNotice::Heard(message.to_vec()));
        Ok(())
    }

    /// From now on nothing is begun, and what ends ends as it should.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Whether that was said.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until it is.
    pub async fn closing(&self) {
        // Its sender is here.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// A lane was found lost, in a place where the other host may have said why in another one: tells so if nothing
    /// else ends the migration before.
    ///
    /// # Errors
    /// That loss, unless this host is closing.
    pub async fn last_word(&self, lost: Lost) -> Result<(), Lost> {
        tokio::select! {
            biased;
            () = self.closing() => Ok(()),
            () = sleep(LAST_WORD) => Err(lost),
        }
    }

    /// Carries by `work` until it ends, the other host is lost, or the span for closing has passed; then says so.
    pub async fn until_closed(&self, work: impl Future<Output = Result<(), Lost>>) {
        let cut = async {
            self.closing().await;
            sleep(budget::mover::CLOSING).await;
        };
        let ended = tokio::select! {
            ended = work => ended,
            () = cut => Ok(()),
        };
        if let Err(Lost(reason)) = ended
            && !self.is_closing()
        {
            self.tell(MoverNotice::LinkLost(reason));
        }
        self.closing().await;
        self.tell(MoverNotice::Closed);
    }
}

impl Counters {
    /// A lane has carried this in a round.
    pub fn carried(&self, carried: Carried) {
        self.pages.fetch_add(carried.page_count, Relaxed);
        self.zero_pages.fetch_add(carried.zero_count, Relaxed);
    }

    /// A round is over in all lanes.
    pub fn round(&self) {
        self.rounds.fetch_add(1, Relaxed);
    }

    /// So many lanes are connected.
    pub fn connected(&self, lane_count: u8) {
        self.lanes.store(lane_count.into(), Relaxed);
    }

    /// For `inspect`.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let Self { rounds, pages, zero_pages, heard, lanes } = self;
        let each = [
            ("lanes", lanes),
            ("rounds", rounds),
            ("pages", pages),
            ("zero_pages", zero_pages),
            ("messages_heard", heard),
        ];
        each.into_iter().for_each(|(name, counter)| inspect.counter(name, counter.load(Relaxed)));
    }
}

/// Sends the messages that are still queued, and closes this direction.
///
/// # Errors
/// The lane's.
pub async fn close_lane<W: AsyncWrite + Unpin>(
    to: &mut Sender<W>,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<(), LaneError> {
    while let Ok(order) = orders.try_recv() {
        if let Order::Say(message) = order {
            say(to, &message).await?;
        }
    }
    to.shutdown().await
}

/// Sends a message.
///
/// # Errors
/// The lane's.
pub async fn say<W: AsyncWrite + Unpin>(to: &mut Sender<W>, message: &[u8]) -> Result<(), LaneError> {
    to.send(Kind::Message, |body| body.extend_from_slice(message)).await?;
    to.flush().await
}

/// Says that this host is there.
///
/// # Errors
/// The lane's.
pub async fn say_alive<W: AsyncWrite + Unpin>(to: &mut Sender<W>) -> Result<(), LaneError> {
    to.send(Kind::Alive, |_| {}).await?;
    to.flush().await
}

/// When to say so.
#[must_use]
pub fn alive_ticks() -> tokio::time::Interval {
    let mut ticks = interval(budget::mover::ALIVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl From<TransferError> for Lost {
    fn from(error: TransferError) -> Self {
        Self(error.to_string())
    }
}

impl From<LaneError> for Lost {
    fn from(error: LaneError) -> Self {
        Self(error.to_string())
    }
}

impl From<GreetingError> for Lost {
    fn from(error: GreetingError) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        LaneError::Io(error).into()
    }
}
