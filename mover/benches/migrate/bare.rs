// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The references: connections over which a thread writes a buffer, and another one reads it, over and over; and the
//! same with memory that is read before, and written where it was not there behind.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use crate::identity::{PEERS, Pems, pems};

/// What is written at a time: a frame of pages has as many bytes.
const BUFFER_LEN: usize = 512 << 10;

/// What is spoken on the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Tls,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "TCP",
            Self::Tls => "TLS 1.3",
        }
    }
}

/// A pair of connected sockets, of which each write is sent at once.
pub fn connection() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let there = listener.accept().unwrap().0;
    [&here, &there].iter().for_each(|end| end.set_nodelay(true).unwrap());
    [here, there]
}

/// How long as many connections take for so many bytes together: of a buffer, or from the one file to the other.
pub fn carry(kind: Kind, lanes: u8, len: u64, files: Option<[&File; 2]>) -> Duration {
    let share = len / u64::from(lanes);
    let pems = pems();
    // Closed when all is read: one with something unread, such as a ticket of TLS, would reset its connection.
    let mut ends: Vec<_> = (0..lanes).map(|_| ends(kind, &pems)).collect();
    let begun = Instant::now();
    thread::scope(|scope| {
        for (lane, (writes, reads)) in (0..).zip(&mut ends) {
            let begin = share * lane;
            scope.spawn(move || {
                let mut buffer = vec![0x5a; BUFFER_LEN];
                let mut sent = 0;
                while sent < share {
                    let len = (share - sent).min(BUFFER_LEN as u64);
                    let buffer = &mut buffer[..usize::try_from(len).unwrap()];
                    files.into_iter().for_each(|[from, _]| from.read_exact_at(buffer, begin + sent).unwrap());
                    writes.write_all(buffer).unwrap();
                    sent += len;
                }
                writes.flush().unwrap();
            });
            scope.spawn(move || {
                let mut buffer = vec![0; BUFFER_LEN];
                let mut read = 0;
                while read < share {
                    let len = reads.read(&mut buffer).unwrap();
                    files
                        .into_iter()
                        .for_each(|[_, to]| to.write_all_at(&buffer[..len], begin + read).unwrap());
                    read += len as u64;
                }
            });
        }
    });
    begun.elapsed()
}

type Ends = (Box<dyn Write + Send>, Box<dyn Read + Send>);

/// The two ends of a connection, behind the handshake.
fn ends(kind: Kind, [near, far]: &[Pems; 2]) -> Ends {
    let [here, there] = connection();
    if kind == Kind::Plain {
        return (Box::new(here), Box::new(there));
    }
    let (client, name) = mover::tls::connecting(&near.identity(), PEERS[1]).unwrap();
    let server = mover::tls::accepting(&far.identity(), PEERS[0]).unwrap();
    let mut here = StreamOwned::new(ClientConnection::new(client, name).unwrap(), here);
    let mut there = StreamOwned::new(ServerConnection::new(server).unwrap(), there);
    thread::scope(|scope| {
        scope.spawn(|| here.write_all(b"?").unwrap());
        there.read_exact(&mut [0]).unwrap();
    });
    (Box::new(here), Box::new(there))
}
