// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The console of a VM without a terminal: a socket beside the control socket, to which one client at a time attaches.
//!
//! The guest never waits for a client: what it prints goes into a buffer that keeps the latest output, and a thread of
//! the client's sends from there as fast as the client reads. Output that is overwritten before it was sent is left
//! out, and a line says how much. A client that attaches is first sent what the buffer holds. Bytes in both directions
//! are the console's own, without a frame.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::relay;
use super::runtime_dir;

/// Bytes of the latest output that are kept: some screens.
const KEPT_LEN: usize = 64 << 10;
/// Bytes that are sent or received at once.
const CHUNK_LEN: usize = 4096;
/// How long the last output may take to reach the client at the end of the VM.
const LAST_OUTPUT_SPAN: Duration = Duration::from_secs(2);
/// How long a client waits for the one before it: that it has left may not have been noticed yet.
const LEAVE_SPAN: Duration = Duration::from_millis(500);
/// How long a client's input waits for room, before it is seen whether the client is still there.
const FULL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// While no client can be accepted, for want of descriptors.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(100);

/// The guest's output, as whoever attaches sees it.
#[derive(Debug, Clone, Default)]
pub struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The latest output.
    kept: VecDeque<u8>,
    /// Bytes that were ever printed.
    printed: u64,
    /// The guest prints no more.
    ended: bool,
    /// Who is attached.
    client: Option<Client>,
    /// Clients that were ever attached.
    client_count: u64,
}

/// One client that is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client {
    number: u64,
    pid: i32,
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
struct Chunk {
    /// Bytes before it that are not kept any more.
    lost: u64,
    bytes: Vec<u8>,
}

/// Serves who attaches at `listener`: `console` is the guest's. Where the guest's output goes.
pub fn start(listener: UnixListener, console: UnixStream) -> io::Result<Output> {
    let output = Output::default();
    let input = relay::start_queue(console)?;
    let shown = output.clone();
    thread::Builder::new()
        .name("console-socket".to_owned())
        .spawn(move || accept(&listener, &shown, &input))?;
    Ok(output)
}

impl Output {
    /// The guest prints.
    pub fn print(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.kept.extend(bytes);
        let excess = state.kept.len().saturating_sub(KEPT_LEN);
        state.kept.drain(..excess);
        state.printed = state.printed.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.changed.notify_all();
    }

    /// The guest prints no more: waits a moment until its client has seen everything.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.0.changed.notify_all();
        let attached = |state: &mut State| state.client.is_some();
        // After that the client is cut off.
        drop(self.0.changed.wait_timeout_while(state, LAST_OUTPUT_SPAN, attached));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a client, or says which process is attached.
    fn attach(&self, pid: i32) -> Result<Client, i32> {
        let taken = |state: &mut State| state.client.is_some();
        let waited = self.0.changed.wait_timeout_while(self.state(), LEAVE_SPAN, taken);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = state.client {
            return Err(other.pid);
        }
        state.client_count = state.client_count.saturating_add(1);
        let client = Client { number: state.client_count, pid };
        state.client = Some(client);
        Ok(client)
    }

    /// A client is gone. No effect on another one.
    fn detach(&self, client: Client) {
        let mut state = self.state();
        if state.client == Some(client) {
            state.client = None;
        }
        self.0.changed.notify_all();
    }

    /// Waits for output from byte `next` on; `None` at its end, or when the client is gone.
    fn next(&self, client: Client, next: u64) -> Option<Chunk> {
        let idle = |state: &mut State| state.client == Some(client) && !state.ended && state.printed <= next;
        let state = self.0.changed.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.client != Some(client) || state.printed <= next {
            return None;
        }
        let oldest = state.oldest();
        let from = next.max(oldest);
        let skipped = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let bytes = state.kept.iter().skip(skipped).take(CHUNK_LEN).copied().collect();
        Some(Chunk { lost: from - next, bytes })
    }
}

impl State {
    /// The number of the first byte that is kept.
    fn oldest(&self) -> u64 {
        self.printed.saturating_sub(u64::try_from(self.kept.len()).unwrap_or(u64::MAX))
    }
}

/// Attaches clients, one at a time. Runs until the launcher ends.
fn accept(listener: &UnixListener, output: &Output, input: &SyncSender<Vec<u8>>) {
    loop {
        // Out of descriptors: some are freed when clients leave.
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(ACCEPT_INTERVAL);
            continue;
        };
        let Some(pid) = runtime_dir::may_connect(stream.as_fd()) else { continue };
        match output.attach(pid) {
            Ok(client) => {
                if serve(client, &stream, output, input).is_err() {
                    output.detach(client);
                }
            }
            // Fits into the socket: it is the first that is written.
            Err(pid) => drop(writeln!(stream, "bulkhead: process {pid} is attached to this console\r")),
        }
    }
}

/// Starts a client's two threads.
fn serve(
    client: Client,
    stream: &UnixStream,
    output: &Output,
    input: &SyncSender<Vec<u8>>,
) -> io::Result<()> {
    let (theirs, shown) = (stream.try_clone()?, output.clone());
    let (keys, attached, input) = (stream.try_clone()?, output.clone(), input.clone());
    thread::Builder::new().name("console-send".to_owned()).spawn(move || {
        // A client that is gone is noticed by the other thread too.
        let _ = send(client, &theirs, &shown);
        shown.detach(client);
        let _ = theirs.shutdown(Shutdown::Both);
    })?;
    thread::Builder::new().name("console-receive".to_owned()).spawn(move || {
        receive(&keys, &input);
        attached.detach(client);
        // Wakes the other thread if it is sending.
        let _ = keys.shutdown(Shutdown::Both);
    })?;
    Ok(())
}

/// Sends the guest's output at the client's pace.
fn send(client: Client, mut stream: &UnixStream, output: &Output) -> io::Result<()> {
    let mut next = output.state().oldest();
    while let Some(Chunk { lost, bytes }) = output.next(client, next) {
        if lost > 0 {
            write!(stream, "\r\n[bulkhead: {lost} bytes of output were not read in time]\r\n")?;
        }
        stream.write_all(&bytes)?;
        next = next.saturating_add(lost).saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Passes the client's input on until it is gone, also while the guest reads none.
fn receive(mut stream: &UnixStream, input: &SyncSender<Vec<u8>>) {
    let mut buffer = [0; CHUNK_LEN];
    loop {
        let mut chunk = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => buffer.get(..len).unwrap_or_default().to_vec(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        loop {
            chunk = match input.try_send(chunk) {
                Ok(()) => break,
                Err(TrySendError::Full(chunk)) => chunk,
                Err(TrySendError::Disconnected(_)) => return,
            };
            let mut ends = [PollFd::new(stream, PollFlags::RDHUP)];
            match poll(&mut ends, Some(&FULL_INTERVAL)) {
                Ok(0) => {}
                // It has closed its end.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
