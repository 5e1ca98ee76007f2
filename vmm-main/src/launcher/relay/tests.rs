// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Relays with sources and sinks that stop, fail or never read.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use super::*;
use crate::launcher::terminal::tests::pty;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>, Option<usize>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut seen = self.0.lock().unwrap();
        if self.1.is_some_and(|limit| seen.len() >= limit) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        seen.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn relay_carries_everything_up_to_the_end() {
    let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let sink = Sink::default();
    Relay::start("r", Cursor::new(text.clone()), sink.clone()).unwrap().finish(Duration::from_secs(10));
    assert_eq!(*sink.0.lock().unwrap(), text);
}

#[test]
fn relay_with_a_broken_sink_still_empties_its_source() {
    let (mut near, far) = UnixStream::pair().unwrap();
    let sink = Sink(Arc::default(), Some(CHUNK_LEN));
    let relay = Relay::start("r", far, sink.clone()).unwrap();
    // Ten times what a socket buffers: this only returns if somebody reads.
    for _ in 0..2000 {
        near.write_all(&[7; 1024]).unwrap();
    }
    drop(near);
    relay.finish(Duration::from_secs(10));
    assert!(sink.0.lock().unwrap().len() <= 2 * CHUNK_LEN);
}

#[test]
fn input_stream_passes_escape_bytes_through() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let (quit, mut quits) = mpsc::channel(1);
    start_input(Cursor::new(b"a\x01xb".to_vec()), Input::Stream, near, quit).unwrap();
    let mut seen = [0; 4];
    far.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"a\x01xb");
    assert!(quits.blocking_recv().is_none(), "the thread ended without a quit");
}

#[test]
fn input_terminal_quits_even_while_the_guest_reads_nothing() {
    let (near, far) = UnixStream::pair().unwrap();
    let (quit, mut quits) = mpsc::channel(1);
    // More than socket and queue hold together.
    let mut typed = vec![b'.'; CHUNK_LEN * INPUT_CHUNKS_MAX * 4];
    typed.extend_from_slice(b"\x01x");
    let (_user, program) = pty();
    let kind = Input::Terminal(Terminal::new(program));
    start_input(Cursor::new(typed), kind, near, quit).unwrap();
    assert_eq!(quits.blocking_recv(), Some(()));
    drop(far);
}
