// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `DMA_MAP`, `DMA_UNMAP`, `DMA_READ`, `DMA_WRITE`: the client's memory, as the server may reach it.
//!
//! A window with an fd can be mapped by the server; one without is reached by `DMA_READ` and `DMA_WRITE` only, which is
//! how a client keeps translation in its own hands. Addresses are IOVAs. Specification: "DMA_MAP" and following.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{DATA_LEN_MAX, Malformed, PAGE_LEN, wire};

/// Body of `DMA_MAP`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DmaMap {
    /// The length of this structure.
    pub argsz: U32,
    /// [`DmaMap::READ`], [`DmaMap::WRITE`].
    pub flags: U32,
    /// Where in the file the window begins; 0 without an fd.
    pub offset: U64,
    /// The window's first IOVA.
    pub address: U64,
    /// Its length in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaMap>() == 32);

impl DmaMap {
    /// The server may read.
    pub const READ: u32 = 1 << 0;
    /// The server may write.
    pub const WRITE: u32 = 1 << 1;

    /// A window.
    #[must_use]
    pub fn new(address: u64, size: u64, offset: u64, flags: u32) -> Self {
        Self {
            argsz: LEN_32,
            flags: flags.into(),
            offset: offset.into(),
            address: address.into(),
            size: size.into(),
        }
    }

    /// Takes a body apart. `fds` is how many came with it.
    ///
    /// # Errors
    /// If the window is empty, misaligned or wraps around, a flag is unknown, or there is more than one fd.
    pub fn decode(body: &[u8], fds: usize) -> Result<Self, Malformed> {
        const NAME: &str = "DMA_MAP";
        let map: Self = wire::with_room(NAME, body)?;
        let flags = map.flags.get();
        if flags & !(Self::READ | Self::WRITE) != 0 {
            return Err(Malformed::new(NAME, "an unknown flag is set", flags));
        }
        window(NAME, map.address.get(), map.size.get())?;
        if fds > 1 {
            return Err(Malformed::new(NAME, "more than one fd came along", fds));
        }
        if !map.offset.get().is_multiple_of(PAGE_LEN) {
            return Err(Malformed::new(NAME, "the file offset is not page-aligned", map.offset.get()));
        }
        wire::unwrapped(NAME, map.offset.get(), map.size.get())?;
        Ok(map)
    }
}

const LEN_32: U32 = U32::new(32);
const LEN_24: U32 = U32::new(24);

fn window(name: &'static str, address: u64, size: u64) -> Result<(), Malformed> {
    wire::unwrapped(name, address, size)?;
    if !address.is_multiple_of(PAGE_LEN) {
        return Err(Malformed::new(name, "the address is not page-aligned", address));
    }
    if !size.is_multiple_of(PAGE_LEN) {
        return Err(Malformed::new(name, "the size is not a multiple of the page", size));
    }
    Ok(())
}

/// Body of `DMA_UNMAP`, and of its reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DmaUnmap {
    /// The most bytes of reply body that the client takes.
    pub argsz: U32,
    /// [`DmaUnmap::GET_DIRTY_BITMAP`], [`DmaUnmap::ALL`].
    pub flags: U32,
    /// The window's first IOVA.
    pub address: U64,
    /// Its length in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);

/// Behind a [`DmaUnmap`] with [`DmaUnmap::GET_DIRTY_BITMAP`], and before the bitmap in its reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyBitmap {
    /// Bytes of memory that one bit stands for.
    pub page_len: U64,
    /// Bytes of bitmap.
    pub size: U64,
}

const _: () = assert!(size_of::<DirtyBitmap>() == 16);

impl DmaUnmap {
    /// The reply shall hold which pages the server wrote.
    pub const GET_DIRTY_BITMAP: u32 = 1 << 0;
    /// All windows; address and size are 0.
    pub const ALL: u32 = 1 << 1;

    /// Takes back a window, without a bitmap.
    #[must_use]
    pub fn new(address: u64, size: u64) -> Self {
        Self { argsz: LEN_24, flags: 0.into(), address: address.into(), size: size.into() }
    }

    /// Takes a request apart.
    ///
    /// # Errors
    /// If the range is none, a flag is unknown, or the bitmap asked for does not hold the range.
    pub fn decode(body: &[u8]) -> Result<(Self, Option<DirtyBitmap>), Malformed> {
        const NAME: &str = "DMA_UNMAP";
        let (unmap, rest): (Self, _) = wire::split(NAME, body)?;
        let (flags, address, size) = (unmap.flags.get(), unmap.address.get(), unmap.size.get());
        match flags {
            0 => {
                window(NAME, address, size)?;
                wire::room(NAME, rest)?;
                Ok((unmap, None))
            }
            Self::ALL => {
                if address != 0 || size != 0 {
                    return Err(Malformed::new(NAME, "`all` has an address or a size", address | size));
                }
                wire::room(NAME, rest)?;
                Ok((unmap, None))
            }
            Self::GET_DIRTY_BITMAP => {
                window(NAME, address, size)?;
                let bitmap: DirtyBitmap = wire::with_room(NAME, rest)?;
                check_bitmap(NAME, size, bitmap.page_len.get(), bitmap.size.get())?;
                Ok((unmap, Some(bitmap)))
            }
            _ => Err(Malformed::new(NAME, "unknown flags, or too many", flags)),
        }
    }
}

