// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `DEVICE_GET_INFO`, `DEVICE_GET_REGION_INFO`, `DEVICE_GET_IRQ_INFO`, `DEVICE_SET_IRQS`: what a device consists of.
//!
//! Layouts and numbers are those of the kernel's `linux/vfio.h`, which the protocol borrows. A region's capability
//! chain is a list of offsets inside the reply: it is followed forwards only, so it ends.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{FDS_MAX, Malformed, wire};

/// Index of the configuration space region of a PCI device; BARs are 0 to 5.
pub const PCI_CONFIG_REGION: u32 = 7;
/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub const PCI_REGION_COUNT: u32 = 9;
/// Index of the INTx interrupt of a PCI device.
pub const PCI_INTX_IRQ: u32 = 0;
/// Index of the MSI-X interrupts of a PCI device.
pub const PCI_MSIX_IRQ: u32 = 2;
/// Interrupt indices of a PCI device: INTx, MSI, MSI-X, error, request.
pub const PCI_IRQ_COUNT: u32 = 5;

/// Body of `DEVICE_GET_INFO` and of its reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceInfo {
    /// In a request the most bytes of reply body, in a reply its length.
    pub argsz: U32,
    /// [`DeviceInfo::RESET`], [`DeviceInfo::PCI`].
    pub flags: U32,
    /// How many regions.
    pub num_regions: U32,
    /// How many interrupt indices.
    pub num_irqs: U32,
}

const _: () = assert!(size_of::<DeviceInfo>() == 16);

impl DeviceInfo {
    /// The device can be reset.
    pub const RESET: u32 = 1 << 0;
    /// It is a PCI device.
    pub const PCI: u32 = 1 << 1;

    /// The body of a client's request: only `argsz` is set.
    #[must_use]
    pub fn request() -> Self {
        Self { argsz: len_of::<Self>(), flags: 0.into(), num_regions: 0.into(), num_irqs: 0.into() }
    }

    /// The reply of a PCI device that can be reset.
    #[must_use]
    pub fn pci() -> Self {
        let flags = (Self::RESET | Self::PCI).into();
        Self {
            flags,
            num_regions: PCI_REGION_COUNT.into(),
            num_irqs: PCI_IRQ_COUNT.into(),
            ..Self::request()
        }
    }

    /// Takes a request apart.
    ///
    /// # Errors
    /// If the client takes less than the reply's length.
    pub fn decode_request(body: &[u8]) -> Result<Self, Malformed> {
        let info: Self = wire::with_room("DEVICE_GET_INFO", body)?;
        room::<Self>("DEVICE_GET_INFO", info.argsz)?;
        Ok(info)
    }

    /// Takes a reply apart: the client's side. Later versions may append fields.
    ///
    /// # Errors
    /// If it is not a PCI device with all of a PCI device's regions, or the numbers are beyond any device's.
    pub fn decode_pci(body: &[u8]) -> Result<Self, Malformed> {
        const NAME: &str = "DEVICE_GET_INFO reply";
        let (info, _): (Self, _) = wire::split(NAME, body)?;
        if info.flags.get() & Self::PCI == 0 {
            return Err(Malformed::new(NAME, "it is not a PCI device", info.flags.get()));
        }
        let regions = info.num_regions.get();
        if !(PCI_CONFIG_REGION + 1..=REGIONS_MAX).contains(&regions) {
            return Err(Malformed::new(NAME, "the number of regions is out of range", regions));
        }
        let irqs = info.num_irqs.get();
        if !(PCI_MSIX_IRQ + 1..=IRQS_MAX).contains(&irqs) {
            return Err(Malformed::new(NAME, "the number of interrupt indices is out of range", irqs));
        }
        Ok(info)
    }
}

/// The most regions a device may claim to have: 9 standard ones and some of its own.
const REGIONS_MAX: u32 = 64;
/// The most interrupt indices a device may claim to have.
const IRQS_MAX: u32 = 16;

fn len_of<T>() -> U32 {
    U32::new(u32::try_from(size_of::<T>()).unwrap_or(u32::MAX))
}

fn room<T>(name: &'static str, argsz: U32) -> Result<(), Malformed> {
    if argsz >= len_of::<T>() {
        Ok(())
    } else {
        Err(Malformed::new(name, "argsz leaves no room for the reply", argsz.get()))
    }
}

