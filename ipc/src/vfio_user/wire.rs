// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a body is taken apart: a fixed structure, and what is behind it.
//!
//! No length that a peer names is used here before it was held against the bytes that came.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::vfio_user::Malformed;

/// The structure that a body begins with, copied, and the bytes behind it.
pub fn split<'a, T>(message: &'static str, body: &'a [u8]) -> Result<(T, &'a [u8]), Malformed>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned + Copy + 'a,
{
    let short = |_| Malformed::new(message, "the body is shorter than its structure", body.len());
    let (value, rest) = T::ref_from_prefix(body).map_err(short)?;
    Ok((*value, rest))
}

/// The structure that is the whole body.
pub fn whole<T>(message: &'static str, body: &[u8]) -> Result<T, Malformed>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned + Copy + 'static,
{
    let (value, rest) = split(message, body)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Malformed::new(message, "bytes are left behind the body", rest.len()))
    }
}

/// The most bytes behind the structure of a request with an `argsz`.
pub const ROOM_LEN_MAX: usize = 64 << 10;

/// The structure that the body of a request with an `argsz` begins with. Some clients send the room for the answer too,
/// as an ioctl would pass it: SPDK's initiator does, and the reference library takes it. What is in it has no meaning.
pub fn with_room<T>(message: &'static str, body: &[u8]) -> Result<T, Malformed>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned + Copy + 'static,
{
    let (value, behind) = split(message, body)?;
    room(message, behind)?;
    Ok(value)
}

/// Checks what is behind everything that a request with an `argsz` consists of.
pub fn room(message: &'static str, behind: &[u8]) -> Result<(), Malformed> {
    if behind.len() <= ROOM_LEN_MAX {
        Ok(())
    } else {
        Err(Malformed::new(message, "the room for the answer is longer than any answer", behind.len()))
    }
}

/// Holds the `count` of a transfer against the bytes that came with it.
pub fn counted<'a>(message: &'static str, count: u64, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
    if usize::try_from(count) == Ok(data.len()) {
        Ok(data)
    } else {
        Err(Malformed::new(message, "the count is not the length of the data", count))
    }
}

/// Checks that a range does not wrap around the end of the address space; a range may end there.
pub fn unwrapped(message: &'static str, start: u64, len: u64) -> Result<(), Malformed> {
    match len.checked_sub(1).map(|last| start.checked_add(last)) {
        None => Err(Malformed::new(message, "the range is empty", start)),
        Some(None) => Err(Malformed::new(message, "the range wraps around", start)),
        Some(Some(_)) => Ok(()),
    }
}
