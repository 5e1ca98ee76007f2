// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages from the owed map into a lane, and what comes in a lane into RAM and states.
//!
//! Each lane has its own words of the owed map, and takes a word's bits before it reads the pages: what the guest
//! writes from then on is marked, harvested and owed again. The receiver believes nothing: a word of another lane, or
//! pages that are no RAM, end the migration. [`Intake`] does no I/O of its own but with RAM and states: it is what the
//! fuzz target drives.

use ipc::migration::frame::{EndOfRound, Kind, StreamError};
use ipc::migration::pages::{self, PagesHead, Stretch, ZeroPages};
use ipc::migration::unit::PieceHead;
use ipc::protocol::mover::{MESSAGE_LEN_MAX, Packing};
use ipc::shm::dirty_log::SharedOwed;
use thiserror::Error;
use tokio::io::AsyncWrite;

use crate::lane::{LaneError, Sender};
use crate::packing::{Packer, PackingError, Unpacker};
use crate::ram::{Ram, RamError};
use crate::states::{StateError, States};

/// The pages that the destination has not got.
pub trait Owed {
    /// Takes the bits of a word: they are sent from here.
    fn take(&self, word: u64) -> u64;
}

impl Owed for SharedOwed {
    fn take(&self, word: u64) -> u64 {
        usize::try_from(word).map_or(0, |word| Self::take(self, word))
    }
}

/// Which lane of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// From 0.
    pub index: u8,
    /// In all.
    pub count: u8,
}

/// What a lane has carried in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Pages with their bytes.
    pub page_count: u64,
    /// Pages that are zero.
    pub zero_count: u64,
}

/// Why a transfer has ended.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The connection, or what came of it, cannot be used.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// Pages that the guest has not got, or that the host cannot hold.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Packed pages that are none.
    #[error("pages from the other host: {0}")]
    Packing(#[from] PackingError),
    /// A process's state that is not expected, or that the host cannot hold.
    #[error(transparent)]
    State(#[from] StateError),
    /// The other host sends a word in a lane that is not its own.
    #[error("the other host sends word {word:#x} in lane {lane}, which is not its lane")]
    OtherLane {
        /// As the bitmaps number it.
        word: u64,
        /// In which it came.
        lane: u8,
    },
    /// Another round ends than the one that is due.
    #[error("the other host ends round {found} where {expected} is due")]
    Round {
        /// What its end says.
        found: u32,
        /// Which one is due.
        expected: u32,
    },
    /// A round ended with fewer or more pages than were carried in it.
    #[error("round {round}: the other host has sent {claimed} pages, {found} have come")]
    Count {
        /// Which one, from 0.
        round: u32,
        /// What its end says.
        claimed: u64,
        /// What came.
        found: u64,
    },
    /// A coordinator has less to say.
    #[error("a message of {len:#x} bytes, at most {MESSAGE_LEN_MAX:#x} are allowed")]
    MessageLong {
        /// Its length.
        len: usize,
    },
}

impl From<StreamError> for TransferError {
    fn from(error: StreamError) -> Self {
        LaneError::Stream(error).into()
    }
}

/// Sends what is owed of this lane's words, packed so, until `is_given_up`: what it took of the map and has not sent is
/// lost then. `None` if it was.
///
/// # Errors
/// The lane's, or RAM's.
pub async fn send_pages<W: AsyncWrite + Unpin>(
    to: &mut Sender<W>,
    lane: Lane,
    packing: Packing,
    ram: &Ram,
    owed: &impl Owed,
    is_given_up: impl Fn() -> bool,
) -> Result<Option<Carried>, TransferError> {
    let mut carried = Carried::default();
    let mut packer = Packer::new(packing);
    let mut zero = ZeroPages::default();
    for word in (u64::from(lane.index)..ram.word_count()).step_by(usize::from(lane.count.max(1))) {
        let taken = owed.take(word);
        if taken == 0 {
            continue;
        }
        if is_given_up() {
            return Ok(None);
        }
        let mut filled = 0;
        to.send_as(|body| {
            let bytes_at = body.len() + pages::HEAD_LEN;
            filled = append_pages(Stretch { word, pages: taken }, ram, body)?;
            Ok::<_, TransferError>(match filled {
                0 => None,
                _ if packer.pack_in(body, bytes_at) => Some(Kind::PackedPages),
                _ => Some(Kind::Pages),
            })
        })
        .await?;
        carried.page_count += u64::from(filled.count_ones());
        carried.zero_count += u64::from((taken & !filled).count_ones());
        if taken != filled && zero.push(Stretch { word, pages: taken & !filled }) {
            send_zero(to, &mut zero).await?;
        }
    }
    if !zero.is_empty() {
        send_zero(to, &mut zero).await?;
    }
    Ok(Some(carried))
}

/// Appends a `Pages` body with those pages that are not zero: they are read to where they are sent from. Which those
/// are; if there is none, what was appended is no body.
fn append_pages(stretch: Stretch, ram: &Ram, body: &mut Vec<u8>) -> Result<u64, RamError> {
    let at = body.len();
    body.extend_from_slice(&[0; pages::HEAD_LEN]);
    let filled = ram.append(stretch, body)?;
    if let Some(head) = body.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *head = PagesHead { stretch: Stretch { pages: filled, ..stretch } }.to_bytes();
    }
    Ok(filled)
}

