// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM mapped at the device's server while its stream is in bypass: for servers that are told so in the configuration.
//!
//! Out of bypass the server has windows without memory over all addresses, and its DMA comes as messages. In bypass
//! it is given RAM by fd, and windows without memory around it. The exchange out of bypass is complete before
//! the attachment is answered. While RAM is mapped nobody sees what the server writes: the dirty log's answers say that, so
//! that all of RAM is sent once, when the device has stopped; when RAM is taken back all of it is marked. A server that has had the fd can keep it, whatever it answers: to give it is to trust
//! it with the guest (`sandbox/THREAT_MODEL.md`).

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::protocol::control::Exactness;
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::DirtyLog;

use super::client::dma_windows::{DmaWindow, IOVA_SPACE_LEN};
use super::client::{Client, ClientError};

/// RAM to be given.
#[derive(Debug)]
pub struct Direct {
    file: Arc<File>,
    layout: RamLayout,
    log: Arc<DirtyLog>,
    /// Held for the length of an exchange with the server. Nobody else waits for it.
    exchange: Mutex<()>,
    /// For a look at any time.
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Messages,
    /// Or about to be, or just taken back: the server may have RAM.
    Mapped,
    /// The server does not take RAM: it is not asked again.
    Refused,
}

impl Direct {
    /// RAM in `file`, which is not given yet.
    pub fn new(file: Arc<File>, layout: RamLayout, log: Arc<DirtyLog>) -> Direct {
        Direct { file, layout, log, exchange: Mutex::default(), state: Mutex::new(State::Messages) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The stream is in bypass: gives RAM. A server that refuses it goes on with messages.
    ///
    /// # Errors
    /// The client's: the server is gone, or broke the protocol, or does not take back what it had.
    pub fn give(&self, client: &Client) -> Result<(), ClientError> {
        let _alone = lock(&self.exchange);
        if *self.state() != State::Messages {
            return Ok(());
        }
        // Before the server has the first of it: nothing that it writes is missed by the dirty log.
        *self.state() = State::Mapped;
        self.log.set_unmarked_writes(true);
        client.withdraw()?;
        match client.declare(&self.windows()) {
            Ok(()) => {}
            Err(error) if error.is_refusal() => {
                client.withdraw()?;
                client.declare(&[DmaWindow::EVERYWHERE])?;
                ipc::log::warn!("vfio: the server does not take guest RAM, its DMA stays messages: {error}");
                self.mark_all();
                *self.state() = State::Refused;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The stream leaves bypass: takes RAM back. When this returns the server has said that it has none.
    ///
    /// # Errors
    /// The client's. The server may have RAM still: the device is to be failed.
    pub fn take_back(&self, client: &Client) -> Result<(), ClientError> {
        let _alone = lock(&self.exchange);
        if *self.state() != State::Mapped {
            return Ok(());
        }
        // A server that does not give it back may write still: the state stays as it is.
        client.withdraw()?;
        self.mark_all();
        *self.state() = State::Messages;
        client.declare(&[DmaWindow::EVERYWHERE])
    }

    /// The server's windows were declared anew, without memory.
    pub fn withdrawn(&self) {
        let _alone = lock(&self.exchange);
        if *self.state() == State::Mapped {
            self.mark_all();
            *self.state() = State::Messages;
        }
    }

    /// What the dirty log is worth now.
    pub fn exactness(&self) -> Exactness {
        match *self.state() {
            State::Mapped => Exactness::Unseen,
            State::Messages | State::Refused => Exactness::Exact,
        }
    }

    /// The server has said that it has no RAM any more: what it may have written is marked.
    fn mark_all(&self) {
        self.log.mark_all();
        self.log.set_unmarked_writes(false);
    }

    /// What it is, for people.
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
    // One word or none: it is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
