// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The channel between launcher and coordinator: a seqpacket pair, one small message at a time.
//!
//! The launcher sends control connections that it has accepted and checked (one descriptor each), and the request to
//! stop. The coordinator reports that the guest runs, requests reconnections to devices' servers, connections to
//! another host, and programs, and reports the end with its reason. Either end's death is end of file for the other: a
//! VM never outlives its launcher, and a launcher never waits for a dead coordinator.
//!
//! The coordinator is sealed and may have been reached by a guest: the launcher bounds and validates its messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipc::protocol::mover::IdentityFile;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::launcher::other_host::Reach;
use crate::lifecycle::Why;
use crate::readiness;

/// Longest message: an `Ended` with the last lines of a log.
pub const MESSAGE_LEN_MAX: usize = 32 * 1024;

/// Messages of the launcher.
#[derive(Debug)]
pub enum FromLauncher {
    /// A client's connection; its credentials were checked.
    Connection(OwnedFd),
    /// Requests an orderly end.
    Stop,
    /// The answer to [`FromCoordinator::Reopen`]: a new connection, or why there is none.
    Device {
        /// Index of the device.
        index: u8,
        /// The connection to its server.
        server: io::Result<OwnedFd>,
    },
    /// A connection to another host.
    Lane(Lane),
    /// The answer to [`FromCoordinator::OpenProgram`]: a program, or why there is none.
    Program {
        /// Which request it answers.
        number: u8,
        /// A memory file that cannot be changed any more.
        program: io::Result<OwnedFd>,
    },
    /// A file by which another host knows this one, where a guest is waited for; before every connection.
    Identity(IdentityFile, OwnedFd),
    /// The answer to [`FromCoordinator::Ended`]: the VM's name is free.
    Released,
}

/// A connection to another host, for a migration, or the reason why there is none, after which none comes.
#[derive(Debug)]
pub struct Lane {
    /// Which [`FromCoordinator::Dial`] it answers; 0 where a guest is waited for.
    pub dial: u8,
    /// Which of its connections it is, as it was made or accepted.
    pub index: u8,
    /// The connection, non-blocking.
    pub socket: io::Result<OwnedFd>,
}

/// Messages of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromCoordinator {
    /// The guest runs.
    Running,
    /// The guest was reset, and the old connection to this device's server is closed: requests a new one. The path is
    /// the launcher's own, from the configuration.
    Reopen {
        /// Index of the device.
        index: u8,
    },
    /// Requests connections to a host that receives a guest, instead of those that were requested before: who has
    /// given that migration up may not wait until a host is found not to answer.
    Dial {
        /// The number of this request.
        number: u8,
        /// Its address: `unix:PATH` or `HOST:PORT`.
        to: String,
        /// How many.
        lane_count: u8,
        /// How far they may go, for what is spoken on them.
        reach: Reach,
    },
    /// Requests a copy of the program at this path, for a process that is started anew.
    OpenProgram {
        /// The number of this request.
        number: u8,
        /// Where it is: an absolute path.
        path: String,
    },
    /// A guest has come from another host, and nobody will ask any more where it is: no connection is to be accepted.
    Settled,
    /// The VM has ended; the last message. Its processes are gone and its disks unlocked: the launcher now frees the
    /// name.
    Ended(Why),
}

const CONNECTION: u8 = b'C';
const STOP: u8 = b'S';
const DEVICE: u8 = b'D';
const NO_DEVICE: u8 = b'N';
const LANE: u8 = b'L';
const NO_LANE: u8 = b'M';
const PROGRAM: u8 = b'P';
const NO_PROGRAM: u8 = b'Q';
const RELEASED: u8 = b'R';
const IDENTITY: u8 = b'I';

/// Bytes of the longest message of the launcher: why a connection does not come about.
const FROM_LAUNCHER_LEN_MAX: usize = 3 + REASON_LEN_MAX;
const REASON_LEN_MAX: usize = 254;

/// A new pair: the launcher's end, and the one for the coordinator.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The launcher's end. Must be made inside a runtime.
#[derive(Debug)]
pub struct LauncherEnd(AsyncFd<OwnedFd>);

