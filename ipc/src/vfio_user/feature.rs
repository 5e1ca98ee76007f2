// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `DEVICE_FEATURE`: migration states and the device's log of the pages it wrote.
//!
//! The states and the path between two of them are those of VFIO migration v2 (`linux/vfio.h`,
//! `enum vfio_device_mig_state`): [`MigState::next`] is that table, for a device with PRE_COPY and P2P.
//! Specification: "DEVICE_FEATURE".

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::dma::{bitmap_len, check_page_len};
use crate::vfio_user::{Malformed, PAGE_LEN, wire};

/// Which states beyond STOP and RUNNING a device has.
pub const MIGRATION: u16 = 1;
/// The state a device is in.
pub const MIG_DEVICE_STATE: u16 = 2;
/// Begins logging DMA writes.
pub const DMA_LOGGING_START: u16 = 6;
/// Ends logging.
pub const DMA_LOGGING_STOP: u16 = 7;
/// Takes the log of a range.
pub const DMA_LOGGING_REPORT: u16 = 8;

/// The beginning of `DEVICE_FEATURE` and of its reply; data follows where there is some.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FeatureHeader {
    /// In a request the most bytes of reply body, in a reply its length.
    pub argsz: U32,
    /// The feature, and what to do with it.
    pub flags: U32,
}

const _: () = assert!(size_of::<FeatureHeader>() == 8);

/// What to do with a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureOp {
    /// Read it.
    Get,
    /// Write it.
    Set,
    /// Say whether it can be read (first) and written (second), as far as asked.
    Probe {
        /// Whether reading is asked about.
        get: bool,
        /// Whether writing is asked about.
        set: bool,
    },
}

impl FeatureHeader {
    const GET: u32 = 1 << 16;
    const SET: u32 = 1 << 17;
    const PROBE: u32 = 1 << 18;

    /// The beginning of a request about `feature`; `argsz` is the room for the reply.
    #[must_use]
    pub fn request(feature: u16, op: FeatureOp, argsz: u32) -> Self {
        let op = match op {
            FeatureOp::Get => Self::GET,
            FeatureOp::Set => Self::SET,
            FeatureOp::Probe { get, set } => {
                Self::PROBE | if get { Self::GET } else { 0 } | if set { Self::SET } else { 0 }
            }
        };
        Self { argsz: argsz.into(), flags: U32::new(u32::from(feature) | op) }
    }

    /// Takes a request apart: feature, operation, data.
    ///
    /// # Errors
    /// If the flags name no operation, or two.
    pub fn decode(body: &[u8]) -> Result<(Self, u16, FeatureOp, &[u8]), Malformed> {
        const NAME: &str = "DEVICE_FEATURE";
        let (header, data): (Self, _) = wire::split(NAME, body)?;
        let flags = header.flags.get();
        let (get, set) = (flags & Self::GET != 0, flags & Self::SET != 0);
        let op = match (flags & !0xffff & !(Self::GET | Self::SET), get, set) {
            (Self::PROBE, get, set) => FeatureOp::Probe { get, set },
            (0, true, false) => FeatureOp::Get,
            (0, false, true) => FeatureOp::Set,
            _ => return Err(Malformed::new(NAME, "the flags name no operation, or two", flags)),
        };
        // The low half, by the mask before.
        let feature = u16::try_from(flags & 0xffff).unwrap_or(u16::MAX);
        Ok((header, feature, op, data))
    }

    /// The data of a reply to this request: the client's side.
    ///
    /// # Errors
    /// If it is about another feature.
    pub fn decode_reply(self, body: &[u8]) -> Result<&[u8], Malformed> {
        const NAME: &str = "DEVICE_FEATURE reply";
        let (header, data): (Self, _) = wire::split(NAME, body)?;
        if header.flags == self.flags {
            Ok(data)
        } else {
            Err(Malformed::new(NAME, "it is about another feature", header.flags.get()))
        }
    }
}

/// Data of [`MIGRATION`]: `STOP_COPY` 1, `P2P` 2, `PRE_COPY` 4.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MigrationFlags {
    /// A sum of the bits above.
    pub flags: U64,
}

impl MigrationFlags {
    /// The state can be read out when the device is stopped.
    pub const STOP_COPY: u64 = 1 << 0;
    /// The device has states in which it makes no peer-to-peer DMA.
    pub const P2P: u64 = 1 << 1;
    /// State can be read out while the device runs.
    pub const PRE_COPY: u64 = 1 << 2;

    /// Takes the data apart: the client's side.
    ///
    /// # Errors
    /// If it has another length.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        wire::whole("MIGRATION", data)
    }
}

/// Data of [`MIG_DEVICE_STATE`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MigDeviceState {
    /// The state's number.
    pub device_state: U32,
    /// Has no meaning in vfio-user.
    pub data_fd: U32,
}

impl MigDeviceState {
    /// The data for `state`.
    #[must_use]
    pub fn new(state: MigState) -> Self {
        Self { device_state: state.number().into(), data_fd: U32::new(u32::MAX) }
    }

    /// Takes the data apart.
    ///
    /// # Errors
    /// If the state does not exist.
    pub fn decode(data: &[u8]) -> Result<MigState, Malformed> {
        const NAME: &str = "MIG_DEVICE_STATE";
        let data: Self = wire::with_room(NAME, data)?;
        let number = data.device_state.get();
        MigState::from_number(number).ok_or(Malformed::new(NAME, "the state does not exist", number))
    }
}

