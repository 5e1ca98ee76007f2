// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `REGION_READ`, `REGION_WRITE`, `REGION_WRITE_MULTI`: the device's registers and configuration space.
//!
//! What is checked here holds for every device; whether the region exists and has these bytes, the server checks.
//! Specification: "REGION_READ" and following.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{DATA_LEN_MAX, Malformed, wire};

/// The beginning of a region access and of its reply; data follows where there is some.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RegionAccess {
    /// Where in the region.
    pub offset: U64,
    /// The region's index.
    pub region: U32,
    /// Bytes of data.
    pub count: U32,
}

const _: () = assert!(size_of::<RegionAccess>() == 16);

impl RegionAccess {
    /// An access.
    #[must_use]
    pub fn new(region: u32, offset: u64, count: u32) -> Self {
        Self { offset: offset.into(), region: region.into(), count: count.into() }
    }

    /// Takes a `REGION_READ` apart: the server's side.
    ///
    /// # Errors
    /// If the range is empty, wraps around or is longer than a transfer.
    pub fn decode_read(body: &[u8]) -> Result<(Self, usize), Malformed> {
        const NAME: &str = "REGION_READ";
        let access: Self = wire::whole(NAME, body)?;
        wire::unwrapped(NAME, access.offset.get(), access.count.get().into())?;
        let count = usize::try_from(access.count.get()).ok().filter(|count| *count <= DATA_LEN_MAX);
        let count =
            count.ok_or(Malformed::new(NAME, "the count is above a transfer's", access.count.get()))?;
        Ok((access, count))
    }

    /// Takes a `REGION_WRITE` apart: the server's side.
    ///
    /// # Errors
    /// If the range is empty or wraps around, or the count is not what came.
    pub fn decode_write(body: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        const NAME: &str = "REGION_WRITE";
        let (access, data): (Self, _) = wire::split(NAME, body)?;
        wire::unwrapped(NAME, access.offset.get(), access.count.get().into())?;
        Ok((access, wire::counted(NAME, access.count.get().into(), data)?))
    }

    /// Takes the reply to a read apart: the client's side.
    ///
    /// # Errors
    /// If it is not the data that was asked for.
    pub fn decode_read_reply(self, body: &[u8]) -> Result<&[u8], Malformed> {
        const NAME: &str = "REGION_READ reply";
        let (access, data): (Self, _) = wire::split(NAME, body)?;
        if access != self {
            return Err(Malformed::new(NAME, "the range is not what was asked for", access.offset.get()));
        }
        wire::counted(NAME, access.count.get().into(), data)
    }

    /// Checks the reply to a write: the client's side. Servers of protocol 0.0 answer a count of 0.
    ///
    /// # Errors
    /// If it is not about the range that was written.
    pub fn check_write_reply(self, body: &[u8]) -> Result<(), Malformed> {
        const NAME: &str = "REGION_WRITE reply";
        let access: Self = wire::whole(NAME, body)?;
        let same = access.offset == self.offset && access.region == self.region;
        if same && (access.count == self.count || access.count == 0) {
            Ok(())
        } else {
            Err(Malformed::new(NAME, "the range is not what was written", access.offset.get()))
        }
    }
}

/// One write in a `REGION_WRITE_MULTI`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SmallWrite {
    /// Where, and how many bytes: at most 8.
    pub access: RegionAccess,
    /// The bytes, from the first on.
    pub data: [u8; 8],
}

const _: () = assert!(size_of::<SmallWrite>() == 24);

impl SmallWrite {
    /// The first `count` bytes of `value`, 8 at most.
    #[must_use]
    pub fn new(region: u32, offset: u64, count: u8, value: u64) -> Self {
        Self { access: RegionAccess::new(region, offset, count.min(8).into()), data: value.to_le_bytes() }
    }

    /// The bytes that count.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // Checked when it was decoded.
        let count = usize::try_from(self.access.count.get()).unwrap_or(usize::MAX);
        self.data.get(..count).unwrap_or(&self.data)
    }
}

/// The most writes in one `REGION_WRITE_MULTI`: QEMU sends 200 at most.
const MULTI_MAX: usize = 1024;

/// The body of a `REGION_WRITE_MULTI`: at most [`MULTI_MAX`] writes, of at most 8 bytes each.
#[must_use]
pub fn encode_multi(writes: &[SmallWrite]) -> Vec<u8> {
    // A `usize` has at most 64 bits here.
    let count = U64::new(writes.len() as u64);
    [count.as_bytes(), writes.as_bytes()].concat()
}

/// Takes a `REGION_WRITE_MULTI` apart.
///
/// # Errors
/// If the count is not what came, above the cap, or a write is empty or longer than 8 bytes.
pub fn decode_multi(body: &[u8]) -> Result<Vec<SmallWrite>, Malformed> {
    const NAME: &str = "REGION_WRITE_MULTI";
    let (count, rest): (U64, _) = wire::split(NAME, body)?;
    let writes = <[SmallWrite]>::ref_from_bytes(rest)
        .map_err(|_| Malformed::new(NAME, "the body is not a whole number of writes", rest.len()))?;
    if writes.len() > MULTI_MAX {
        return Err(Malformed::new(NAME, "too many writes", writes.len()));
    }
    if usize::try_from(count.get()) != Ok(writes.len()) {
        return Err(Malformed::new(NAME, "the count is not the number of writes", count.get()));
    }
    for write in writes {
        let count = write.access.count.get();
        if count > 8 {
            return Err(Malformed::new(NAME, "a write is longer than 8 bytes", count));
        }
        wire::unwrapped(NAME, write.access.offset.get(), count.into())?;
    }
    Ok(writes.to_vec())
}
