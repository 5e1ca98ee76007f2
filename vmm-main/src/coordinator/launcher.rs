// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests to the launcher for new connections to vfio-user servers, after a guest reset.
//!
//! The coordinator cannot open paths. A foreign server ties the state of its device to the connection, so that after a
//! guest reset each is connected to anew, and the guest finds its devices reset. The launcher knows the paths and is
//! more trusted than the coordinator; late answers are dropped.

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

/// Longer than the launcher tries to connect.
const ANSWER_SPAN: Duration = Duration::from_secs(10);

/// An answer: the device's index, and the connection to its server, or why there is none.
pub type Reopened = (u8, io::Result<OwnedFd>);

/// What the VM's task asks of the launcher: messages, and connections made anew.
#[derive(Debug)]
pub struct Launcher {
    to_launcher: mpsc::Sender<FromCoordinator>,
    reopened: mpsc::Receiver<Reopened>,
    /// The devices whose servers could not be reached at the last attempt, and why.
    unreachable: BTreeMap<InstanceId, String>,
}

impl Launcher {
    /// A launcher that receives messages by `to_launcher` and answers by `reopened`, with the servers that it could not
    /// reach at the start.
    pub const fn new(
        to_launcher: mpsc::Sender<FromCoordinator>,
        reopened: mpsc::Receiver<Reopened>,
        unreachable: BTreeMap<InstanceId, String>,
    ) -> Self {
        Self { to_launcher, reopened, unreachable }
    }

    /// Sends it a message.
    pub async fn tell(&self, message: FromCoordinator) {
        // Fails only if the launcher is gone, which is noticed elsewhere.
        let _ = self.to_launcher.send(message).await;
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

    /// Connects to all foreign servers anew. If one cannot be reached, its device is lost.
    ///
    /// # Errors
    /// If the host has no sockets left.
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
                // The device's process is given a closed connection, and reports its device lost.
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
