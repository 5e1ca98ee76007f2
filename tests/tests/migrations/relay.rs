// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Somebody between two hosts: every connection of a migration goes through here, where one can be held at a frame,
//! cut, or damaged at a byte.
//!
//! In the clear frames are seen, so that a migration stops exactly where its phase begins; behind TLS there are bytes
//! only. A connection that is held is alive in its other direction, as one that is slow is.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ipc::migration::frame::{HEADER_LEN, Header, Kind};
use tests::vm::address;
use vmm_main::launcher::other_host::GREETING;

/// How often the relay looks for a new connection.
const POLL: Duration = Duration::from_millis(2);

/// Who has sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Source,
    Destination,
}

/// A piece of a migration at which it can be held: the piece and everything behind it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// What the destination's launcher says of itself.
    Greeting,
    /// The first of the pages.
    Pages,
    /// A coordinator's message, by its number from 1: offer, last, commit; accept, ready, running.
    Message(Sender, u32),
}

/// What happens to a byte, by its number in all that one side has sent over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// The connections are closed before it.
    Cut,
    /// A bit of it changes.
    Flip,
}

/// The relay. Its connections are closed with it.
pub struct Relay {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    to: PathBuf,
    /// Without: frames.
    bytes: Option<(Sender, u64, Harm)>,
    /// Bytes that the source can send in a second over each connection.
    pace: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hold: Option<Piece>,
    is_held: bool,
    /// Nothing is let through.
    is_silent: bool,
    is_closed: bool,
    messages: [u32; 2],
    /// Bytes that each side has sent.
    sent: [u64; 2],
    is_harmed: bool,
    sockets: Vec<UnixStream>,
}

impl Relay {
    /// To the host at this socket; a migration is held at this piece.
    pub fn holding(folder: &Path, to: &Path, hold: Piece) -> Self {
        Self::start(folder, to, None, Some(hold), None)
    }

    /// The same, with harm to a byte, and nothing held.
    pub fn harming(folder: &Path, to: &Path, from: Sender, at: u64, harm: Harm) -> Self {
        Self::start(folder, to, Some((from, at, harm)), None, None)
    }

    /// The same as a slow link: so many bytes in a second.
    pub fn slow(folder: &Path, to: &Path, bytes_per_second: u64) -> Self {
        Self::start(folder, to, None, None, Some(bytes_per_second))
    }

