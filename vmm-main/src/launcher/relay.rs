// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that carry bytes between the user's descriptors and the VM's: they may block, nobody else has to.
//!
//! The guest's console is a stream socket whose other end the vCPU process holds. A terminal that does not read
//! fills the socket, and the guest's UART waits: nothing is lost and nothing grows. At the end the output
//! relays run until end of file, so the guest's last words reach the user.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;

use super::escape::{Escape, HELP};
use super::terminal::{Input, Place, Terminal};

const CHUNK_LEN: usize = 4096;
/// Chunks of typed input that wait for the guest; a person who types more gets a bell.
const INPUT_CHUNKS_MAX: usize = 64;
/// How often a terminal of another job is looked at: nobody is told when it becomes ours. A person does not notice.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Where the bytes of a relay go. What goes wrong there is its own business: whoever writes into the relay must not be held up
/// by a closed terminal or a full disk.
pub trait Sink: Send + 'static {
    /// Takes the next bytes.
    fn take(&mut self, bytes: &[u8]);
    /// There are no more.
    fn finish(&mut self) {}
}

/// A relay that ends by itself when its source does.
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
            // The receiver is gone when nobody waits any more.
            let _ = tell.send(sink);
        })?;
        Ok(Self { ended })
    }

    /// Waits for the relay's end, at most `patience`; its sink, if it came.
    pub fn finish(self, patience: Duration) -> Option<S> {
        // Both an end and a timeout mean that there is nothing more to wait for.
        self.ended.recv_timeout(patience).ok()
    }
}

/// Starts the console's input: `source` to `console`. `quit` is told when the user types the escape for it,
/// which works even while the guest reads nothing.
pub fn start_input(
    mut source: impl Read + Send + 'static,
    kind: Input,
    mut console: UnixStream,
    quit: mpsc::Sender<()>,
) -> io::Result<()> {
    let (chunks, queue) = sync_channel::<Vec<u8>>(INPUT_CHUNKS_MAX);
    thread::Builder::new().name("console-in".to_owned()).spawn(move || {
        // A console that is gone takes no input; the VM's end is noticed elsewhere.
        while let Ok(chunk) = queue.recv() {
            if console.write_all(&chunk).is_err() {
                return;
            }
        }
    })?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || match kind {
        Input::Stream => pass_on(&mut source, &chunks),
        Input::Terminal(terminal) => take_keys(&mut source, &terminal, &chunks, &quit),
    })?;
    Ok(())
}

/// Sends a stream to the guest as it is, to its end.
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
            // Whoever shares the descriptor has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_INTERVAL),
            Err(_) => return,
        }
    }
}

/// Reads keys while the launcher's job has the terminal, and waits while another has it: a job that was started with `&`
/// takes input after `fg`.
fn take_keys(
    source: &mut impl Read,
    terminal: &Terminal,
    chunks: &SyncSender<Vec<u8>>,
    quit: &mpsc::Sender<()>,
) {
    // A read in the background fails then, instead of stopping the VM's whole job.
    sandbox::signals::block_in_thread(Signal::TTIN);
    let mut buffer = [0; CHUNK_LEN];
    let mut escape = Escape::default();
    loop {
        match terminal.await_foreground(LOOK_INTERVAL) {
            Place::Foreground => {}
            Place::Background | Place::Gone => return,
        }
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if !typed(&mut escape, buffer.get(..len).unwrap_or_default(), chunks, quit) {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another job's terminal, or a descriptor that somebody has made non-blocking.
            Err(_) => thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Handles typed bytes; false when nobody listens any more.
fn typed(escape: &mut Escape, bytes: &[u8], chunks: &SyncSender<Vec<u8>>, quit: &mpsc::Sender<()>) -> bool {
    let parsed = escape.feed(bytes);
    if parsed.help {
        notice(&format!("\n{HELP}\n"));
    }
    if parsed.quit {
        // Full means that it has been said already.
        let _ = quit.try_send(());
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

/// A word to the person at the terminal; if it cannot be written, there is no such person.
fn notice(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
