// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination's side of a migration: who connects is heard, the first whole migration taken, what comes put in
//! place.
//!
//! A task for each direction of lane 0, and one for each other lane. Behind the end of a round lane 0 waits for the
//! others, so that what follows it finds all pages of the round in RAM.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipc::migration::frame::{Hello, MigrationId};
use ipc::protocol::budget::mover::GREETING;
use ipc::protocol::mover::MoverNotice;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{Ends, GreetingError, Securing};
use crate::lane::{LaneError, Receiver, STALL_SPAN, Sender};
use crate::transfer::{Intake, Lane, Taken};
use crate::work::{Lost, Order, Work, alive_ticks, close_lane, say, say_alive};

/// The most connections that are waited for at once: strangers among them.
pub const CONNECTIONS_MAX: usize = 32;

/// A round that a lane is through with.
type Through = u32;

/// Hears who connects, until a migration is whole; carries it until it is to be closed.
///
/// # Errors
/// Why the other host is lost.
pub async fn run(
    sockets: mpsc::Receiver<OwnedFd>,
    securing: Securing,
    orders: mpsc::Receiver<Order>,
    work: Arc<Work>,
) -> Result<(), Lost> {
    let Some((migration, mut lanes)) = await_whole(sockets, securing, &work).await else { return Ok(()) };
    let count = u8::try_from(lanes.len()).unwrap_or(u8::MAX);
    for (lane, ends) in (0..).zip(&mut lanes) {
        ends.say(Hello { migration, lane, lane_count: count }).await?;
    }
    work.counters.connected(count);
    work.tell(MoverNotice::Connected { migration, lane_count: count });
    let mut lanes = lanes.into_iter().zip((0..).map(|index| Lane { index, count }));
    let Some((Ends { receiver, sender }, lane)) = lanes.next() else { return Ok(()) };
    let mut tasks = JoinSet::new();
    let mut others = Vec::new();
    for (ends, lane) in lanes {
        let (tell, through) = mpsc::channel(2);
        others.push((lane, through));
        // Its other direction stays open as long as it is read.
        tasks.spawn(fill(ends, lane, tell, Arc::clone(&work)));
    }
    tasks.spawn(lead(receiver, lane, others, Arc::clone(&work)));
    tasks.spawn(answer(sender, orders, Arc::clone(&work)));
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::from)??;
    }
    Ok(())
}

/// Lanes of migrations that are not whole.
#[derive(Default)]
struct Waiting(BTreeMap<(MigrationId, u8), BTreeMap<u8, (Ends, Instant)>>);

impl Waiting {
    /// Adds a lane; all of its migration, if it was the last. `None`: there is such a lane already, or there are more
    /// to come.
    fn add(&mut self, hello: Hello, ends: Ends) -> Option<(MigrationId, Vec<Ends>)> {
        let key = (hello.migration, hello.lane_count);
        let lanes = self.0.entry(key).or_default();
        if lanes.contains_key(&hello.lane) {
            ipc::log::warn!("a second connection for lane {} is closed", hello.lane);
            return None;
        }
        lanes.insert(hello.lane, (ends, Instant::now() + GREETING));
        if lanes.len() < usize::from(hello.lane_count) {
            return None;
        }
        let whole = self.0.remove(&key)?;
        Some((hello.migration, whole.into_values().map(|(ends, _)| ends).collect()))
    }

    fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// When the first of them has waited for too long.
    fn until(&self) -> Option<Instant> {
        self.0.values().flat_map(BTreeMap::values).map(|(_, until)| *until).min()
    }

    /// Closes those that have.
    fn close_late(&mut self) {
        let now = Instant::now();
        self.0.retain(|(migration, count), lanes| {
            let waits = lanes.values().all(|(_, until)| *until > now);
            if !waits {
                let found = lanes.len();
                ipc::log::warn!("migration {migration}: {found} of {count} connections came: closed");
            }
            waits
        });
    }
}