async fn send_zero<W: AsyncWrite + Unpin>(to: &mut Sender<W>, zero: &mut ZeroPages) -> Result<(), LaneError> {
    to.send(Kind::ZeroPages, |body| body.extend_from_slice(zero.as_bytes())).await?;
    zero.clear();
    Ok(())
}

/// Says that this lane has carried all of a round.
///
/// # Errors
/// The lane's.
pub async fn end_round<W: AsyncWrite + Unpin>(
    to: &mut Sender<W>,
    round: u32,
    carried: Carried,
) -> Result<(), LaneError> {
    let end = EndOfRound { round, page_count: carried.page_count + carried.zero_count };
    to.send(Kind::EndOfRound, |body| body.extend_from_slice(&end.to_bytes())).await?;
    to.flush().await
}

/// What comes in one lane at the destination.
#[derive(Debug)]
pub struct Intake<'a> {
    lane: Lane,
    ram: &'a Ram,
    states: &'a States,
    unpacker: Unpacker,
    /// The round that is due, and what has come of it.
    round: u32,
    carried: Carried,
}

/// What a frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// It was put where it belongs; or says that the other host is there.
    Kept,
    /// The end of a round: which one, and what this lane has carried in it.
    Round(u32, Carried),
    /// A message for the coordinator.
    Message(&'a [u8]),
}

impl<'a> Intake<'a> {
    /// Nothing has come.
    #[must_use]
    pub fn new(lane: Lane, ram: &'a Ram, states: &'a States) -> Self {
        Self { lane, ram, states, unpacker: Unpacker::default(), round: 0, carried: Carried::default() }
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// If it cannot be, or has no place in this lane; or this host cannot hold it.
    pub fn take<'b>(&mut self, kind: Kind, body: &'b [u8]) -> Result<Taken<'b>, TransferError> {
        match kind {
            Kind::Pages | Kind::PackedPages => {
                let is_packed = kind == Kind::PackedPages;
                let decode = if is_packed { PagesHead::decode_packed } else { PagesHead::decode };
                let (head, bytes) = decode(body)?;
                let stretch = self.own(head.stretch)?;
                let bytes = if is_packed { self.unpacker.unpack(bytes, stretch.byte_len())? } else { bytes };
                self.ram.fill(stretch, bytes)?;
                self.carried.page_count += u64::from(stretch.pages.count_ones());
                Ok(Taken::Kept)
            }
            Kind::ZeroPages => {
                for stretch in pages::zero_pages(body)? {
                    self.ram.clear(self.own(stretch)?)?;
                    self.carried.zero_count += u64::from(stretch.pages.count_ones());
                }
                Ok(Taken::Kept)
            }
            Kind::EndOfRound => self.end(EndOfRound::decode(body)?),
            Kind::Unit if self.lane.index == 0 => {
                let (head, bytes) = PieceHead::decode(body)?;
                self.states.take(head, bytes)?;
                Ok(Taken::Kept)
            }
            Kind::Message if self.lane.index == 0 => message(body).map(Taken::Message),
            Kind::Alive if self.lane.index == 0 && body.is_empty() => Ok(Taken::Kept),
            Kind::Hello | Kind::Message | Kind::Unit | Kind::Alive => Err(LaneError::Unexpected(kind).into()),
        }
    }

    fn end(&mut self, end: EndOfRound) -> Result<Taken<'static>, TransferError> {
        let EndOfRound { round, page_count: claimed } = end;
        let expected = self.round;
        self.round = expected.saturating_add(1);
        if round != expected {
            return Err(TransferError::Round { found: round, expected });
        }
        let carried = std::mem::take(&mut self.carried);
        match carried.page_count + carried.zero_count {
            found if found == claimed => Ok(Taken::Round(round, carried)),
            found => Err(TransferError::Count { round, claimed, found }),
        }
    }

    /// The stretch, if it travels in this lane.
    fn own(&self, stretch: Stretch) -> Result<Stretch, TransferError> {
        if stretch.lane(self.lane.count) == self.lane.index {
            Ok(stretch)
        } else {
            Err(TransferError::OtherLane { word: stretch.word, lane: self.lane.index })
        }
    }
}

/// A message of the other coordinator, if it is not too long.
///
/// # Errors
/// If it is.
pub fn message(body: &[u8]) -> Result<&[u8], TransferError> {
    if body.len() <= MESSAGE_LEN_MAX { Ok(body) } else { Err(TransferError::MessageLong { len: body.len() }) }
}

#[cfg(test)]
mod tests;
