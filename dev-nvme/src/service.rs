// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process around the device: vfio-user server, DMA windows, interrupts, worker threads.
//!
//! Threads, all blocking: one serves the connection, [`WORKERS`] execute commands. They share the engine, whose lock
//! is never held across a wait. One client at a time; when it disconnects, its requests are dropped and the device is
//! reset for the next one.
//!
//! The one client may block all of these threads: it shares its eventfds, and a signal blocks while a counter is
//! full. Where clients follow each other, the accepting thread does nothing else, and waits for a session's end with
//! a deadline ([`await_end`]).

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
use crate::engine::Engine;
use log::CLIENTS;
use server::Session;
use vectors::Vectors;

/// Worker threads: as many as a guest's usual queue depth, so that the disk has all commands in its queue. They sleep
/// while the page cache serves everything. To start them all takes longer than all else that the controller does before
/// it serves, so each is started when the one before has its first job: there is always one more than were needed.
const WORKERS: usize = 32;

/// How long a session may take to end after its client has disconnected: requests in flight may take
/// [`DRAIN_DEADLINE`], and a reset during that as long again; the rest takes no time.
const END_DEADLINE: Duration = Duration::from_secs(2 * DRAIN_DEADLINE.as_secs() + 5);

/// Interval for draining the eventfds of a session that does not end.
const DRAIN_PAUSE: Duration = Duration::from_millis(20);

/// The source of clients.
#[derive(Debug)]
pub enum Socket {
    /// A listening socket: one client after the other.
    Listening(OwnedFd),
    /// A connected socket: one client only.
    Connected(OwnedFd),
}

/// Why the process has to end.
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
    /// Requests of the last client did not end: the image's storage hangs.
    #[error("the device cannot be reset: {0}")]
    Reset(#[from] DeviceError),
    /// The last client blocks threads of its session. A new process starts without them.
    #[error("the last client blocks its session, which did not end in {} s", END_DEADLINE.as_secs())]
    Stuck,
}

/// Serves clients with a device. `locked` is the proof that this process is sealed.
///
/// # Errors
/// If the process has to end. A client's error ends its session only, and is logged.
pub fn serve(_locked: &Locked, device: &Arc<Device>, socket: Socket) -> Result<(), ServiceError> {
    start_workers(device)?;
    match socket {
        Socket::Connected(stream) => serve_client(device, stream),
        Socket::Listening(listener) => loop {
            match rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(stream) => serve_in_turn(device, stream, END_DEADLINE)?,
                // The client disconnected before it was accepted.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(ServiceError::Accept(errno)),
            }
        },
    }
}

/// Starts the first of the threads that execute commands; they end with the process, or with `Engine::end`.
///
/// # Errors
/// If it cannot be started. That a later one cannot is logged: those that there are do its work.
pub fn start_workers(device: &Device) -> Result<(), ServiceError> {
    start_worker(device.engine(), 0)
}

fn start_worker(engine: &Arc<Engine>, number: usize) -> Result<(), ServiceError> {
    let engine = Arc::clone(engine);
    let work = move || {
        engine.work(|| {
            let next = number + 1;
            if next < WORKERS
                && let Err(error) = start_worker(&engine, next)
            {
                ipc::log::warn!("nvme: {next} threads execute commands: {error}");
            }
        });
    };
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(work)
        .map(drop)
        .map_err(ServiceError::Thread)
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
    device.freeze();
    // Workers waiting for answers of this client get an error at once.
    connection.close();
    match end {
        ConnectionError::Closed => {}
        error => CLIENTS.warn(&format_args!("the client's session ended: {error}")),
    }
    device.reset_at_end()?;
    device.connect(crate::engine::Host::absent());
    Ok(())
}

/// Serves one client, as [`serve_client`] does, but returns at the latest `deadline` after it has disconnected,
/// whatever it does.
///
/// # Errors
/// As [`serve_client`], and `Stuck`.
pub fn serve_in_turn(device: &Arc<Device>, stream: OwnedFd, deadline: Duration) -> Result<(), ServiceError> {
    let watched = stream.try_clone().map_err(ServiceError::Watch)?;
    let vectors = Arc::<Vectors>::default();
    let (ended, end) = sync_channel(1);
    let (device, of_session) = (Arc::clone(device), Arc::clone(&vectors));
    let session = thread::Builder::new().name("session".to_owned());
    session
        .spawn(move || {
            // The receiver is gone if it took too long.
            let _ = ended.send(serve_session(&device, stream, of_session));
        })
        .map_err(ServiceError::Thread)?;
    let mut polled = [PollFd::from_borrowed_fd(watched.as_fd(), PollFlags::RDHUP)];
    loop {
        match rustix::event::poll(&mut polled, None) {
            // The client has disconnected, or this end has closed the connection.
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ServiceError::Watch(errno.into())),
        }
    }
    await_end(&end, &vectors, deadline)
}

/// Waits for the end of a session whose client has disconnected, and drains its full eventfds meanwhile.
fn await_end(
    end: &Receiver<Result<(), ServiceError>>,
    vectors: &Vectors,
    deadline: Duration,
) -> Result<(), ServiceError> {
    let since = Instant::now();
    while since.elapsed() < deadline {
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
