// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The only connection of a migration, at its other end: a host that a test plays.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipc::migration::frame::{HEADER_LEN, Header, Kind};
use vmm_main::launcher::other_host::GREETING;

/// The connection, with the numbers of frames in each direction.
pub struct Lane {
    socket: UnixStream,
    sent: u64,
    read: u64,
}

impl Lane {
    /// Greets as whoever receives a guest does. Each read and write may take so long.
    pub fn greet(mut socket: UnixStream, span: Duration) -> Self {
        socket.set_read_timeout(Some(span)).unwrap();
        socket.set_write_timeout(Some(span)).unwrap();
        socket.write_all(&GREETING).unwrap();
        Self { socket, sent: 0, read: 0 }
    }

    pub fn send(&mut self, kind: Kind, body: &[u8]) {
        let header = Header::of(kind, self.sent, &[body]).to_bytes();
        self.sent += 1;
        self.socket.write_all(&[&header[..], body].concat()).unwrap();
    }

    pub fn next(&mut self) -> (Kind, Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        self.socket.read_exact(&mut header).unwrap();
        let header = Header::decode(&header, self.read).unwrap();
        self.read += 1;
        let mut body = vec![0; header.body_len];
        self.socket.read_exact(&mut body).unwrap();
        header.check(&body).unwrap();
        (header.kind, body)
    }

    /// Waits until the source closes.
    pub fn await_end(mut self) {
        self.socket.read_to_end(&mut Vec::new()).unwrap();
    }
}
