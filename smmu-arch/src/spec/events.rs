// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Event records: 32-byte entries of the Event queue, one constructor per type. IHI 0070 §7.3.
//!
//! A constructor takes exactly what its record reports, so a record cannot be built with a field its type
//! does not have. F_BAD_ATS_TREQ and E_PAGE_REQUEST have no constructor: only ATS and PRI raise them.

use super::open_enum;
use crate::addr::{StreamId, SubstreamId};
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// Event number (§7.3), bits 7:0.
    EventType: u8 {
        /// §7.3.2
        F_UUT = 0x01,
        /// §7.3.3
        C_BAD_STREAMID = 0x02,
        /// §7.3.4
        F_STE_FETCH = 0x03,
        /// §7.3.5
        C_BAD_STE = 0x04,
        /// §7.3.6
        F_BAD_ATS_TREQ = 0x05,
        /// §7.3.7
        F_STREAM_DISABLED = 0x06,
        /// §7.3.8
        F_TRANSL_FORBIDDEN = 0x07,
        /// §7.3.9
        C_BAD_SUBSTREAMID = 0x08,
        /// §7.3.10
        F_CD_FETCH = 0x09,
        /// §7.3.11
        C_BAD_CD = 0x0a,
        /// §7.3.12
        F_WALK_EABT = 0x0b,
        /// §7.3.13
        F_TRANSLATION = 0x10,
        /// §7.3.14
        F_ADDR_SIZE = 0x11,
        /// §7.3.15
        F_ACCESS = 0x12,
        /// §7.3.16
        F_PERMISSION = 0x13,
        /// §7.3.17
        F_TLB_CONFLICT = 0x20,
        /// §7.3.18
        F_CFG_CONFLICT = 0x21,
        /// §7.3.19
        E_PAGE_REQUEST = 0x24,
        /// §7.3.20
        F_VMS_FETCH = 0x25,
    }
}

open_enum! {
    /// CLASS: which operation caused the fault.
    FaultClass: u8 {
        /// Fetching a CD.
        Cd = 0,
        /// Fetching a stage 1 translation table descriptor.
        Ttd = 1,
        /// The input address itself.
        In = 2,
    }
}

/// Bits 63:0: StreamID, SubstreamID, and the type of the event.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventQw0 {
    /// What happened.
    #[bits(8)]
    pub event_type: EventType,
    #[bits(3)]
    __: u8,
    /// The SubstreamID is valid.
    pub ssv: bool,
    /// SubstreamID.
    #[bits(20)]
    pub substream_id: u32,
    /// StreamID.
    #[bits(32)]
    pub stream_id: u32,
}

/// Bits 127:64: how.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventQw1 {
    /// STAG of a stalled transaction, or Reason of a fetch abort.
    #[bits(16)]
    pub stag_or_reason: u16,
    #[bits(15)]
    __: u16,
    /// The transaction is stalled.
    pub stall: bool,
    __: bool,
    /// Privileged.
    pub pnu: bool,
    /// Instruction.
    pub ind: bool,
    /// Read.
    pub rnw: bool,
    /// Secure only.
    pub nsipa: bool,
    #[bits(2)]
    __: u8,
    /// Stage 2 fault.
    pub s2: bool,
    /// Which operation.
    #[bits(2)]
    pub class: FaultClass,
    #[bits(2)]
    __: u8,
    /// Stage 1 walk access was a read; only with S2.
    pub ttrnw: bool,
    #[bits(19)]
    __: u32,
}

/// An entry of the Event queue, 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventRecord {
    /// Bits 63:0.
    pub qw0: EventQw0,
    /// Bits 127:64.
    pub qw1: EventQw1,
    /// Bits 191:128: input address.
    pub input_address: u64,
    /// Bits 255:192: IPA or address of the aborted fetch.
    pub second_address: u64,
}

/// Bytes of an event record.
pub const EVENT_LEN: u64 = 32;
const _: () = assert!(size_of::<EventRecord>() as u64 == EVENT_LEN);

/// The stream, and the substream, of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requester {
    /// StreamID of the device.
    pub stream: StreamId,
    /// The substream, when the transaction carried one.
    pub substream: Option<SubstreamId>,
}

/// What the transaction asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputAccess {
    /// The address as it arrived, top byte included.
    pub address: u64,
    /// Read, not write.
    pub read: bool,
    /// Instruction fetch, not data. Only meaningful with a read.
    pub instruction: bool,
    /// Privileged, not unprivileged.
    pub privileged: bool,
}