/// Body of `DEVICE_GET_REGION_INFO` and of its reply; capabilities may follow in the reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RegionInfo {
    /// In a request the most bytes of reply body, in a reply the length it needs with its capabilities.
    pub argsz: U32,
    /// [`RegionInfo::READ`] and following.
    pub flags: U32,
    /// Which region.
    pub index: U32,
    /// Where the first capability is, from the structure's beginning; 0 for none.
    pub cap_offset: U32,
    /// The region's length in bytes; 0 if it does not exist.
    pub size: U64,
    /// The offset to map it at.
    pub offset: U64,
}

const _: () = assert!(size_of::<RegionInfo>() == 32);

impl RegionInfo {
    /// It can be read.
    pub const READ: u32 = 1 << 0;
    /// It can be written.
    pub const WRITE: u32 = 1 << 1;
    /// It can be mapped, in whole or as its sparse capability says.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;

    /// The request for region `index`.
    #[must_use]
    pub fn request(index: u32) -> Self {
        Self::request_with_room(index, REGION_INFO_ROOM)
    }

    /// The request for a description of region `index` of up to `argsz` bytes, because a first one had no room for its
    /// capabilities; [`REGION_INFO_LEN_MAX`] at most.
    #[must_use]
    pub fn request_with_room(index: u32, argsz: u32) -> Self {
        let argsz = U32::new(argsz.min(REGION_INFO_LEN_MAX));
        Self {
            argsz,
            flags: 0.into(),
            index: index.into(),
            cap_offset: 0.into(),
            size: 0.into(),
            offset: 0.into(),
        }
    }

    /// Takes a request apart.
    ///
    /// # Errors
    /// If the client takes less than the structure's length.
    pub fn decode_request(body: &[u8]) -> Result<Self, Malformed> {
        let info: Self = wire::with_room("DEVICE_GET_REGION_INFO", body)?;
        room::<Self>("DEVICE_GET_REGION_INFO", info.argsz)?;
        Ok(info)
    }
}

/// The longest description of a region that we take: room for 4,096 areas that can be mapped.
pub const REGION_INFO_LEN_MAX: u32 = 32 + 16 + 4096 * 16;
/// How long a description we take unasked: room for 64 areas.
const REGION_INFO_ROOM: u32 = 32 + 16 + 64 * 16;
/// The most capabilities of one region: the kernel has three kinds.
const REGION_CAPS_MAX: usize = 16;

/// A part of a region that can be mapped.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SparseArea {
    /// From the region's beginning.
    pub offset: U64,
    /// In bytes.
    pub size: U64,
}

