// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Identification registers: what an SMMU says it can do. IHI 0070 §6.3.1 to §6.3.8.

use super::open_enum;
use bitfield_struct::bitfield;

open_enum! {
    /// IDR0.TTF: translation table formats.
    TranslationTableFormat: u8 {
        /// VMSAv8-32 LPAE only.
        AArch32 = 1,
        /// VMSAv8-64.
        AArch64 = 2,
        /// VMSAv8-32 LPAE and VMSAv8-64.
        Both = 3,
    }
}

open_enum! {
    /// IDR0.TTENDIAN: endianness of translation tables.
    TableEndianness: u8 {
        /// Chosen per context.
        Mixed = 0,
        /// Little-endian only.
        Little = 2,
        /// Big-endian only.
        Big = 3,
    }
}

open_enum! {
    /// IDR0.STALL_MODEL.
    StallModel: u8 {
        /// Stall and terminate both supported.
        StallAndTerminate = 0,
        /// Faults terminate the transaction.
        TerminateOnly = 1,
        /// Faults always stall.
        StallForced = 2,
    }
}

open_enum! {
    /// IDR0.ST_LEVEL: stream table formats.
    StreamTableLevels: u8 {
        /// Linear tables only.
        Linear = 0,
        /// Linear and 2-level tables.
        TwoLevel = 1,
    }
}

open_enum! {
    /// An address size as IDR5.OAS and CD.IPS encode it.
    AddressSize: u8 {
        /// 4 GiB.
        Bits32 = 0,
        /// 64 GiB.
        Bits36 = 1,
        /// 1 TiB.
        Bits40 = 2,
        /// 4 TiB.
        Bits42 = 3,
        /// 16 TiB.
        Bits44 = 4,
        /// 256 TiB.
        Bits48 = 5,
        /// 4 PiB.
        Bits52 = 6,
        /// 64 PiB.
        Bits56 = 7,
    }
}

impl AddressSize {
    /// Number of address bits.
    pub const fn bits(self) -> u32 {
        match self.0 & 7 {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => 56,
        }
    }
}

/// §6.3.1
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr0 {
    /// Stage 2 translation supported.
    pub s2p: bool,
    /// Stage 1 translation supported.
    pub s1p: bool,
    /// Translation table formats.
    #[bits(2)]
    pub ttf: TranslationTableFormat,
    /// Coherent access to tables and queues.
    pub cohacc: bool,
    /// Broadcast TLB maintenance.
    pub btm: bool,
    /// Hardware update of access flag and dirty state.
    #[bits(2)]
    pub httu: u8,
    /// Dormant hint.
    pub dormhint: bool,
    /// EL2 stream worlds.
    pub hyp: bool,
    /// PCIe ATS.
    pub ats: bool,
    /// Split-stage ATS not supported.
    pub ns1ats: bool,
    /// 16-bit ASIDs.
    pub asid16: bool,
    /// Message signalled interrupts.
    pub msi: bool,
    /// Wake-up events.
    pub sev: bool,
    /// Address translation operations.
    pub atos: bool,
    /// Page request interface.
    pub pri: bool,
    /// VMID wildcard.
    pub vmw: bool,
    /// 16-bit VMIDs.
    pub vmid16: bool,
    /// 2-level context descriptor tables.
    pub cd2l: bool,
    /// Virtual ATOS page.
    pub vatos: bool,
    /// Endianness of tables.
    #[bits(2)]
    pub ttendian: TableEndianness,
    /// Extended recording of ATS errors.
    pub atsrecerr: bool,
    /// STALL_MODEL: whether faults may stall transactions.
    #[bits(2)]
    pub stall_model: StallModel,
    /// Terminated transactions always abort.
    pub term_model: bool,
    /// Stream table formats.
    #[bits(2)]
    pub st_level: StreamTableLevels,
    __: bool,
    /// Realm Management Extension.
    pub rme_impl: bool,
    __: bool,
}

/// §6.3.2
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr1 {
    /// StreamID bits.
    #[bits(6)]
    pub sidsize: u8,
    /// SubstreamID bits.
    #[bits(5)]
    pub ssidsize: u8,
    /// log2 of the largest PRI queue.
    #[bits(5)]
    pub priqs: u8,
    /// log2 of the largest Event queue.
    #[bits(5)]
    pub eventqs: u8,
    /// log2 of the largest Command queue.
    #[bits(5)]
    pub cmdqs: u8,
    /// Permission attributes can be overridden.
    pub attr_perms_ovr: bool,
    /// Type attributes can be overridden.
    pub attr_types_ovr: bool,
    /// Preset base addresses are relative.
    pub rel: bool,
    /// Queue base addresses are fixed.
    pub queues_preset: bool,
    /// Table base addresses are fixed.
    pub tables_preset: bool,
    /// Enhanced Command queues.
    pub ecmdq: bool,
}

/// §6.3.4
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr3 {
    #[bits(2)]
    __: u8,
    /// Hierarchical attributes can be disabled.
    pub had: bool,
    /// Page-based hardware attributes.
    pub pbha: bool,
    /// Separate privileged and unprivileged execute at stage 2.
    pub xnx: bool,
    /// PASID always supplied with page requests.
    pub pps: bool,
    __: bool,
    /// Memory partitioning.
    pub mpam: bool,
    /// Stage 2 forces write-back.
    pub fwb: bool,
    /// Small translation tables.
    pub stt: bool,
    /// Range invalidation and level hint.
    pub ril: bool,
    /// Behaviour on changes of block size.
    #[bits(2)]
    pub bbml: u8,
    /// E0PD.
    pub e0pd: bool,
    /// Walks treat Device mappings as Non-cacheable.
    pub ptwnnc: bool,
    /// Device permission table.
    pub dpt: bool,
    #[bits(16)]
    __: u32,
}

/// §6.3.6
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Idr5 {
    /// Output address size.
    #[bits(3)]
    pub oas: AddressSize,
    __: bool,
    /// 4 KiB granule.
    pub gran4k: bool,
    /// 16 KiB granule.
    pub gran16k: bool,
    /// 64 KiB granule.
    pub gran64k: bool,
    /// 52-bit addresses with small granules.
    pub ds: bool,
    /// 128-bit descriptors.
    pub d128: bool,
    __: bool,
    /// Virtual address extension.
    #[bits(2)]
    pub vax: u8,
    #[bits(4)]
    __: u8,
    /// Number of transactions that may stall.
    #[bits(16)]
    pub stall_max: u16,
}

/// §6.3.7
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Iidr {
    /// JEP106 code of the implementer.
    #[bits(12)]
    pub implementer: u16,
    /// Minor revision.
    #[bits(4)]
    pub revision: u8,
    /// Major revision.
    #[bits(4)]
    pub variant: u8,
    /// ProductID of the implementer.
    #[bits(12)]
    pub product_id: u16,
}

/// §6.3.8
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aidr {
    /// x in SMMUv3.x.
    #[bits(4)]
    pub arch_minor_rev: u8,
    /// 0: SMMUv3.
    #[bits(4)]
    pub arch_major_rev: u8,
    #[bits(24)]
    __: u32,
}
