// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process around the device: vfio-user server, DMA windows, interrupts, worker threads.
//!
//! Threads, all blocking: one serves the connection, [`WORKERS`] execute commands. They meet in the engine, which is
//! never held while anything is waited for. One client at a time; when it goes, whatever it left is dropped,
//! the device is reset, and the next one finds it as new.
//!
//! All of these threads work for the one client, which may hold them up: its eventfds are shared with it, and a signal
//! waits while a counter is full. Where clients follow each other, the thread that accepts them does nothing else, and
//! sees them out ([`see_out`]).

pub mod client_memory;
pub mod dirty;
pub mod image;
pub mod launch;
pub mod log;
pub mod managed;
pub mod objects;
pub mod server;
pub mod vectors;
pub mod windows;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ipc::vfio_user::connection::{Connection, ConnectionError};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use sandbox::Locked;
use thiserror::Error;

use crate::device::{DRAIN_DEADLINE, Device, DeviceError};
use log::CLIENTS;
use server::Session;
use vectors::Vectors;

/// Threads that execute commands: as many as a guest's usual queue depth, so that a disk is asked for all of it at once.
/// They sleep while the page cache answers; each costs a stack and no more.
pub const WORKERS: usize = 32;

/// How long a session may take to end after its client has gone: what is in flight may take [`DRAIN_DEADLINE`], a reset in the
/// middle of it as long again; all else is done in no time.
const END_DEADLINE: Duration = Duration::from_secs(2 * DRAIN_DEADLINE.as_secs() + 5);

/// How often a session that does not end is helped to.
const DRAIN_PAUSE: Duration = Duration::from_millis(20);

/// Where clients come from.
#[derive(Debug)]
pub enum Socket {
    /// A listening socket: one client after the other, for ever.
    Listening(OwnedFd),
    /// A connected socket: this client, then the end.
    Connected(OwnedFd),
}

/// Why a process that serves cannot go on.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// No thread.
    #[error("a worker thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// No client.
    #[error("accept failed: {0}")]
    Accept(Errno),
    /// No second descriptor of the connection.
    #[error("a client's connection cannot be watched: {0}")]
    Watch(std::io::Error),
    /// What the last client left running did not end: the image hangs.
    #[error("the device cannot be reset: {0}")]
    Reset(#[from] DeviceError),
    /// The last client holds up threads that worked for it. A new process has none of these.
    #[error("the last client holds up its session, which did not end in {} s", END_DEADLINE.as_secs())]
    Stuck,
}

/// Serves clients with a device. `locked` is the proof that this process is sealed.
///
/// # Errors
/// What ends the process. A client's misbehaviour ends its session only, and is logged.
pub fn serve(_locked: &Locked, device: &Arc<Device>, socket: Socket) -> Result<(), ServiceError> {
    start_workers(device)?;
    match socket {
        Socket::Connected(stream) => serve_client(device, stream),
        Socket::Listening(listener) => loop {
            match rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(stream) => serve_in_turn(device, stream, END_DEADLINE)?,
                // A client that went away before it was served.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(ServiceError::Accept(errno)),
            }
        },
    }
}

/// Starts the threads that execute commands; they end with the process, or with `Engine::end`.
///
/// # Errors
/// If the kernel has no more threads for us.
pub fn start_workers(device: &Device) -> Result<(), ServiceError> {
    for number in 0..WORKERS {
        let engine = Arc::clone(device.engine());
        let worker = thread::Builder::new().name(format!("worker-{number}"));
        worker.spawn(move || engine.work()).map_err(ServiceError::Thread)?;
    }
    Ok(())
}

/// Serves one client until it goes, then resets the device.
///
/// # Errors
/// If the device cannot be reset.
pub fn serve_client(device: &Arc<Device>, stream: OwnedFd) -> Result<(), ServiceError> {
    serve_session(device, stream, Arc::default())
}

fn serve_session(device: &Arc<Device>, stream: OwnedFd, vectors: Arc<Vectors>) -> Result<(), ServiceError> {
    let connection = Arc::new(Connection::new(stream));
    let session = Session::new(Arc::clone(device), Arc::clone(&connection), vectors);
    let end = session.run();
    // Workers that wait for this client's memory get an error at once.
    connection.close();
    match end {
        ConnectionError::Closed => {}
        error => CLIENTS.say(&format_args!("the client's session ended: {error}")),
    }
    device.reset_at_end()?;
    device.connect(crate::engine::Host::absent());
    Ok(())
}

/// Serves one client, as [`serve_client`] does, and comes back whatever it does: at the latest `patience` after it has gone.
///
/// # Errors
/// As [`serve_client`], and `Stuck`.
pub fn serve_in_turn(device: &Arc<Device>, stream: OwnedFd, patience: Duration) -> Result<(), ServiceError> {
    let watched = stream.try_clone().map_err(ServiceError::Watch)?;
    let vectors = Arc::<Vectors>::default();
    let (ended, end) = sync_channel(1);
    let (device, of_session) = (Arc::clone(device), Arc::clone(&vectors));
    let session = thread::Builder::new().name("session".to_owned());
    session
        .spawn(move || {
            // Nobody is there to hear it if it took too long.
            let _ = ended.send(serve_session(&device, stream, of_session));
        })
        .map_err(ServiceError::Thread)?;
    let mut polled = [PollFd::from_borrowed_fd(watched.as_fd(), PollFlags::RDHUP)];
    loop {
        match rustix::event::poll(&mut polled, None) {
            // The client has gone, or this end has closed the connection.
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ServiceError::Watch(errno.into())),
        }
    }
    see_out(&end, &vectors, patience)
}

/// Waits for the end of a session whose client has gone, and lets signals through that the client had no room for.
fn see_out(
    end: &Receiver<Result<(), ServiceError>>,
    vectors: &Vectors,
    patience: Duration,
) -> Result<(), ServiceError> {
    let since = Instant::now();
    while since.elapsed() < patience {
        match end.recv_timeout(DRAIN_PAUSE) {
            Ok(ended) => return ended,
            Err(RecvTimeoutError::Timeout) => vectors.drain(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Err(ServiceError::Stuck)
}

#[cfg(test)]
mod tests;
