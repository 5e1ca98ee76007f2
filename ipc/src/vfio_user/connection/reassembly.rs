// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reassembles messages from pieces of a stream, and assigns descriptors to messages.
//!
//! Pure: fuzzed and property-tested without a socket. Descriptors arrive with a piece of the stream, which the kernel
//! ends behind the bytes that they were sent with: they belong to the message of the piece's last byte. At most the
//! bytes of one message are held before it is complete.

use std::os::fd::OwnedFd;

use crate::vfio_user::header::{HEADER_LEN, Header};
use crate::vfio_user::{FDS_MAX, Malformed};

/// A whole message.
#[derive(Debug)]
pub struct Message {
    /// Its header, checked.
    pub header: Header,
    /// Its body, of the length that the header says.
    pub body: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

/// The received part of a stream that was not yet taken out.
#[derive(Debug, Default)]
pub struct Reassembly {
    bytes: Vec<u8>,
    /// Bytes at the beginning that were taken out already.
    taken: usize,
    fds: Vec<OwnedFd>,
    /// Where in `bytes` the piece ends that the fds came with.
    fds_end: usize,
}

impl Reassembly {
    /// Appends a piece, and the fds it came with.
    ///
    /// # Errors
    /// If one message gathers more fds than any may carry; they are closed with this value.
    pub fn push(&mut self, piece: &[u8], fds: Vec<OwnedFd>) -> Result<(), Malformed> {
        if self.taken > 0 {
            // Less than a message is left.
            self.bytes.drain(..self.taken);
            self.fds_end = self.fds_end.saturating_sub(self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(piece);
        if !fds.is_empty() {
            self.fds.extend(fds);
            self.fds_end = self.bytes.len();
        }
        if self.fds.len() > FDS_MAX {
            return Err(Malformed::new("stream", "more fds than a message may carry", self.fds.len()));
        }
        Ok(())
    }

    /// Whether everything that was pushed has been taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes out the next message, if all of it is there.
    ///
    /// # Errors
    /// If its header is invalid: the stream cannot be parsed any further.
    pub fn pop(&mut self) -> Result<Option<Message>, Malformed> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((head, behind)) = rest.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::decode(head)?;
        let Some(body) = behind.get(..header.body_len) else { return Ok(None) };
        let body = body.to_vec();
        self.taken += HEADER_LEN + header.body_len;
        let with_fds = !self.fds.is_empty() && self.fds_end <= self.taken;
        let fds = if with_fds { std::mem::take(&mut self.fds) } else { Vec::new() };
        Ok(Some(Message { header, body, fds }))
    }
}