    fn start(
        folder: &Path,
        to: &Path,
        bytes: Option<(Sender, u64, Harm)>,
        hold: Option<Piece>,
        pace: Option<u64>,
    ) -> Self {
        let path = folder.join("relay.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Mutex::new(State { hold, ..State::default() });
        let shared = Arc::new(Shared { to: to.into(), bytes, pace, state, changed: Condvar::new() });
        let relay = Self { path, shared: Arc::clone(&shared) };
        thread::spawn(move || shared.accept(&listener));
        relay
    }

    /// Where the source finds it.
    pub fn address(&self) -> String {
        address(&self.path)
    }

    /// Waits until the piece has come. False: it has not in time.
    pub fn await_held(&self, limit: Duration) -> bool {
        let state = self.shared.lock();
        let wait = self.shared.changed.wait_timeout_while(state, limit, |state| !state.is_held);
        wait.unwrap().0.is_held
    }

    /// Lets nothing through from now on, and does not say so.
    pub fn silence(&self) {
        self.shared.lock().is_silent = true;
    }

    /// Lets everything through, unless it is silent.
    pub fn release(&self) {
        self.shared.lock().hold = None;
        self.shared.changed.notify_all();
    }

    /// Closes all connections, at both ends.
    pub fn cut(&self) {
        self.shared.close();
    }

    /// Closes all connections; whoever connects from now on reaches the host itself.
    pub fn step_aside(&self) {
        self.cut();
        std::fs::remove_file(&self.path).unwrap();
        std::os::unix::fs::symlink(&self.shared.to, &self.path).unwrap();
    }

    /// Whether the byte was there to be harmed.
    pub fn has_harmed(&self) -> bool {
        self.shared.lock().is_harmed
    }

    /// How many bytes this side has sent.
    pub fn sent(&self, from: Sender) -> u64 {
        self.shared.lock().sent[from as usize]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The connection is over, in one of its directions at least.
struct Over;

impl<E: std::error::Error> From<E> for Over {
    fn from(_: E) -> Self {
        Self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        for socket in state.sockets.drain(..) {
            // Its other end may have been faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        while !self.lock().is_closed {
            let source = match listener.accept() {
                Ok((source, _)) => source,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(POLL);
                    continue;
                }
                Err(error) => panic!("a relay takes no connection: {error}"),
            };
            source.set_nonblocking(false).unwrap();
            // Whoever finds nobody there is told so by the closed connection.
            let Ok(destination) = UnixStream::connect(&self.to) else { continue };
            let ends = [&source, &destination].map(|end| end.try_clone().unwrap());
            self.lock().sockets.extend(ends);
            let ends = [&source, &destination].map(|end| end.try_clone().unwrap());
            let [back, forth] = ends;
            for (from, reads, writes) in
                [(Sender::Source, source, forth), (Sender::Destination, destination, back)]
            {
                let shared = Arc::clone(self);
                thread::spawn(move || shared.carry(from, reads, writes));
            }
        }
    }

    fn carry(&self, from: Sender, mut reads: UnixStream, mut writes: UnixStream) {
        let _ = match self.bytes {
            Some(harm) => self.carry_bytes(from, &mut reads, &mut writes, harm),
            None => self.carry_frames(from, &mut reads, &mut writes),
        };
        // What was sent before arrives before the end does.
        let _ = writes.shutdown(Shutdown::Write);
    }

    fn carry_frames(
        &self,
        from: Sender,
        reads: &mut UnixStream,
        writes: &mut UnixStream,
    ) -> Result<(), Over> {
        if from == Sender::Destination {
            let mut greeting = [0; GREETING.len()];
            reads.read_exact(&mut greeting)?;
            self.pass(Some(Piece::Greeting))?;
            writes.write_all(&greeting)?;
        }
        for sequence in 0.. {
            let mut frame = vec![0; HEADER_LEN];
            reads.read_exact(&mut frame)?;
            let header = Header::decode(frame.first_chunk().ok_or(Over)?, sequence)?;
            frame.resize(HEADER_LEN + header.body_len, 0);
            reads.read_exact(&mut frame[HEADER_LEN..])?;
            let piece = match header.kind {
                Kind::Pages => Some(Piece::Pages),
                Kind::Message => {
                    let mut state = self.lock();
                    state.messages[from as usize] += 1;
                    Some(Piece::Message(from, state.messages[from as usize]))
                }
                _ => None,
            };
            self.pass(piece)?;
            self.lock().sent[from as usize] += u64::try_from(frame.len())?;
            writes.write_all(&frame)?;
            if let Some(pace) = self.pace.filter(|_| from == Sender::Source) {
                thread::sleep(Duration::from_secs_f64(frame.len() as f64 / pace as f64));
            }
        }
        Ok(())
    }

    /// Waits as long as this piece is held.
    fn pass(&self, piece: Option<Piece>) -> Result<(), Over> {
        let mut state = self.lock();
        while !state.is_closed && (state.is_silent || state.hold.is_some() && state.hold == piece) {
            state.is_held |= !state.is_silent;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        if state.is_closed { Err(Over) } else { Ok(()) }
    }

    fn carry_bytes(
        &self,
        from: Sender,
        reads: &mut UnixStream,
        writes: &mut UnixStream,
        (harmed, at, harm): (Sender, u64, Harm),
    ) -> Result<(), Over> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let len = reads.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            let bytes = &mut buffer[..len];
            let is_due = {
                let mut state = self.lock();
                let before = state.sent[from as usize];
                let behind = before + u64::try_from(len)?;
                state.sent[from as usize] = behind;
                let is_due = from == harmed && (before..behind).contains(&at);
                state.is_harmed |= is_due;
                is_due.then(|| at - before)
            };
            match (is_due, harm) {
                (None, _) => writes.write_all(bytes)?,
                (Some(at), Harm::Flip) => {
                    bytes[usize::try_from(at)?] ^= 1 << (at % 8);
                    writes.write_all(bytes)?;
                }
                (Some(at), Harm::Cut) => {
                    writes.write_all(&bytes[..usize::try_from(at)?])?;
                    self.close();
                    return Ok(());
                }
            }
        }
    }
}

/// Waits until something is true. False: it is not in time.
pub fn until(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !is_true() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}
