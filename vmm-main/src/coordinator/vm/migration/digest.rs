// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SHA-256 of the states of all processes, and of what a guest boots of. To be called by a thread: a state may have
//! gigabytes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use ipc::instance::InstanceId;
use sha2::{Digest, Sha256};

use super::super::driver::refused;
use crate::migration::message::Message;
use crate::problem::Problem;

/// A process's state: how long, and where.
pub type State = (InstanceId, u64, OwnedFd);

/// What the destination is told of the states.
pub fn last(states: Vec<State>) -> Result<Message, Problem> {
    let digest = of(&states)?;
    let units = states.into_iter().map(|(instance, len, _)| (instance, len)).collect();
    Ok(Message::Last { units, digest })
}

/// Of all states, in this order.
pub fn of(states: &[State]) -> Result<[u8; 32], Problem> {
    let mut hash = Sha256::new();
    for (_, len, memory) in states {
        let added = memory.try_clone().map(File::from).and_then(|file| add(&mut hash, &file, *len));
        added.map_err(|error| refused("read a saved state", &error))?;
    }
    Ok(hash.finalize().into())
}

/// Of a file, whole.
pub fn of_file(file: &File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    add(&mut hash, file, file.metadata()?.len())?;
    Ok(hash.finalize().into())
}

/// Adds so many bytes of a file, from its start. A file may have another offset elsewhere.
fn add(hash: &mut Sha256, file: &File, len: u64) -> io::Result<()> {
    let mut chunk = vec![0; 256 << 10];
    let mut offset = 0;
    while offset < len {
        let wanted = usize::try_from(len - offset).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = chunk.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(chunk, offset)?;
        hash.update(&*chunk);
        offset += chunk.len() as u64;
    }
    Ok(())
}