/// A region as a reply describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDescription {
    /// The fixed part.
    pub info: RegionInfo,
    /// The parts that can be mapped; `None` if the reply does not divide the region.
    pub sparse: Option<Vec<SparseArea>>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct CapHeader {
    id: U16,
    version: U16,
    next: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SparseHeader {
    cap: CapHeader,
    area_count: U32,
    reserved: U32,
}

const CAP_SPARSE_MMAP: u16 = 1;

impl RegionDescription {
    /// The reply to a request with room for `argsz` bytes: without its capabilities if they do not fit.
    #[must_use]
    pub fn encode(&self, argsz: u32) -> Vec<u8> {
        let mut info = self.info;
        let mut caps = Vec::new();
        if let Some(areas) = &self.sparse {
            let cap = CapHeader { id: CAP_SPARSE_MMAP.into(), version: 1.into(), next: 0.into() };
            let area_count = u32::try_from(areas.len()).unwrap_or(u32::MAX).into();
            caps.extend_from_slice(SparseHeader { cap, area_count, reserved: 0.into() }.as_bytes());
            caps.extend_from_slice(areas.as_bytes());
            info.flags |= U32::new(RegionInfo::CAPS);
        }
        let fixed_len = size_of::<RegionInfo>();
        let needed = u32::try_from(fixed_len + caps.len()).unwrap_or(u32::MAX);
        info.argsz = needed.into();
        if needed > argsz {
            caps.clear();
        }
        info.cap_offset = if caps.is_empty() { 0.into() } else { len_of::<RegionInfo>() };
        let mut body = info.as_bytes().to_vec();
        body.extend_from_slice(&caps);
        body
    }

    /// Takes the reply about region `index` apart: the client's side.
    ///
    /// # Errors
    /// If it is about another region, its capabilities are out of place, or an area is not inside the region.
    pub fn decode(body: &[u8], index: u32) -> Result<Self, Malformed> {
        const NAME: &str = "DEVICE_GET_REGION_INFO reply";
        let (info, _): (RegionInfo, _) = wire::split(NAME, body)?;
        if u32::try_from(body.len()).is_ok_and(|len| len > REGION_INFO_LEN_MAX) {
            return Err(Malformed::new(NAME, "it is longer than any that is asked for", body.len()));
        }
        if info.index.get() != index {
            return Err(Malformed::new(NAME, "it is about another region", info.index.get()));
        }
        if info.offset.get().checked_add(info.size.get()).is_none() {
            return Err(Malformed::new(NAME, "offset and size wrap around", info.size.get()));
        }
        let mut sparse = None;
        let mut at = if info.flags.get() & RegionInfo::CAPS == 0 { 0 } else { info.cap_offset.get() };
        let mut least = len_of::<RegionInfo>().get();
        let mut caps = 0..REGION_CAPS_MAX;
        while at != 0 {
            if caps.next().is_none() {
                return Err(Malformed::new(NAME, "there are too many capabilities", at));
            }
            // Forwards only: a chain with a loop in it does not exist.
            if at < least {
                return Err(Malformed::new(NAME, "a capability's offset leads backwards", at));
            }
            let bytes = usize::try_from(at).ok().and_then(|at| body.get(at..)).unwrap_or_default();
            let (cap, _): (CapHeader, _) = wire::split(NAME, bytes)?;
            if cap.id == CAP_SPARSE_MMAP && sparse.is_some() {
                return Err(Malformed::new(NAME, "it divides the region twice", at));
            }
            if cap.id == CAP_SPARSE_MMAP {
                sparse = Some(sparse_areas(bytes, info.size.get())?);
            }
            least = at.saturating_add(len_of::<CapHeader>().get());
            at = cap.next.get();
        }
        Ok(Self { info, sparse })
    }
}

fn sparse_areas(bytes: &[u8], region_len: u64) -> Result<Vec<SparseArea>, Malformed> {
    const NAME: &str = "sparse mmap capability";
    let (header, rest): (SparseHeader, _) = wire::split(NAME, bytes)?;
    let count = header.area_count.get();
    let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(size_of::<SparseArea>()));
    let areas =
        len.and_then(|len| rest.get(..len)).and_then(|bytes| <[SparseArea]>::ref_from_bytes(bytes).ok());
    let areas = areas.ok_or(Malformed::new(NAME, "the number of areas is not what came", count))?;
    for area in areas {
        let end = area.offset.get().checked_add(area.size.get());
        if end.is_none_or(|end| end > region_len) {
            return Err(Malformed::new(NAME, "an area is outside its region", area.offset.get()));
        }
    }
    Ok(areas.to_vec())
}

/// Body of `DEVICE_GET_IRQ_INFO` and of its reply.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IrqInfo {
    /// In a request the most bytes of reply body, in a reply its length.
    pub argsz: U32,
    /// [`IrqInfo::EVENTFD`] and following.
    pub flags: U32,
    /// Which interrupt index.
    pub index: U32,
    /// How many interrupts it has.
    pub count: U32,
}

const _: () = assert!(size_of::<IrqInfo>() == 16);

/// The most interrupts of one index: an MSI-X table's.
const IRQ_COUNT_MAX: u32 = 2048;

impl IrqInfo {
    /// Signalled by eventfds.
    pub const EVENTFD: u32 = 1 << 0;
    /// Can be masked by `DEVICE_SET_IRQS`.
    pub const MASKABLE: u32 = 1 << 1;
    /// Masks itself when signalled.
    pub const AUTOMASKED: u32 = 1 << 2;

    /// The request for `index`, or a reply about it.
    #[must_use]
    pub fn new(index: u32, flags: u32, count: u32) -> Self {
        Self { argsz: len_of::<Self>(), flags: flags.into(), index: index.into(), count: count.into() }
    }

    /// Takes a request apart.
    ///
    /// # Errors
    /// If the client takes less than the reply's length.
    pub fn decode_request(body: &[u8]) -> Result<Self, Malformed> {
        let info: Self = wire::with_room("DEVICE_GET_IRQ_INFO", body)?;
        room::<Self>("DEVICE_GET_IRQ_INFO", info.argsz)?;
        Ok(info)
    }

