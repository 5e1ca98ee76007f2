// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM mapped at the device's server while its stream is in bypass: for servers with `direct-dma` in the
//! configuration.
//!
//! Out of bypass the server has windows without memory over all addresses, and its DMA comes as messages. In bypass
//! it gets RAM by fd, and windows without memory around it. When the stream leaves bypass, the windows are exchanged
//! before the attachment is answered. While RAM is mapped the server's writes are not logged: the dirty log's answers
//! say that, so that all of RAM is sent once, after the device has stopped; when RAM is taken back all of it is
//! marked. A server may keep the fd, whatever it answers: passing it means trusting the server with the guest
//! (`sandbox/THREAT_MODEL.md`).

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::protocol::control::Exactness;
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::DirtyLog;

use super::client::dma_windows::{DmaWindow, IOVA_SPACE_LEN};
use super::client::{Client, ClientError};

/// Guest RAM for a server.
#[derive(Debug)]
pub struct Direct {
    file: Arc<File>,
    layout: RamLayout,
    log: Arc<DirtyLog>,
    /// Held while windows are exchanged with the server; only this thread takes it.
    exchange: Mutex<()>,
    /// A copy that can be read at any time.
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Messages,
    /// RAM is mapped, or may be: set before the exchange begins and cleared after it ends.
    Mapped,
    /// The server refused RAM: it is not offered again.
    Refused,
}

impl Direct {
    /// RAM in `file`, not mapped at the server yet.
    pub fn new(file: Arc<File>, layout: RamLayout, log: Arc<DirtyLog>) -> Direct {
        Direct { file, layout, log, exchange: Mutex::default(), state: Mutex::new(State::Messages) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The stream entered bypass: maps RAM at the server. If it refuses, its DMA goes on by messages.
    ///
    /// # Errors
    /// If the server is gone, breaks the protocol, or does not accept its previous windows again.
    pub fn give(&self, client: &Client) -> Result<(), ClientError> {
        let _alone = lock(&self.exchange);
        if *self.state() != State::Messages {
            return Ok(());
        }
        // Set before the server has any of it, so that the dirty log misses no write.
        *self.state() = State::Mapped;
        self.log.set_unmarked_writes(true);
        client.withdraw()?;
        match client.declare(&self.windows()) {
            Ok(()) => {}
            Err(error) if error.is_refusal() => {
                client.withdraw()?;
                client.declare(&[DmaWindow::EVERYWHERE])?;
                ipc::log::warn!(
                    "vfio: the server refused to map guest RAM, its DMA goes on by messages: {error}"
                );
                self.mark_all();
                *self.state() = State::Refused;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The stream leaves bypass: takes RAM back. When this returns the server has confirmed that it has unmapped it.
    ///
    /// # Errors
    /// If the server fails. It may still have RAM: the device is to be failed.
    pub fn take_back(&self, client: &Client) -> Result<(), ClientError> {
        let _alone = lock(&self.exchange);
        if *self.state() != State::Mapped {
            return Ok(());
        }
        // A server that does not unmap it may still write: the state stays as it is.
        client.withdraw()?;
        self.mark_all();
        *self.state() = State::Messages;
        client.declare(&[DmaWindow::EVERYWHERE])
    }

    /// The server's windows were declared again, without memory.
    pub fn withdrawn(&self) {
        let _alone = lock(&self.exchange);
        if *self.state() == State::Mapped {
            self.mark_all();
            *self.state() = State::Messages;
        }
    }

    /// How exact the dirty log is now.
    pub fn exactness(&self) -> Exactness {
        match *self.state() {
            State::Mapped => Exactness::Unseen,
            State::Messages | State::Refused => Exactness::Exact,
        }
    }

    /// The server has confirmed that it has no RAM any more: marks all that it may have written.
    fn mark_all(&self) {
        self.log.mark_all();
        self.log.set_unmarked_writes(false);
    }

    /// The state, for `inspect`.
    pub fn as_str(&self) -> &'static str {
        match *self.state() {
            State::Messages => "not now",
            State::Mapped => "guest RAM is mapped at the server",
            State::Refused => "refused by the server",
        }
    }

    /// All addresses in order, with memory where there is RAM.
    fn windows(&self) -> Vec<DmaWindow<'_>> {
        let mut ram: Vec<_> = self.layout.regions().iter().collect();
        ram.sort_unstable_by_key(|region| region.gpa);
        let mut windows = Vec::new();
        let mut next = 0;
        for region in ram {
            let (start, end) = (region.gpa.0, region.gpa.0.saturating_add(region.len));
            if start > next {
                windows.push(DmaWindow { start: next, len: start - next, memory: None });
            }
            let memory = Some((self.file.as_fd(), region.file_offset));
            windows.push(DmaWindow { start, len: region.len, memory });
            next = end;
        }
        if next < IOVA_SPACE_LEN {
            windows.push(DmaWindow { start: next, len: IOVA_SPACE_LEN - next, memory: None });
        }
        windows
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A single word: a poisoned lock is harmless.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
