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

use ipc::instance::InstanceId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::launcher_channel::FromCoordinator;
use crate::system::{EdgeKind, Make, ObjectId, System};

/// More than the launcher tries for.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// An answer: which device, and its server's connection, or why there is none.
pub type Reopened = (u8, io::Result<OwnedFd>);

/// The launcher.
#[derive(Debug)]
pub struct Launcher {
    words: mpsc::Sender<FromCoordinator>,
    reopened: mpsc::Receiver<Reopened>,
    /// The devices whose servers could not be reached at the last attempt, and why.
    unreachable: BTreeMap<InstanceId, String>,
}

impl Launcher {
    /// Asks by `words`, and hears by `reopened`. It could not reach the servers of some devices to begin with.
    pub const fn new(
        words: mpsc::Sender<FromCoordinator>,
        reopened: mpsc::Receiver<Reopened>,
        unreachable: BTreeMap<InstanceId, String>,
    ) -> Self {
        Self { words, reopened, unreachable }
    }

    /// Tells it something.
    pub async fn tell(&self, word: FromCoordinator) {
        // A launcher that does not listen is gone, and that is noticed elsewhere.
        let _ = self.words.send(word).await;
    }

    /// Why the server of the device `id` was not reached, if that was so.
    pub fn unreachable(&self, id: InstanceId) -> Option<String> {
        self.unreachable.get(&id).cloned()
    }

    /// A new connection to the server of device `index`.
    async fn reopen(&mut self, index: u8) -> io::Result<OwnedFd> {
        let deadline = Instant::now() + ANSWER_SPAN;
        self.tell(FromCoordinator::Reopen { index }).await;
        loop {
            let answer = timeout_at(deadline, self.reopened.recv()).await;
            let (answered, server) = answer.ok().flatten().ok_or(io::ErrorKind::TimedOut)?;
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
        system: &System,
        objects: &mut BTreeMap<ObjectId, OwnedFd>,
    ) -> io::Result<()> {
        let connections = system.edges_of(EdgeKind::VfioUser).flat_map(|edge| edge.objects());
        for (connection, _) in connections.filter(|(_, make)| *make == Make::Given) {
            let device = connection.owner;
            // Its server has to see the end of the old connection first.
            objects.remove(&connection);
            let server = match self.reopen(device.index).await {
                Ok(server) => {
                    self.unreachable.remove(&device);
                    server
                }
                // The device's process finds a connection that is closed already, and says that the device is lost.
                Err(error) => {
                    let why = format!("its server takes no new connection after the guest's reset: {error}");
                    self.unreachable.insert(device, why);
                    UnixStream::pair()?.0.into()
                }
            };
            objects.insert(connection, server);
        }
        Ok(())
    }
}
