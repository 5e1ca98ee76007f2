// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State units one at a time, to and from a memory object: a device's own state may be larger than private memory.
//!
//! The envelopes are those of [`super`], with the same checks; at most one unit is in private memory at a time. Opaque
//! bytes (the migration data of a vfio-user server) are units whose body is these bytes. The number of units is bounded
//! by the length of the object.

use std::io::{self, Read, Write};

use thiserror::Error;
use zerocopy::{IntoBytes, transmute};

use super::{ENVELOPE_LEN, Envelope, SavedError, SavedState, Unit, UnitKind};

/// Why a stream could not be written, or was refused.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The memory object could not be read or written.
    #[error("the memory object of the saved state cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// A unit is invalid.
    #[error(transparent)]
    Unit(#[from] SavedError),
}

/// Writes units in sequence.
#[derive(Debug)]
pub struct UnitWriter<W> {
    sink: W,
    len: u64,
}

impl<W: Write> UnitWriter<W> {
    /// Writes to `sink`.
    pub const fn new(sink: W) -> Self {
        Self { sink, len: 0 }
    }

    /// Appends one unit.
    ///
    /// # Errors
    /// If it cannot be encoded or written.
    pub fn append<T: SavedState>(&mut self, state: &T) -> Result<(), StreamError> {
        let refused = SavedError::Unwritable { kind: T::KIND, why: "it does not encode" };
        let body = postcard::to_stdvec(state).map_err(|_| refused)?;
        self.append_bytes(T::KIND, T::VERSION, &body)
    }

    /// Appends one unit whose body is just these bytes.
    ///
    /// # Errors
    /// If they are too many, or cannot be written.
    pub fn append_bytes(&mut self, kind: UnitKind, version: u16, body: &[u8]) -> Result<(), StreamError> {
        self.sink.write_all(Envelope::around(kind, version, body)?.as_bytes())?;
        self.sink.write_all(body)?;
        self.len = self.len.saturating_add((ENVELOPE_LEN + body.len()) as u64);
        Ok(())
    }

    /// Bytes written so far.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Reads units in sequence.
#[derive(Debug)]
pub struct UnitReader<R> {
    source: R,
    at: u64,
    body: Vec<u8>,
}

impl<R: Read> UnitReader<R> {
    /// Reads `source` to its end.
    pub const fn new(source: R) -> Self {
        Self { source, at: 0, body: Vec::new() }
    }

    /// The next unit; none at the end.
    ///
    /// # Errors
    /// If it is invalid, or the source ends early.
    pub fn next_unit(&mut self) -> Result<Option<Unit<'_>>, StreamError> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        let mut envelope = [0; ENVELOPE_LEN];
        match read_up_to(&mut self.source, &mut envelope)? {
            0 => return Ok(None),
            ENVELOPE_LEN => {}
            len => return Err(SavedError::EnvelopeShort { at, len }.into()),
        }
        let envelope: Envelope = transmute!(envelope);
        let (kind, len) = envelope.check(at, usize::MAX)?;
        // Bounded by the check.
        self.body.resize(len, 0);
        let found = read_up_to(&mut self.source, &mut self.body)?;
        if found < len {
            return Err(SavedError::BodyLong { kind, len: envelope.len.get(), room: found }.into());
        }
        envelope.check_body(kind, &self.body)?;
        self.at = self.at.saturating_add((ENVELOPE_LEN + len) as u64);
        Ok(Some(Unit { kind, version: envelope.version.get(), body: &self.body }))
    }

    /// The next unit, decoded as `T`.
    ///
    /// # Errors
    /// If it is something else, or there is none.
    pub fn next_of<T: SavedState>(&mut self) -> Result<T, StreamError> {
        let missing = SavedError::Missing { kind: T::KIND };
        Ok(self.next_unit()?.ok_or(missing)?.decode()?)
    }
}

/// Fills `bytes` as far as the source goes.
fn read_up_to(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
