// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Identify data structures, NVMe 1.4 section 5.15.2.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The length of every Identify data structure.
pub const IDENTIFY_LEN: usize = 4096;

/// `CNS` values.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod cns {
    pub const NAMESPACE: u8 = 0x00;
    pub const CONTROLLER: u8 = 0x01;
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
}

/// Identify Controller, figure 247.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct Controller {
    pub vid: U16,
    pub ssvid: U16,
    pub sn: [u8; 20],
    pub mn: [u8; 40],
    pub fr: [u8; 8],
    pub rab: u8,
    pub ieee: [u8; 3],
    pub cmic: u8,
    pub mdts: u8,
    pub cntlid: U16,
    pub ver: U32,
    pub rtd3r: U32,
    pub rtd3e: U32,
    pub oaes: U32,
    pub ctratt: U32,
    pub rrls: U16,
    reserved_102: [u8; 9],
    pub cntrltype: u8,
    pub fguid: [u8; 16],
    reserved_128: [u8; 128],
    pub oacs: U16,
    pub acl: u8,
    pub aerl: u8,
    pub frmw: u8,
    pub lpa: u8,
    pub elpe: u8,
    pub npss: u8,
    pub avscc: u8,
    pub apsta: u8,
    pub wctemp: U16,
    pub cctemp: U16,
    reserved_270: [u8; 10],
    pub tnvmcap: U128,
    pub unvmcap: U128,
    reserved_312: [u8; 200],
    pub sqes: u8,
    pub cqes: u8,
    pub maxcmd: U16,
    pub nn: U32,
    pub oncs: U16,
    pub fuses: U16,
    pub fna: u8,
    pub vwc: u8,
    pub awun: U16,
    pub awupf: U16,
    pub nvscc: u8,
    pub nwpc: u8,
    pub acwu: U16,
    reserved_534: U16,
    pub sgls: U32,
    pub mnan: U32,
    reserved_544: [u8; 224],
    pub subnqn: [u8; 256],
    reserved_1024: [u8; 1024],
    pub psd: [PowerState; 32],
    vendor: [u8; 1024],
}

const _: () = assert!(size_of::<Controller>() == IDENTIFY_LEN);
const _: () = assert!(core::mem::offset_of!(Controller, oacs) == 256);
const _: () = assert!(core::mem::offset_of!(Controller, sqes) == 512);
const _: () = assert!(core::mem::offset_of!(Controller, subnqn) == 768);

/// A power state descriptor, figure 248; only what is used is named.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct PowerState {
    /// Maximum power in centiwatts.
    pub mp: U16,
    reserved: [u8; 30],
}

const _: () = assert!(size_of::<PowerState>() == 32);

/// Identify Namespace, figure 245.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct Namespace {
    pub nsze: U64,
    pub ncap: U64,
    pub nuse: U64,
    pub nsfeat: u8,
    pub nlbaf: u8,
    pub flbas: u8,
    pub mc: u8,
    pub dpc: u8,
    pub dps: u8,
    pub nmic: u8,
    pub rescap: u8,
    pub fpi: u8,
    pub dlfeat: u8,
    pub nawun: U16,
    pub nawupf: U16,
    pub nacwu: U16,
    pub nabsn: U16,
    pub nabo: U16,
    pub nabspf: U16,
    pub noiob: U16,
    pub nvmcap: U128,
    reserved_64: [u8; 35],
    pub nsattr: u8,
    reserved_100: [u8; 4],
    pub nguid: [u8; 16],
    pub eui64: [u8; 8],
    pub lbaf: [LbaFormat; 16],
    reserved_192: [u8; 192],
    vendor: [u8; 3712],
}

const _: () = assert!(size_of::<Namespace>() == IDENTIFY_LEN);
const _: () = assert!(core::mem::offset_of!(Namespace, nguid) == 104);

/// A block format, figure 246.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct LbaFormat {
    /// Bytes of metadata.
    pub ms: U16,
    /// Block length as a power of two.
    pub lbads: u8,
    /// Relative performance.
    pub rp: u8,
}

/// Header of a namespace identification descriptor, figure 251.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct DescriptorHeader {
    /// 2: NGUID, 3: UUID.
    pub nidt: u8,
    /// Its length.
    pub nidl: u8,
    /// Zero.
    pub reserved: U16,
}

/// Fills a field of ASCII text up with spaces.
#[must_use]
pub fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (cell, byte) in field.iter_mut().zip(text.bytes().filter(|byte| (0x20..0x7f).contains(byte))) {
        *cell = byte;
    }
    field
}
