// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process around the device: vfio-user server, DMA windows, interrupts, worker threads.
//!
//! Threads, all blocking: one serves the connection, [`WORKERS`] execute commands. They meet in the engine, which is
//! never held while anything is waited for. One client at a time; when it goes, whatever it left is dropped,
//! the device is reset, and the next one finds it as new.

pub mod bus;
pub mod dirty;
pub mod launch;
pub mod managed;
pub mod objects;
pub mod server;
pub mod vectors;
pub mod windows;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use ipc::vfio_user::connection::{Connection, ConnectionError};
use rustix::io::Errno;
use sandbox::Locked;
use thiserror::Error;

use crate::device::{Device, DeviceError};
use server::Session;

/// Threads that execute commands: as many as a guest's usual queue depth, so that a disk is asked for all of it at once.
/// They sleep while the page cache answers; each costs a stack and no more.
pub const WORKERS: usize = 32;

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
    /// What the last client left running did not end: the image hangs.
    #[error("the device cannot be reset: {0}")]
    Reset(#[from] DeviceError),
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
                Ok(stream) => serve_client(device, stream)?,
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
    let connection = Arc::new(Connection::new(stream));
    let session = Session::new(Arc::clone(device), Arc::clone(&connection));
    let end = session.run();
    // Workers that wait for this client's memory get an error at once.
    connection.close();
    match end {
        ConnectionError::Closed => {}
        error => eprintln!("nvme: the client's session ended: {error}"),
    }
    device.reset()?;
    device.connect(crate::engine::Host::nobody());
    Ok(())
}
