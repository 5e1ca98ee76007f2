// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Relays with sources and sinks that stop, fail or never read.

use std::io::Cursor;

use super::*;
use crate::launcher::escape::STOP;
use crate::launcher::terminal::tests::pty;

#[derive(Default)]
struct Kept(Vec<u8>, bool);

impl Sink for Kept {
    fn take(&mut self, bytes: &[u8]) {
        assert!(!self.1);
        self.0.extend_from_slice(bytes);
    }

    fn finish(&mut self) {
        self.1 = true;
    }
}

#[test]
fn relay_carries_everything_up_to_the_end() {
    let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let relay = Relay::start("r", Cursor::new(text.clone()), Kept::default()).unwrap();
    let kept = relay.finish(Duration::from_secs(10)).unwrap();
    assert!(kept.1);
    assert_eq!(kept.0, text);
}

#[test]
fn relay_that_does_not_end_is_not_waited_for() {
    let (near, far) = UnixStream::pair().unwrap();
    let relay = Relay::start("r", far, Kept::default()).unwrap();
    assert!(relay.finish(Duration::from_millis(1)).is_none());
    drop(near);
}

#[test]
fn input_stream_passes_escape_bytes_through() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let (quit, mut quits) = mpsc::channel(1);
    start_input(Cursor::new(b"a\x01xb".to_vec()), Input::Stream, near, STOP, quit).unwrap();
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
    start_input(Cursor::new(typed), kind, near, STOP, quit).unwrap();
    assert_eq!(quits.blocking_recv(), Some(()));
    drop(far);
}
