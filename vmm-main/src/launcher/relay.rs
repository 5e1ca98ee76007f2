// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that copy bytes between the user's descriptors and the VM's, so that only they may block.
//!
//! The guest's console is a stream socket whose other end the vCPU process holds. A terminal that does not read fills
//! the socket, and the guest's UART waits: nothing is lost and nothing grows. At the end the output relays run until
//! end of file, so the guest's last output reaches the user.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::escape::{Escape, Keys};
use super::terminal::{Input, Place, Terminal};

const CHUNK_LEN: usize = 4096;
/// Chunks of typed input queued for the guest; beyond that the user gets a bell.
const INPUT_CHUNKS_MAX: usize = 64;
/// Poll interval while the terminal belongs to another job: there is no notification when that changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The destination of a relay. It handles its own errors: a closed terminal or a full disk must not block the writer.
pub trait Sink: Send + 'static {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]);
    /// End of the stream.
    fn finish(&mut self) {}
}

/// A running relay; it ends with its source.
#[derive(Debug)]
pub struct Relay<S> {
    ended: Receiver<S>,
}

impl<S: Sink> Relay<S> {
    /// Copies `source` to `sink` until end of file.
    pub fn start(name: &str, mut source: impl Read + Send + 'static, mut sink: S) -> io::Result<Self> {
        let (tell, ended) = channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut buffer = [0; CHUNK_LEN];
            loop {
                match source.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(len) => sink.take(buffer.get(..len).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            sink.finish();
            // The receiver is gone after a timeout.
            let _ = tell.send(sink);
        })?;
        Ok(Self { ended })
    }

    /// Waits for the relay's end, at most `span`; returns its sink, if it ended.
    pub fn finish(self, span: Duration) -> Option<S> {
        // After an error or a timeout there is no sink to return.
        self.ended.recv_timeout(span).ok()
    }
}

/// Starts the console's input: `source` to `console`. `left` is notified when the user types the key that leaves, which
/// works even while the guest reads no input.
pub fn start_input(
    mut source: impl Read + Send + 'static,
    kind: Input,
    console: UnixStream,
    keys: Keys,
    left: mpsc::Sender<()>,
) -> io::Result<()> {
    let chunks = start_queue(console)?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || match kind {
        Input::Stream => pass_on(&mut source, &chunks),
        Input::Terminal(terminal) => take_keys(&mut source, &terminal, &chunks, keys, &left),
    })?;
    Ok(())
}

/// Starts the thread that alone waits for a guest which reads no input, and gives the queue in front of it.
pub fn start_queue(mut console: UnixStream) -> io::Result<SyncSender<Vec<u8>>> {
    let (chunks, queue) = sync_channel::<Vec<u8>>(INPUT_CHUNKS_MAX);
    thread::Builder::new().name("console-in".to_owned()).spawn(move || {
        // The console is closed; the VM's end is noticed elsewhere.
        while let Ok(chunk) = queue.recv() {
            if console.write_all(&chunk).is_err() {
                return;
            }
        }
    })?;
    Ok(chunks)
}

/// Copies a stream to the guest unchanged, to its end.
fn pass_on(source: &mut impl Read, chunks: &SyncSender<Vec<u8>>) {
    let mut buffer = [0; CHUNK_LEN];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if chunks.send(buffer.get(..len).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the descriptor made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_INTERVAL),
            Err(_) => return,
        }
    }
}

/// Reads keys while the launcher's job has the terminal, and waits while another has it: a job that was started with
/// `&` takes input after `fg`.
fn take_keys(
    source: &mut impl Read,
    terminal: &Terminal,
    chunks: &SyncSender<Vec<u8>>,
    keys: Keys,
    left: &mpsc::Sender<()>,
) {
    // A read in the background fails then with EIO, instead of stopping the whole job.
    sandbox::signals::block_in_thread(Signal::TTIN);
    let mut buffer = [0; CHUNK_LEN];
    let mut escape = Escape::new(keys);
    loop {
        match terminal.await_foreground(LOOK_INTERVAL) {
            Place::Foreground => {}
            Place::Background | Place::Gone => return,
        }
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if !typed(&mut escape, buffer.get(..len).unwrap_or_default(), chunks, left) {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The terminal is another job's, or the descriptor was made non-blocking.
            Err(_) => thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Handles typed bytes; false when the receiver is gone.
fn typed(escape: &mut Escape, bytes: &[u8], chunks: &SyncSender<Vec<u8>>, left: &mpsc::Sender<()>) -> bool {
    let parsed = escape.feed(bytes);
    if parsed.help {
        notice(&format!("\n{}\n", escape.keys.help));
    }
    if parsed.leave {
        // Full: the request to leave is queued already.
        let _ = left.try_send(());
    }
    if parsed.bytes.is_empty() {
        return true;
    }
    match chunks.try_send(parsed.bytes) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            notice("\x07");
            true
        }
        Err(TrySendError::Disconnected(_)) => false,
    }
}

/// Prints a message on the terminal; errors are ignored.
fn notice(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