/// A device's migration state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's; the transitions say what they mean")]
pub enum MigState {
    Error,
    Stop,
    Running,
    StopCopy,
    Resuming,
    RunningP2p,
    PreCopy,
    PreCopyP2p,
}

impl MigState {
    /// Every state, by number.
    pub const ALL: [Self; 8] = [
        Self::Error,
        Self::Stop,
        Self::Running,
        Self::StopCopy,
        Self::Resuming,
        Self::RunningP2p,
        Self::PreCopy,
        Self::PreCopyP2p,
    ];

    /// The state's number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Error => 0,
            Self::Stop => 1,
            Self::Running => 2,
            Self::StopCopy => 3,
            Self::Resuming => 4,
            Self::RunningP2p => 5,
            Self::PreCopy => 6,
            Self::PreCopyP2p => 7,
        }
    }

    /// The state with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// The next state on the way from here to `to`; `None` if no way leads there. ERROR is left by a reset only.
    #[must_use]
    pub const fn next(self, to: Self) -> Option<Self> {
        use MigState::{Error, PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
        Some(match (self, to) {
            (Error, _) | (_, Error) | (StopCopy, PreCopy | PreCopyP2p) => return None,
            (Stop, Stop | StopCopy | Resuming)
            | (Running, Running | PreCopy)
            | (PreCopy, PreCopy)
            | (PreCopyP2p, PreCopyP2p | PreCopy | StopCopy)
            | (StopCopy, StopCopy)
            | (Resuming, Resuming)
            | (RunningP2p, RunningP2p | Stop | Running | PreCopyP2p) => to,
            (PreCopy, PreCopyP2p | StopCopy) => PreCopyP2p,
            (StopCopy | Resuming, _) | (RunningP2p, StopCopy | Resuming) => Stop,
            (PreCopy, _) | (RunningP2p, PreCopy) => Running,
            (Stop | Running | PreCopyP2p, _) => RunningP2p,
        })
    }
}

/// The beginning of [`DMA_LOGGING_START`]'s data; ranges follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LoggingStart {
    /// The granule the client would like; in the reply the one it gets.
    pub page_size: U64,
    /// How many ranges follow; 0 is everything.
    pub num_ranges: U32,
    /// Zero.
    pub reserved: U32,
}

/// A range of IOVAs.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LoggingRange {
    /// The first IOVA.
    pub iova: U64,
    /// In bytes.
    pub length: U64,
}

/// The most ranges in one start: the kernel's own limit is a page of them.
const LOGGING_RANGES_MAX: usize = 256;

impl LoggingStart {
    /// Takes the data apart.
    ///
    /// # Errors
    /// If the count is more than came, or a range is empty or wraps around.
    pub fn decode(data: &[u8]) -> Result<(Self, Vec<LoggingRange>), Malformed> {
        const NAME: &str = "DMA_LOGGING_START";
        let (start, rest): (Self, _) = wire::split(NAME, data)?;
        let number = start.num_ranges.get();
        let bad = Malformed::new(NAME, "the count is above what came, or too large", number);
        let count = usize::try_from(number).ok().filter(|count| *count <= LOGGING_RANGES_MAX).ok_or(bad)?;
        let (ranges, behind) = <[LoggingRange]>::ref_from_prefix_with_elems(rest, count).map_err(|_| bad)?;
        wire::room(NAME, behind)?;
        for range in ranges {
            wire::unwrapped(NAME, range.iova.get(), range.length.get())?;
        }
        Ok((start, ranges.to_vec()))
    }
}

/// The beginning of [`DMA_LOGGING_REPORT`]'s data; the bitmap follows in the reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LoggingReport {
    /// The first IOVA.
    pub iova: U64,
    /// In bytes.
    pub length: U64,
    /// Bytes that one bit stands for.
    pub page_size: U64,
}

impl LoggingReport {
    /// Takes a request apart: the report and the bytes of its bitmap.
    ///
    /// # Errors
    /// If the range is empty, wraps around or does not begin at a page, or the bitmap is longer than a message.
    pub fn decode(data: &[u8]) -> Result<(Self, usize), Malformed> {
        const NAME: &str = "DMA_LOGGING_REPORT";
        let report: Self = wire::with_room(NAME, data)?;
        let (iova, length) = (report.iova.get(), report.length.get());
        wire::unwrapped(NAME, iova, length)?;
        check_page_len(NAME, report.page_size.get())?;
        if !iova.is_multiple_of(PAGE_LEN) {
            return Err(Malformed::new(NAME, "the range does not begin at a page", iova));
        }
        let len = bitmap_len(length, report.page_size.get());
        Ok((report, len.ok_or(Malformed::new(NAME, "the bitmap is longer than a message", length))?))
    }

    /// The bitmap in a reply to this request: the client's side.
    ///
    /// # Errors
    /// If it is about another range, or has another length.
    pub fn decode_reply(self, data: &[u8]) -> Result<&[u8], Malformed> {
        const NAME: &str = "DMA_LOGGING_REPORT reply";
        let (report, bitmap): (Self, _) = wire::split(NAME, data)?;
        if report != self {
            return Err(Malformed::new(NAME, "it is about another range", report.iova.get()));
        }
        if bitmap_len(self.length.get(), self.page_size.get()) == Some(bitmap.len()) {
            Ok(bitmap)
        } else {
            Err(Malformed::new(NAME, "the bitmap has another length", bitmap.len()))
        }
    }
}
