// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's side of a migration: orders into lanes, in their order; messages of the other coordinator back.
//!
//! A task for each direction of each lane. Lane 0 leads: it takes the orders, has the others carry their part of a
//! round, and ends the round when all have. Where nothing is to be sent for some seconds it says that it is there.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use ipc::migration::frame::{Hello, Kind, MigrationId};
use ipc::protocol::mover::{MoverNotice, Packing, RoundReport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connection::{Ends, Securing};
use crate::lane::{LaneError, Receiver, STALL_SPAN, Sender};
use crate::transfer::{Carried, Lane, Owed, end_round, message, send_pages};
use crate::work::{Lost, Order, Work, alive_ticks, close_lane, say, say_alive};

/// The part of a round that a lane carries: which one, and whom to tell.
type Part = (u32, oneshot::Sender<(Carried, u64)>);

/// Says hello in every lane, and carries what is ordered until it is to be closed.
///
/// # Errors
/// Why the other host is lost.
pub async fn run<O: Owed + Send + Sync + 'static>(
    sockets: Vec<std::os::fd::OwnedFd>,
    securing: Securing,
    migration: MigrationId,
    orders: mpsc::Receiver<Order>,
    owed: Arc<O>,
    packing: Packing,
    work: Arc<Work>,
) -> Result<(), Lost> {
    let lane_count = u8::try_from(sockets.len()).unwrap_or(u8::MAX);
    let mut greeting = JoinSet::new();
    for (lane, socket) in (0..).zip(sockets) {
        let securing = securing.clone();
        greeting.spawn(async move {
            let mut ends = securing.open(socket).await?;
            ends.greet(Hello { migration, lane, lane_count }).await?;
            Ok::<_, Lost>((lane, ends))
        });
    }
    let mut lanes: Vec<(u8, Ends)> = Vec::new();
    while let Some(greeted) = greeting.join_next().await {
        lanes.push(greeted.map_err(io::Error::from)??);
    }
    lanes.sort_unstable_by_key(|(lane, _)| *lane);
    work.counters.connected(lane_count);
    work.tell(MoverNotice::Connected { migration, lane_count });
    let mut lanes = lanes.into_iter().map(|(index, ends)| (Lane { index, count: lane_count }, ends));
    let Some((lane, Ends { receiver, sender })) = lanes.next() else { return Ok(()) };
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(receiver, Arc::clone(&work)));
    let mut others = Vec::new();
    for (lane, Ends { receiver, sender }) in lanes {
        let (give, parts) = mpsc::channel(1);
        others.push(give);
        tasks.spawn(watch(receiver, Arc::clone(&work)));
        tasks.spawn(follow(sender, (lane, packing), parts, Arc::clone(&owed), Arc::clone(&work)));
    }
    let leader = Leader { sender, lane, packing, others, owed, work };
    tasks.spawn(leader.lead(orders));
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::from)??;
    }
    Ok(())
}

/// Lane 0's sending end.
struct Leader<W, O> {
    sender: Sender<W>,
    lane: Lane,
    packing: Packing,
    others: Vec<mpsc::Sender<Part>>,
    owed: Arc<O>,
    work: Arc<Work>,
}

impl<W: AsyncWrite + Unpin, O: Owed> Leader<W, O> {
    async fn lead(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), Lost> {
        let work = Arc::clone(&self.work);
        match self.obey(&mut orders).await {
            Ok(()) => Ok(()),
            Err(lost) => work.last_word(lost).await,
        }
    }

    async fn obey(&mut self, orders: &mut mpsc::Receiver<Order>) -> Result<(), Lost> {
        let work = Arc::clone(&self.work);
        let mut ticks = alive_ticks();
        loop {
            let order = tokio::select! {
                biased;
                () = work.closing() => break,
                order = orders.recv() => order,
                _ = ticks.tick() => {
                    say_alive(&mut self.sender).await?;
                    continue;
                }
            };
            match order {
                Some(Order::Round(round)) => self.round(round).await?,
                Some(Order::State(state)) => state.send(&mut self.sender, || work.is_closing()).await?,
                Some(Order::Say(message)) => say(&mut self.sender, &message).await?,
                None => break,
            }
        }
        self.others.clear();
        close_lane(&mut self.sender, orders).await?;
        Ok(())
    }

