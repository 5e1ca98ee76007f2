// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the coordinator and its mover say to each other, besides what every process understands.
//!
//! A mover is started for one migration and ended after it. It is configured, takes its lanes, and is never loaded or
//! armed. A [`MoverRequest`] is answered at once, `Done` if it is queued; what comes of it is a [`MoverNotice`].
//! Rounds, states and messages leave in the order of their requests, and are seen at the other end in that order: who
//! hears a message has all pages and states that were requested before it, whichever lanes they came through.
//!
//! The mover decides nothing. Messages are opaque to it, sealed by one coordinator for the other; what it says of the
//! other host is believed as far as a lie costs the migration.

use serde::{Deserialize, Serialize};

use crate::addr::PAGE_LEN;
use crate::frame::BODY_LEN_MAX;
use crate::instance::InstanceId;
use crate::migration::frame::MigrationId;
use crate::protocol::Message;
use crate::protocol::ram::RamLayout;

/// The longest message between the coordinators, sealed: with what is around it, it fits into a frame of a channel.
pub const MESSAGE_LEN_MAX: usize = BODY_LEN_MAX as usize - 4096;

/// The most messages of the other host in one migration: it has less than ten to say. Each becomes a notice.
pub const MESSAGES_MAX: usize = 64;

/// The longest file of an identity.
pub const IDENTITY_LEN_MAX: u64 = 1 << 20;

/// The configuration. Sent once, in `Request::Configure`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoverConfig {
    /// Which end of the migration it is.
    pub side: Side,
    /// The guest's RAM: the source's is read, the destination's is fresh, and written.
    pub ram: RamLayout,
    /// How the other host is known.
    pub security: Security,
}

/// An end of a migration. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The host that the guest leaves.
    Source {
        /// Drawn for this migration.
        migration: MigrationId,
        /// Its connections: 1 to [`LANES_MAX`](crate::migration::LANES_MAX).
        lane_count: u8,
        /// How it sends the pages of RAM.
        packing: Packing,
    },
    /// The host that it comes to: what it takes part in is known when somebody has connected.
    Destination,
}

/// How pages are sent. Append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packing {
    /// As they are.
    #[default]
    Plain,
    /// As LZ4 blocks, where that makes them shorter.
    Lz4,
}

/// How the other host is known. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Not at all, and anybody on the way can read: a Unix socket, or what the user calls secure.
    Plain,
    /// TLS 1.3, both ends with a certificate of one authority.
    Tls {
        /// The name in the other host's certificate.
        peer: String,
    },
}

/// A file of [`Security::Tls`], in PEM. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IdentityFile {
    /// The certificate of the authority that has signed both hosts'.
    Authority,
    /// This host's certificate, and those between it and the authority.
    Chain,
    /// This host's private key.
    Key,
}

impl IdentityFile {
    /// All of an identity.
    pub const ALL: [Self; 3] = [Self::Authority, Self::Chain, Self::Key];
}

/// A request of the coordinator to its configured mover. Reply `Done`, at once, or `Failed`. Not idempotent. Death: the
/// migration fails, or is ambiguous, as the coordinator's state machine says. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoverRequest {
    /// Takes a file of [`Security::Tls`]; each once, before any lane. The last one is refused if the three are of no
    /// use together. One descriptor: a memory object that is sealed against writes, at most [`IDENTITY_LEN_MAX`] bytes.
    TakeIdentity(IdentityFile),
    /// Takes a connection to the other host. The source says hello in each when it has all of its `lane_count`; the
    /// destination takes them in any order, also of others: the first migration that is complete is the one, and what
    /// else connects is closed. Notice [`MoverNotice::Connected`]. One descriptor: a connected stream socket.
    TakeLane {
        /// Which lane it is, at the source. For the log at the destination: what says hello there says which lane it
        /// is.
        index: u8,
    },
    /// Source: takes what is in the owed map and sends those pages, through all lanes. Notice
    /// [`MoverNotice::RoundSent`].
    SendRound {
        /// Counts up from 0.
        round: u32,
    },
    /// Source: sends the state of a process. One descriptor: the memory object that it is in, from the start, sealed.
    SendState {
        /// Whose.
        instance: InstanceId,
        /// Its length in bytes.
        len: u64,
    },
    /// Destination: where the state of a process is to be written, before it comes; a state of a process without such
    /// an object ends the migration. One descriptor: an empty memory object without seals. It is not mapped, and once a
    /// message is heard that was sent after the state, nothing is written there any more.
    TakeState {
        /// Whose.
        instance: InstanceId,
    },
    /// Says this to the other coordinator. At most [`MESSAGE_LEN_MAX`] bytes.
    Say(Vec<u8>),
    /// Ends the connections. Rounds and states that are not sent yet are given up; messages that are queued are sent
    /// before. Notice [`MoverNotice::Closed`], within [`CLOSING`](crate::protocol::budget::mover::CLOSING).
    Close,
}

/// What a mover has to say. No descriptors. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoverNotice {
    /// All lanes are there, and both ends have said hello in each. Once.
    Connected {
        /// As the source has drawn it.
        migration: MigrationId,
        /// How many lanes.
        lane_count: u8,
    },
    /// The round is sent, as far as this host can tell: one for each `SendRound`.
    RoundSent(RoundReport),
    /// The other coordinator says this. At most [`MESSAGES_MAX`] in a migration.
    Heard(Vec<u8>),
    /// The connection to the other host is lost, for this reason. Nothing but `Closed` follows.
    LinkLost(String),
    /// The connections are closed, as was requested. The last.
    Closed,
}

/// How a round went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Which one.
    pub round: u32,
    /// Pages that were sent with their bytes.
    pub page_count: u64,
    /// Pages that were told to be zero.
    pub zero_count: u64,
    /// Bytes that were sent, as they left the mover.
    pub sent_len: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

impl RoundReport {
    /// Bytes that it brought over: those of the pages that were sent with theirs, packed or not; or what travelled,
    /// where that is more.
    #[must_use]
    pub fn carried_len(&self) -> u64 {
        self.page_count.saturating_mul(PAGE_LEN).max(self.sent_len)
    }
}

impl Message for MoverRequest {
    fn fd_count(&self) -> u8 {
        match self {
            Self::TakeIdentity(_)
            | Self::TakeLane { .. }
            | Self::SendState { .. }
            | Self::TakeState { .. } => 1,
            Self::SendRound { .. } | Self::Say(_) | Self::Close => 0,
        }
    }
}
