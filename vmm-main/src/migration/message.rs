// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the two coordinators of a migration say to each other.
//!
//! Messages travel through both movers, which own guest RAM and decide nothing: each is sealed by a [`Session`] with a
//! key that comes of the secret both coordinators hold, of the direction and of the migration's number, and counts up,
//! so that a mover can neither make, change, repeat nor reorder one; it can only lose it, and the migration with it.
//!
//! The number is the source's choice. So that a mover cannot play an earlier migration to a destination once more, the
//! first message of the destination carries a nonce, drawn by it, and the keys of all that follow in both directions
//! come of that too. An `Abort` that crosses the first answer is therefore not authentic; the migration is over then as
//! well.

use hmac::{Hmac, KeyInit, Mac};
use ipc::instance::InstanceId;
use ipc::migration::frame::MigrationId;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

/// One message. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Source: what is to move, for the destination to compare with itself. The first.
    Offer(Vec<u8>),
    /// Destination: it can take the guest, and has prepared for it.
    Accept,
    /// Destination: it cannot, and why; a sentence for each difference.
    Refuse(Vec<String>),
    /// Source: the guest is paused and everything has been sent.
    Last {
        /// How many bytes of state each process has.
        units: Vec<(InstanceId, u64)>,
        /// SHA-256 of all of it, in this order.
        digest: [u8; 32],
    },
    /// Destination: everything that can fail is done.
    Ready,
    /// Destination: it does not take the guest, for this reason.
    Failed(String),
    /// Source: it is given up, for this reason.
    Abort(String),
    /// Source: the guest is the destination's from here on.
    Commit,
    /// Destination: it runs.
    Running,
    /// Source: that is known here, and will not be asked for.
    Known,
}

/// Who writes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host that the guest leaves.
    Source,
    /// The host that it moves to.
    Destination,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// It was not written by a coordinator with the same secret, or is not the next one.
    #[error("a message of the other host is not authentic: do both hosts have the same --secret-file?")]
    NotAuthentic,
    /// It is authentic and no message of this release.
    #[error("a message of the other host is not understood: migrate with the same release on both hosts")]
    Malformed,
}

/// Makes a key of the destination's alone, for one migration.
pub type Nonce = [u8; NONCE_LEN];

/// The length of a nonce.
const NONCE_LEN: usize = 16;
/// The length of the code before a sealed message.
const CODE_LEN: usize = 32;

/// One end of a migration's messages.
#[derive(Debug)]
pub struct Session {
    ours: Sealer,
    theirs: Sealer,
    fresh: Freshness,
}

/// What is known of the nonce.
#[derive(Debug)]
enum Freshness {
    /// Destination: it goes with the first message.
    Drawn(Nonce),
    /// Source: it comes with the first message.
    Awaited,
    /// It is in the keys.
    Bound,
}

/// The key of one direction, and how many messages there were.
#[derive(Debug)]
struct Sealer {
    mac: Hmac<Sha256>,
    sequence: u64,
}

impl Sealer {
    /// For the messages that `side` writes.
    fn new(secret: &[u8], migration: MigrationId, side: Side) -> Option<Self> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(b"bulkhead migration 1");
        mac.update(&migration.0);
        mac.update(match side {
            Side::Source => b"s",
            Side::Destination => b"d",
        });
        Some(Self { mac, sequence: 0 })
    }

    /// The code of the next message.
    fn next(&mut self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(&self.sequence.to_le_bytes());
        mac.update(body);
        self.sequence = self.sequence.saturating_add(1);
        mac
    }
}

impl Session {
    /// The source's end. `None` if no key can be made of the secret: HMAC takes any.
    pub fn source(secret: &[u8], migration: MigrationId) -> Option<Self> {
        let ours = Sealer::new(secret, migration, Side::Source)?;
        let theirs = Sealer::new(secret, migration, Side::Destination)?;
        Some(Self { ours, theirs, fresh: Freshness::Awaited })
    }

    /// The destination's end, with a nonce that was just drawn. `None` as for the source's.
    pub fn destination(secret: &[u8], migration: MigrationId, nonce: Nonce) -> Option<Self> {
        let ours = Sealer::new(secret, migration, Side::Destination)?;
        let theirs = Sealer::new(secret, migration, Side::Source)?;
        Some(Self { ours, theirs, fresh: Freshness::Drawn(nonce) })
    }

    /// The nonce is known at both ends.
    fn bind(&mut self, nonce: &Nonce) {
        self.ours.mac.update(nonce);
        self.theirs.mac.update(nonce);
        self.fresh = Freshness::Bound;
    }

    /// The message as it travels.
    ///
    /// # Errors
    /// If it does not encode.
    pub fn seal(&mut self, message: &Message) -> Result<Vec<u8>, postcard::Error> {
        let message = postcard::to_stdvec(message)?;
        let nonce = match self.fresh {
            Freshness::Drawn(nonce) => Some(nonce),
            Freshness::Awaited | Freshness::Bound => None,
        };
        let body = [nonce.as_ref().map_or(&[][..], |nonce| nonce), &message].concat();
        let mut sealed = self.ours.next(&body).finalize().into_bytes().to_vec();
        sealed.extend_from_slice(&body);
        if let Some(nonce) = nonce {
            self.bind(&nonce);
        }
        Ok(sealed)
    }

    /// The message that travelled, if it is the next one of the other side.
    ///
    /// # Errors
    /// If it is not, or does not decode.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Message, MessageError> {
        let (code, body) = sealed.split_at_checked(CODE_LEN).ok_or(MessageError::NotAuthentic)?;
        self.theirs.next(body).verify_slice(code).map_err(|_| MessageError::NotAuthentic)?;
        let message = match self.fresh {
            Freshness::Awaited => {
                let (nonce, message) = body.split_first_chunk().ok_or(MessageError::Malformed)?;
                self.bind(nonce);
                message
            }
            Freshness::Drawn(_) | Freshness::Bound => body,
        };
        match postcard::take_from_bytes(message) {
            Ok((message, [])) => Ok(message),
            _ => Err(MessageError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests;