    /// A round through all lanes, unless it is given up.
    async fn round(&mut self, round: u32) -> Result<(), Lost> {
        let begun = Instant::now();
        let sent_before = self.sender.sent_len();
        let mut parts = JoinSet::new();
        for other in &self.others {
            let (tell, told) = oneshot::channel();
            // A lane that is lost drops what it is to tell.
            let _ = other.send((round, tell)).await;
            parts.spawn(told);
        }
        let work = Arc::clone(&self.work);
        let (lane, packing) = (self.lane, self.packing);
        let own = send_pages(&mut self.sender, lane, packing, &work.ram, &*self.owed, || work.is_closing());
        let own = own.await?;
        let Some(own) = own else { return Ok(()) };
        self.sender.flush().await?;
        let (mut all, mut sent_len) = (own, 0);
        let mut ticks = alive_ticks();
        loop {
            tokio::select! {
                biased;
                () = work.closing() => return Ok(()),
                part = parts.join_next() => match part {
                    None => break,
                    Some(Ok(Ok((carried, len)))) => {
                        all.page_count += carried.page_count;
                        all.zero_count += carried.zero_count;
                        sent_len += len;
                    }
                    // That lane is lost, and its task says why.
                    Some(_) => {
                        work.closing().await;
                        return Ok(());
                    }
                },
                _ = ticks.tick() => say_alive(&mut self.sender).await?,
            }
        }
        end_round(&mut self.sender, round, own).await?;
        work.counters.carried(all);
        work.counters.round();
        work.tell(MoverNotice::RoundSent(RoundReport {
            round,
            page_count: all.page_count,
            zero_count: all.zero_count,
            sent_len: sent_len + (self.sender.sent_len() - sent_before),
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        }));
        Ok(())
    }
}

/// Another lane's sending end: its part of each round.
async fn follow<W: AsyncWrite + Unpin, O: Owed>(
    mut sender: Sender<W>,
    (lane, packing): (Lane, Packing),
    mut parts: mpsc::Receiver<Part>,
    owed: Arc<O>,
    work: Arc<Work>,
) -> Result<(), Lost> {
    let mut carry = async || -> Result<(), Lost> {
        while let Some((round, tell)) = parts.recv().await {
            let before = sender.sent_len();
            let carried =
                send_pages(&mut sender, lane, packing, &work.ram, &*owed, || work.is_closing()).await?;
            let Some(carried) = carried else { break };
            end_round(&mut sender, round, carried).await?;
            // The leader has given the round up.
            let _ = tell.send((carried, sender.sent_len() - before));
        }
        Ok(sender.shutdown().await?)
    };
    match carry().await {
        Ok(()) => Ok(()),
        Err(lost) => work.last_word(lost).await,
    }
}

/// Lane 0's receiving end: what the other coordinator says, up to the end of the connection.
async fn listen<R: AsyncRead + Unpin>(mut receiver: Receiver<R>, work: Arc<Work>) -> Result<(), Lost> {
    loop {
        let next = timeout(STALL_SPAN, receiver.next()).await.map_err(|_| LaneError::Stalled)??;
        match next {
            Some((Kind::Message, body)) => work.hear(message(body)?)?,
            Some((Kind::Alive, [])) => {}
            Some((kind, _)) => return Err(LaneError::Unexpected(kind).into()),
            None if work.is_closing() => return Ok(()),
            None => return Err(LaneError::Closed.into()),
        }
    }
}

/// Another lane's receiving end, in which nothing comes but its end.
async fn watch<R: AsyncRead + Unpin>(mut receiver: Receiver<R>, work: Arc<Work>) -> Result<(), Lost> {
    match receiver.next().await {
        Ok(Some((kind, _))) => Err(LaneError::Unexpected(kind).into()),
        Ok(None) => work.last_word(LaneError::Closed.into()).await,
        Err(lost) => work.last_word(lost.into()).await,
    }
}

#[cfg(test)]
mod tests;