    /// Takes the reply about `index` apart: the client's side.
    ///
    /// # Errors
    /// If it is about another index, or has more interrupts than can be.
    pub fn decode(body: &[u8], index: u32) -> Result<Self, Malformed> {
        const NAME: &str = "DEVICE_GET_IRQ_INFO reply";
        let (info, _): (Self, _) = wire::split(NAME, body)?;
        if info.index.get() != index {
            return Err(Malformed::new(NAME, "it is about another index", info.index.get()));
        }
        if info.count.get() > IRQ_COUNT_MAX {
            return Err(Malformed::new(NAME, "more interrupts than can be", info.count.get()));
        }
        Ok(info)
    }
}

/// The beginning of `DEVICE_SET_IRQS`; booleans may follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IrqSet {
    /// The length of this structure and its data.
    pub argsz: U32,
    /// One of the data flags and one of the action flags.
    pub flags: U32,
    /// Which interrupt index.
    pub index: U32,
    /// The first interrupt.
    pub start: U32,
    /// How many.
    pub count: U32,
}

const _: () = assert!(size_of::<IrqSet>() == 20);

/// What comes with a `DEVICE_SET_IRQS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: the action is done for every interrupt of the range.
    None,
    /// One byte per interrupt: the action is done where it is not 0.
    Bool(&'a [u8]),
    /// One eventfd per interrupt; or none at all, which disconnects the range.
    Eventfd,
}

/// What `DEVICE_SET_IRQS` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// Holds the interrupts back.
    Mask,
    /// Lets masked interrupts through again.
    Unmask,
    /// Connects eventfds, or triggers.
    Trigger,
}

impl IrqSet {
    /// Nothing comes along.
    pub const DATA_NONE: u32 = 1 << 0;
    /// Booleans come along.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// Eventfds come along.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// The flag of [`IrqAction::Mask`].
    pub const ACTION_MASK: u32 = 1 << 3;
    /// The flag of [`IrqAction::Unmask`].
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Trigger, or connect.
    pub const ACTION_TRIGGER: u32 = 1 << 5;

    /// A request without data bytes.
    #[must_use]
    pub fn new(index: u32, flags: u32, start: u32, count: u32) -> Self {
        let argsz = len_of::<Self>();
        Self { argsz, flags: flags.into(), index: index.into(), start: start.into(), count: count.into() }
    }

    /// Takes a request apart. `fds` is how many came with it.
    ///
    /// # Errors
    /// If the flags are not one of each kind, the range is beyond any device's, or data and fds are not as many
    /// as the range has interrupts.
    pub fn decode(body: &[u8], fds: usize) -> Result<(Self, IrqData<'_>, IrqAction), Malformed> {
        const NAME: &str = "DEVICE_SET_IRQS";
        let (set, rest): (Self, _) = wire::split(NAME, body)?;
        let (flags, start, count) = (set.flags.get(), set.start.get(), set.count.get());
        if start.checked_add(count).is_none_or(|end| end > IRQ_COUNT_MAX) {
            return Err(Malformed::new(NAME, "the range is beyond any device's", start));
        }
        let action = match flags & !(Self::DATA_NONE | Self::DATA_BOOL | Self::DATA_EVENTFD) {
            Self::ACTION_MASK => IrqAction::Mask,
            Self::ACTION_UNMASK => IrqAction::Unmask,
            Self::ACTION_TRIGGER => IrqAction::Trigger,
            _ => return Err(Malformed::new(NAME, "the flags have not exactly one action", flags)),
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        wire::room(NAME, rest)?;
        let data = match flags & (Self::DATA_NONE | Self::DATA_BOOL | Self::DATA_EVENTFD) {
            Self::DATA_NONE => IrqData::None,
            Self::DATA_BOOL if rest.len() == count => IrqData::Bool(rest),
            Self::DATA_EVENTFD => IrqData::Eventfd,
            _ => return Err(Malformed::new(NAME, "the data is not what the flags say", rest.len())),
        };
        let fds_fit = match data {
            IrqData::Eventfd => fds == 0 || (fds == count && fds <= FDS_MAX),
            IrqData::None | IrqData::Bool(_) => fds == 0,
        };
        if !fds_fit {
            return Err(Malformed::new(NAME, "the number of fds is not that of the interrupts", fds));
        }
        Ok((set, data, action))
    }
}
