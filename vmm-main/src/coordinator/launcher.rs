// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The launcher as the VM's task asks it: for new connections to the servers of devices, after a reset.
//!
//! The coordinator can open no path. A server of somebody else serves one client's life: a guest that was reset meets a
//! device that was, by a connection of its own. The launcher knows the path and is trusted more than the
//! coordinator; what it answers late is thrown away.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::lifeline::Up;
use crate::topology::{self, DeviceKind, Object};

/// More than the launcher tries for.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// An answer: which device, and its server's connection if there is one.
pub type Reopened = (u8, Option<OwnedFd>);

/// The launcher.
#[derive(Debug)]
pub struct Launcher {
    words: mpsc::Sender<Up>,
    reopened: mpsc::Receiver<Reopened>,
}

impl Launcher {
    /// Asks by `words`, and hears by `reopened`.
    pub const fn new(words: mpsc::Sender<Up>, reopened: mpsc::Receiver<Reopened>) -> Self {
        Self { words, reopened }
    }

    /// Tells it something.
    pub async fn tell(&self, word: Up) {
        // A launcher that does not listen is gone, and that is noticed elsewhere.
        let _ = self.words.send(word).await;
    }

    /// A new connection to the server of device `index`; `None` if there is none in time.
    pub async fn reopen(&mut self, index: u8) -> Option<OwnedFd> {
        let deadline = Instant::now() + ANSWER_SPAN;
        self.tell(Up::Reopen { index }).await;
        loop {
            let (answered, server) = timeout_at(deadline, self.reopened.recv()).await.ok().flatten()?;
            if answered == index {
                return server;
            }
        }
    }

    /// Connects to the servers of somebody else anew. One that cannot be reached costs its device only.
    ///
    /// # Errors
    /// If the host has no socket left.
    pub async fn reopen_all(
        &mut self,
        kinds: &[DeviceKind],
        objects: &mut BTreeMap<Object, OwnedFd>,
    ) -> io::Result<()> {
        for ((index, name), kind) in (0..).zip(topology::VFIO).zip(kinds) {
            if *kind != DeviceKind::VfioUser {
                continue;
            }
            // Its server has to see the end of the old connection first.
            objects.remove(&Object::DeviceSource(name));
            let server = match self.reopen(index).await {
                Some(server) => server,
                None => {
                    tracing::error!(
                        "the server of {name} does not take a new connection: its device has failed"
                    );
                    // One that is closed already.
                    UnixStream::pair()?.0.into()
                }
            };
            objects.insert(Object::DeviceSource(name), server);
        }
        Ok(())
    }
}
