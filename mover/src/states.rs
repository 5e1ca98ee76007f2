// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! States of processes, between memory objects of the coordinator and lane 0, a piece at a time.
//!
//! What a state means is nothing to the mover: it holds one piece, and no length that it was told is believed before so
//! much has come. The coordinator says which states may come, by giving an object for each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use ipc::instance::InstanceId;
use ipc::migration::frame::Kind;
use ipc::migration::unit::{PIECE_LEN_MAX, PieceHead};
use ipc::protocol::control::SAVED_LEN_MAX;
use thiserror::Error;
use tokio::io::AsyncWrite;

use crate::lane::Sender;
use crate::transfer::TransferError;

/// The states that may come, and how far each has.
#[derive(Debug, Default)]
pub struct States {
    open: Mutex<BTreeMap<InstanceId, Growing>>,
}

#[derive(Debug)]
struct Growing {
    memory: File,
    len: u64,
}

/// A state that is to be sent.
#[derive(Debug)]
pub struct Outgoing {
    instance: InstanceId,
    memory: File,
    len: u64,
}

/// Why a state is not taken, or not sent.
#[derive(Debug, Error)]
pub enum StateError {
    /// Nobody waits for it.
    #[error("the other host sends a state of {0}, which is not expected, or has come already")]
    NotExpected(InstanceId),
    /// A piece is missing, or comes twice.
    #[error("the state of {instance}: a piece from {found:#x} on, where {expected:#x} have come")]
    Gap {
        /// Whose.
        instance: InstanceId,
        /// Where the piece begins.
        found: u64,
        /// What has come.
        expected: u64,
    },
    /// It is longer than any.
    #[error("the state of {0} is longer than {SAVED_LEN_MAX:#x} bytes")]
    Long(InstanceId),
    /// The host cannot hold it, or does not give it.
    #[error("the state of {instance}: {why}")]
    Io {
        /// Whose.
        instance: InstanceId,
        /// What its memory object answers.
        why: io::Error,
    },
}

impl States {
    /// The state of this process may come: into `memory`. False if one is expected already.
    pub fn expect(&self, instance: InstanceId, memory: OwnedFd) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.entry(instance) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Growing { memory: memory.into(), len: 0 });
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    /// Takes a piece; with the last one the memory object is closed.
    ///
    /// # Errors
    /// If no such piece is due, or the host cannot hold it.
    pub fn take(&self, head: PieceHead, bytes: &[u8]) -> Result<(), StateError> {
        let PieceHead { instance, offset, is_last } = head;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let state = open.get_mut(&instance).ok_or(StateError::NotExpected(instance))?;
        if offset != state.len {
            return Err(StateError::Gap { instance, found: offset, expected: state.len });
        }
        let len = offset.saturating_add(bytes.len() as u64);
        if len > SAVED_LEN_MAX {
            return Err(StateError::Long(instance));
        }
        state.memory.write_all_at(bytes, offset).map_err(|why| StateError::Io { instance, why })?;
        state.len = len;
        if is_last {
            open.remove(&instance);
        }
        Ok(())
    }
}

impl Outgoing {
    /// The first `len` bytes of `memory`.
    ///
    /// # Errors
    /// If it has not as many, or so many that no state has.
    pub fn new(instance: InstanceId, memory: OwnedFd, len: u64) -> Result<Self, StateError> {
        if len > SAVED_LEN_MAX {
            return Err(StateError::Long(instance));
        }
        let found = rustix::fs::fstat(&memory);
        let found = found.map_err(|errno| StateError::Io { instance, why: errno.into() })?.st_size;
        if u64::try_from(found).unwrap_or(0) < len {
            return Err(StateError::Io { instance, why: io::ErrorKind::UnexpectedEof.into() });
        }
        Ok(Self { instance, memory: memory.into(), len })
    }

    /// Sends it, until `is_given_up`.
    ///
    /// # Errors
    /// The lane's, and those of the memory object.
    pub async fn send<W: AsyncWrite + Unpin>(
        &self,
        to: &mut Sender<W>,
        is_given_up: impl Fn() -> bool,
    ) -> Result<(), TransferError> {
        let instance = self.instance;
        let mut bytes = vec![0; PIECE_LEN_MAX];
        let mut offset = 0;
        loop {
            let len = usize::try_from(self.len - offset).unwrap_or(usize::MAX).min(PIECE_LEN_MAX);
            let piece = bytes.get_mut(..len).unwrap_or_default();
            let read = self.memory.read_exact_at(piece, offset);
            read.map_err(|why| StateError::Io { instance, why })?;
            let end = offset + len as u64;
            let head = PieceHead { instance, offset, is_last: end == self.len };
            if is_given_up() {
                return Ok(());
            }
            to.send(Kind::Unit, |body| {
                body.extend_from_slice(&head.to_bytes());
                body.extend_from_slice(piece);
            })
            .await?;
            if head.is_last {
                return Ok(());
            }
            offset = end;
        }
    }
}

#[cfg(test)]
mod tests;