/// The bytes of a bitmap with a bit for each page of `page_len` in `len` bytes, in whole 64-bit words.
#[must_use]
pub fn bitmap_len(len: u64, page_len: u64) -> Option<usize> {
    let pages = len.div_ceil(page_len.max(1));
    let words = usize::try_from(pages.div_ceil(64)).ok()?;
    words.checked_mul(8).filter(|len| *len <= DATA_LEN_MAX)
}

pub(crate) fn check_page_len(name: &'static str, page_len: u64) -> Result<(), Malformed> {
    if page_len.is_power_of_two() && page_len >= PAGE_LEN {
        Ok(())
    } else {
        Err(Malformed::new(name, "the bitmap's page size is no power of two from 4096", page_len))
    }
}

fn check_bitmap(name: &'static str, len: u64, page_len: u64, size: u64) -> Result<(), Malformed> {
    check_page_len(name, page_len)?;
    let needed = bitmap_len(len, page_len);
    let needed = needed.ok_or(Malformed::new(name, "the bitmap is longer than a message", len))?;
    let held = usize::try_from(size).ok().filter(|size| *size >= needed && *size <= DATA_LEN_MAX);
    held.map(drop).ok_or(Malformed::new(name, "the bitmap's size does not fit the range", size))
}

/// The beginning of `DMA_READ` and `DMA_WRITE`, and of their replies; data follows where there is some.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DmaAccess {
    /// The IOVA.
    pub address: U64,
    /// Bytes of data.
    pub count: U64,
}

const _: () = assert!(size_of::<DmaAccess>() == 16);

impl DmaAccess {
    /// An access of `count` bytes at `address`.
    #[must_use]
    pub fn new(address: u64, count: usize) -> Self {
        // A `usize` has at most 64 bits here.
        Self { address: address.into(), count: U64::new(count as u64) }
    }

    /// Takes a `DMA_READ` apart: the client's side.
    ///
    /// # Errors
    /// If the range is empty, wraps around or is longer than a transfer.
    pub fn decode_read(body: &[u8]) -> Result<(Self, usize), Malformed> {
        const NAME: &str = "DMA_READ";
        let access: Self = wire::whole(NAME, body)?;
        wire::unwrapped(NAME, access.address.get(), access.count.get())?;
        let count = usize::try_from(access.count.get()).ok().filter(|count| *count <= DATA_LEN_MAX);
        let count =
            count.ok_or(Malformed::new(NAME, "the count is above a transfer's", access.count.get()))?;
        Ok((access, count))
    }

    /// Takes a `DMA_WRITE` apart: the client's side.
    ///
    /// # Errors
    /// If the range is empty or wraps around, or the count is not what came.
    pub fn decode_write(body: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        const NAME: &str = "DMA_WRITE";
        let (access, data): (Self, _) = wire::split(NAME, body)?;
        wire::unwrapped(NAME, access.address.get(), access.count.get())?;
        Ok((access, wire::counted(NAME, access.count.get(), data)?))
    }

    /// Takes the reply to a read apart: the server's side.
    ///
    /// # Errors
    /// If it is not the data that was asked for.
    pub fn decode_read_reply(self, body: &[u8]) -> Result<&[u8], Malformed> {
        const NAME: &str = "DMA_READ reply";
        let (access, data): (Self, _) = wire::split(NAME, body)?;
        if access != self {
            return Err(Malformed::new(NAME, "the range is not what was asked for", access.address.get()));
        }
        wire::counted(NAME, access.count.get(), data)
    }

    /// Checks the reply to a write: the server's side. Peers disagree about the width of the count here, so that
    /// only the address and the count's low half are looked at.
    ///
    /// # Errors
    /// If it is not about the range that was written.
    pub fn check_write_reply(self, body: &[u8]) -> Result<(), Malformed> {
        const NAME: &str = "DMA_WRITE reply";
        let (head, _): ((U64, U32), _) = {
            let (access, rest): (WriteReply, _) = wire::split(NAME, body)?;
            ((access.address, access.count), rest)
        };
        let low = u64::from(head.1.get());
        if head.0 == self.address && low == self.count.get() {
            Ok(())
        } else {
            Err(Malformed::new(NAME, "the range is not what was written", head.0.get()))
        }
    }
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct WriteReply {
    address: U64,
    count: U32,
}