/// Takes connections until all of a migration are there. `None` if it is to be closed before.
async fn await_whole(
    mut sockets: mpsc::Receiver<OwnedFd>,
    securing: Securing,
    work: &Work,
) -> Option<(MigrationId, Vec<Ends>)> {
    let mut greeting: JoinSet<Result<(Hello, Ends), GreetingError>> = JoinSet::new();
    let mut waiting = Waiting::default();
    loop {
        let has_room = greeting.len() + waiting.len() < CONNECTIONS_MAX;
        let late = waiting.until();
        tokio::select! {
            biased;
            () = work.closing() => return None,
            Some(greeted) = greeting.join_next() => match greeted {
                Ok(Ok((hello, ends))) => {
                    if let Some(whole) = waiting.add(hello, ends) {
                        return Some(whole);
                    }
                }
                // A stranger, or somebody who is lost: nothing that the coordinator waits for.
                Ok(Err(error)) => ipc::log::warn!("a connection is closed: {error}"),
                Err(_) => {}
            },
            () = async { sleep_until(late.unwrap_or_else(Instant::now)).await }, if late.is_some() => {
                waiting.close_late();
            }
            socket = sockets.recv(), if has_room => {
                let (securing, socket) = (securing.clone(), socket?);
                greeting.spawn(async move {
                    let mut ends = securing.open(socket).await?;
                    Ok((ends.hear(GREETING).await?, ends))
                });
            }
        }
    }
}

/// Lane 0: pages, states and messages; and the end of each round, when all lanes are through with it.
async fn lead<R: AsyncRead + Unpin>(
    mut receiver: Receiver<R>,
    lane: Lane,
    mut others: Vec<(Lane, mpsc::Receiver<Through>)>,
    work: Arc<Work>,
) -> Result<(), Lost> {
    let mut intake = Intake::new(lane, &work.ram, &work.states);
    loop {
        let next = timeout(STALL_SPAN, receiver.next()).await.map_err(|_| LaneError::Stalled)??;
        let Some((kind, body)) = next else {
            return if work.is_closing() { Ok(()) } else { Err(LaneError::Closed.into()) };
        };
        match intake.take(kind, body)? {
            Taken::Kept => {}
            Taken::Message(message) => work.hear(message)?,
            Taken::Round(round, carried) => {
                work.counters.carried(carried);
                for (lane, through) in &mut others {
                    let late = || Lost(format!("lane {} is not through with round {round}", lane.index));
                    match timeout(STALL_SPAN, through.recv()).await {
                        // Each counts its rounds up.
                        Ok(Some(_)) => {}
                        // It is lost: its task says why.
                        Ok(None) => return work.last_word(late()).await,
                        Err(_) => return Err(late()),
                    }
                }
                work.counters.round();
            }
        }
    }
}

/// Another lane: pages.
async fn fill(ends: Ends, lane: Lane, through: mpsc::Sender<Through>, work: Arc<Work>) -> Result<(), Lost> {
    let Ends { mut receiver, sender: _sender } = ends;
    let mut intake = Intake::new(lane, &work.ram, &work.states);
    loop {
        let (kind, body) = match receiver.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return work.last_word(LaneError::Closed.into()).await,
            Err(LaneError::Io(error)) => return work.last_word(error.into()).await,
            Err(error) => return Err(error.into()),
        };
        if let Taken::Round(round, carried) = intake.take(kind, body)? {
            work.counters.carried(carried);
            // Lane 0 is lost, and its task says why.
            let _ = through.send(round).await;
        }
    }
}

/// Lane 0, back to the source: messages, and that this host is there.
async fn answer<W: AsyncWrite + Unpin>(
    mut sender: Sender<W>,
    mut orders: mpsc::Receiver<Order>,
    work: Arc<Work>,
) -> Result<(), Lost> {
    let mut ticks = alive_ticks();
    let mut carry = async || -> Result<(), LaneError> {
        loop {
            tokio::select! {
                biased;
                () = work.closing() => break,
                order = orders.recv() => match order {
                    Some(Order::Say(message)) => say(&mut sender, &message).await?,
                    // Not ordered here.
                    Some(Order::Round(_) | Order::State(_)) => {}
                    None => break,
                },
                _ = ticks.tick() => say_alive(&mut sender).await?,
            }
        }
        close_lane(&mut sender, &mut orders).await
    };
    match carry().await {
        Ok(()) => Ok(()),
        Err(lost) => work.last_word(lost.into()).await,
    }
}

#[cfg(test)]
mod tests;