impl LauncherEnd {
    /// Takes one half of [`pair`].
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        readiness::watch(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Passes a client's connection on. Not cancel-safe: it may or may not have been sent.
    pub async fn connection(&self, client: BorrowedFd<'_>) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &[CONNECTION], &[client])).await
    }

    /// Passes on a new connection to a device's server, or the error. As [`Self::connection`].
    pub async fn device(&self, index: u8, server: &io::Result<OwnedFd>) -> io::Result<()> {
        let (message, fd) = match server {
            Ok(server) => (vec![DEVICE, index], Some(server.as_fd())),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0).to_le_bytes();
                ([&[NO_DEVICE, index][..], &errno].concat(), None)
            }
        };
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &message, fd.as_slice())).await
    }

    /// Passes on a connection to another host, or why there is none. As [`Self::connection`].
    pub async fn lane(&self, Lane { dial, index, socket }: &Lane) -> io::Result<()> {
        self.outcome(&[LANE, *dial, *index], &[NO_LANE, *dial, *index], socket).await
    }

    /// Passes on a program, or why there is none. As [`Self::connection`].
    pub async fn program(&self, number: u8, program: &io::Result<OwnedFd>) -> io::Result<()> {
        self.outcome(&[PROGRAM, number], &[NO_PROGRAM, number], program).await
    }

    /// Sends a descriptor with the one message, or the reason why there is none behind the other.
    async fn outcome(&self, with: &[u8], without: &[u8], outcome: &io::Result<OwnedFd>) -> io::Result<()> {
        let (message, fd) = match outcome {
            Ok(fd) => (with.to_vec(), Some(fd.as_fd())),
            Err(error) => (refusal(without, error), None),
        };
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &message, fd.as_slice())).await
    }

    /// Passes on a file by which another host knows this one. As [`Self::connection`].
    pub async fn identity(&self, file: IdentityFile, memory: BorrowedFd<'_>) -> io::Result<()> {
        let number = IdentityFile::ALL.iter().position(|other| *other == file);
        let message = [IDENTITY, number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)];
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &message, &[memory])).await
    }

    /// Reports that the VM's name is free. As [`Self::connection`].
    pub async fn released(&self) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &[RELEASED], &[])).await
    }

    /// Requests an orderly end. Cancel-safe, because it may be repeated.
    pub async fn stop(&self) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &[STOP], &[])).await
    }

    /// The next message; `None` when the coordinator is gone. Cancel-safe.
    pub async fn recv(&self) -> io::Result<Option<FromCoordinator>> {
        let mut buffer = vec![0; MESSAGE_LEN_MAX];
        let len =
            self.0.async_io(Interest::READABLE, |socket| recv(socket.as_fd(), &mut buffer, None)).await?;
        match buffer.get(..len) {
            None | Some([]) => Ok(None),
            Some(bytes) => {
                serde_json::from_slice(bytes).map(Some).map_err(|_| garbled("a report of the coordinator"))
            }
        }
    }
}

/// The coordinator's end. Must be made inside a runtime.
#[derive(Debug)]
pub struct CoordinatorEnd(AsyncFd<OwnedFd>);

impl CoordinatorEnd {
    /// Takes the other half of [`pair`].
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        readiness::watch(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// The next message; `None` when the launcher is gone. Cancel-safe.
    pub async fn recv(&self) -> io::Result<Option<FromLauncher>> {
        // A byte more than the longest.
        let mut buffer = [0; FROM_LAUNCHER_LEN_MAX + 1];
        let mut client = None;
        let len = self
            .0
            .async_io(Interest::READABLE, |socket| recv(socket.as_fd(), &mut buffer, Some(&mut client)))
            .await?;
        match (buffer.get(..len), client) {
            (None | Some([]), _) => Ok(None),
            (Some(&[CONNECTION]), Some(client)) => Ok(Some(FromLauncher::Connection(client))),
            (Some(&[STOP]), None) => Ok(Some(FromLauncher::Stop)),
            (Some(&[DEVICE, index]), Some(server)) => {
                Ok(Some(FromLauncher::Device { index, server: Ok(server) }))
            }
            (Some(&[NO_DEVICE, index, ref errno @ ..]), None) => {
                let errno = errno.try_into().map_err(|_| garbled("a message of the launcher"))?;
                let server = Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno)));
                Ok(Some(FromLauncher::Device { index, server }))
            }
            (Some(&[LANE, dial, index]), Some(socket)) => {
                Ok(Some(FromLauncher::Lane(Lane { dial, index, socket: Ok(socket) })))
            }
            (Some(&[NO_LANE, dial, index, ref reason @ ..]), None) => {
                let socket = Err(io::Error::other(String::from_utf8_lossy(reason)));
                Ok(Some(FromLauncher::Lane(Lane { dial, index, socket })))
            }
            (Some(&[PROGRAM, number]), Some(program)) => {
                Ok(Some(FromLauncher::Program { number, program: Ok(program) }))
            }
            (Some(&[NO_PROGRAM, number, ref reason @ ..]), None) => {
                let program = Err(io::Error::other(String::from_utf8_lossy(reason)));
                Ok(Some(FromLauncher::Program { number, program }))
            }
            (Some(&[IDENTITY, number]), Some(memory)) => match IdentityFile::ALL.get(usize::from(number)) {
                Some(file) => Ok(Some(FromLauncher::Identity(*file, memory))),
                None => Err(garbled("a message of the launcher")),
            },
            (Some(&[RELEASED]), None) => Ok(Some(FromLauncher::Released)),
            (Some(_), _) => Err(garbled("a message of the launcher")),
        }
    }

    /// Sends a message; one that is too long is cut down to its reason.
    pub async fn send(&self, message: &FromCoordinator) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_LEN_MAX {
            let shorter = match message {
                FromCoordinator::Ended(Why::Failed { problem, .. }) => {
                    FromCoordinator::Ended(Why::Failed { problem: problem.clone(), last_lines: vec![] })
                }
                other => other.clone(),
            };
            bytes = serde_json::to_vec(&shorter)?;
        }
        self.0.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), &bytes, &[])).await
    }
}

/// A message with a reason, which is cut down to what one holds.
fn refusal(head: &[u8], error: &io::Error) -> Vec<u8> {
    let reason = error.to_string().into_bytes();
    [head, reason.get(..REASON_LEN_MAX).unwrap_or(&reason)].concat()
}

fn garbled(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be understood"))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "one message carries one descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; a descriptor that comes along where none is wanted is closed.
fn recv(socket: BorrowedFd<'_>, bytes: &mut [u8], fd: Option<&mut Option<OwnedFd>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut receive =
        || recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    // ECONNRESET is reported once if the peer closed its end with messages unread, before its last messages.
    let received = match receive() {
        Err(Errno::CONNRESET) => receive(),
        other => other,
    }?;
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(garbled("a message longer than any"));
    }
    if let Some(fd) = fd {
        *fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests;