impl InputAccess {
    fn qw1(&self) -> EventQw1 {
        // InD is 0 whenever RnW is 0 (§7.3.12 and on).
        EventQw1::new().with_rnw(self.read).with_ind(self.instruction && self.read).with_pnu(self.privileged)
    }
}

impl EventRecord {
    fn of(event_type: EventType, requester: Requester) -> EventRecord {
        let ssid = requester.substream.map_or(0, |substream| substream.0);
        let qw0 = EventQw0::new()
            .with_event_type(event_type)
            .with_ssv(requester.substream.is_some())
            .with_substream_id(ssid & 0xf_ffff)
            .with_stream_id(requester.stream.0);
        EventRecord { qw0, ..EventRecord::default() }
    }

    fn with_access(self, access: InputAccess) -> EventRecord {
        EventRecord { qw1: access.qw1(), input_address: access.address, ..self }
    }

    /// A stage 1 fault caused by the input address: CLASS is IN, S2 is 0, IPA is not reported.
    fn stage1(event_type: EventType, requester: Requester, access: InputAccess) -> EventRecord {
        let record = Self::of(event_type, requester).with_access(access);
        EventRecord { qw1: record.qw1.with_class(FaultClass::In), ..record }
    }

    /// §7.3.3: no STE can be reached for the StreamID.
    pub fn c_bad_streamid(requester: Requester) -> EventRecord {
        Self::of(EventType::C_BAD_STREAMID, requester)
    }

    /// §7.3.4: fetching the STE, or the L1STD before it, aborted at `fetch_address`.
    pub fn f_ste_fetch(requester: Requester, fetch_address: u64) -> EventRecord {
        EventRecord { second_address: fetch_address, ..Self::of(EventType::F_STE_FETCH, requester) }
    }

    /// §7.3.5: the STE is invalid or ILLEGAL.
    pub fn c_bad_ste(requester: Requester) -> EventRecord {
        Self::of(EventType::C_BAD_STE, requester)
    }

    /// §7.3.7: the stream does not admit this kind of substream use.
    pub fn f_stream_disabled(requester: Requester) -> EventRecord {
        // This record has no SSV and no SubstreamID.
        Self::of(EventType::F_STREAM_DISABLED, Requester { substream: None, ..requester })
    }

    /// §7.3.9: the substream does not exist. The record always has a SubstreamID and no SSV.
    pub fn c_bad_substreamid(stream: StreamId, substream: SubstreamId) -> EventRecord {
        let record = Self::of(EventType::C_BAD_SUBSTREAMID, Requester { stream, substream: Some(substream) });
        EventRecord { qw0: record.qw0.with_ssv(false), ..record }
    }

    /// §7.3.10: fetching the CD, or the L1CD before it, aborted at `fetch_address`.
    pub fn f_cd_fetch(requester: Requester, fetch_address: u64) -> EventRecord {
        EventRecord { second_address: fetch_address, ..Self::of(EventType::F_CD_FETCH, requester) }
    }

    /// §7.3.11: the CD is invalid or ILLEGAL.
    pub fn c_bad_cd(requester: Requester) -> EventRecord {
        Self::of(EventType::C_BAD_CD, requester)
    }

    /// §7.3.12: a stage 1 table walk aborted at `fetch_address`.
    pub fn f_walk_eabt(requester: Requester, access: InputAccess, fetch_address: u64) -> EventRecord {
        let record = Self::of(EventType::F_WALK_EABT, requester).with_access(access);
        EventRecord { qw1: record.qw1.with_class(FaultClass::Ttd), second_address: fetch_address, ..record }
    }

    /// §7.3.13: no translation at stage 1.
    pub fn f_translation(requester: Requester, access: InputAccess) -> EventRecord {
        Self::stage1(EventType::F_TRANSLATION, requester, access)
    }

    /// §7.3.14: an output address too large at stage 1.
    pub fn f_addr_size(requester: Requester, access: InputAccess) -> EventRecord {
        Self::stage1(EventType::F_ADDR_SIZE, requester, access)
    }

    /// §7.3.15: access flag clear at stage 1.
    pub fn f_access(requester: Requester, access: InputAccess) -> EventRecord {
        Self::stage1(EventType::F_ACCESS, requester, access)
    }

    /// §7.3.16: permission fault at stage 1.
    pub fn f_permission(requester: Requester, access: InputAccess) -> EventRecord {
        Self::stage1(EventType::F_PERMISSION, requester, access)
    }
}
