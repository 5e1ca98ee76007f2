// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the host's SMMU supports the stage 1 features of the guest's vSMMU model.
//!
//! What a guest reads in its identification registers is fixed before boot and never derived from a host, so a host
//! that has less cannot run it with this device. Compared are the fields that `IOMMU_GET_HW_INFO` documents for that,
//! and the output address size; the stream table is walked by the vSMMU alone, so the host's limits on it do not
//! matter.

use core::fmt;

use smmu_arch::Model;
use smmu_arch::spec::id::{Idr0, Idr1, Idr3, Idr5, TableEndianness, TranslationTableFormat};

use super::sys::iommufd::SmmuInfo;

/// A field in which the host has less than the guest's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// As the manual names it: `IDR1.SSIDSIZE`.
    pub field: &'static str,
    /// What the guest reads.
    pub guest: u32,
    /// What the host has.
    pub host: u32,
    /// What to change in the guest's `[smmu]`, if something can be.
    pub advice: Option<&'static str>,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, guest, host, advice } = self;
        write!(f, "{field}: guest {guest}, host {host}")?;
        advice.map_or(Ok(()), |advice| write!(f, " ({advice})"))
    }
}

/// Every field in which `host` falls short of `model`; empty if the guest can use this host.
pub fn lacking(model: &Model, host: &SmmuInfo) -> Vec<Lacking> {
    let [idr0, idr1, _, idr3, _, idr5] = host.idr;
    let (host0, guest0) = (Idr0::from_bits(idr0), model.idr0());
    let (host1, guest1) = (Idr1::from_bits(idr1), model.idr1());
    let (host3, guest3) = (Idr3::from_bits(idr3), model.idr3());
    let (host5, guest5) = (Idr5::from_bits(idr5), model.idr5());
    let no_substreams = Some("set `ssidsize = 0`");
    let fewer_granules = Some("leave it out of `granules`");
    let bit = |bit: bool| u32::from(bit);
    let at_least = [
        ("IDR0.TTF[1]", bit(walks_aarch64(guest0)), bit(walks_aarch64(host0)), None),
        ("IDR0.ASID16", bit(guest0.asid16()), bit(host0.asid16()), None),
        ("IDR0.CD2L", bit(guest0.cd2l()), bit(host0.cd2l()), no_substreams),
        ("IDR0.TERM_MODEL", bit(guest0.term_model()), bit(host0.term_model()), None),
        ("IDR1.SSIDSIZE", guest1.ssidsize().into(), host1.ssidsize().into(), no_substreams),
        ("IDR3.BBML", guest3.bbml().into(), host3.bbml().into(), None),
        ("IDR3.RIL", bit(guest3.ril()), bit(host3.ril()), Some("set `ril = false`")),
        ("IDR5.OAS", guest5.oas().bits(), host5.oas().bits(), Some("set `oas` to the host's")),
        ("IDR5.GRAN4K", bit(guest5.gran4k()), bit(host5.gran4k()), fewer_granules),
        ("IDR5.GRAN16K", bit(guest5.gran16k()), bit(host5.gran16k()), fewer_granules),
        ("IDR5.GRAN64K", bit(guest5.gran64k()), bit(host5.gran64k()), fewer_granules),
        ("IDR5.VAX", guest5.vax().into(), host5.vax().into(), None),
    ];
    let short = at_least.into_iter().filter(|(_, guest, host, _)| guest > host);
    let mut found: Vec<Lacking> =
        short.map(|(field, guest, host, advice)| Lacking { field, guest, host, advice }).collect();
    if !reads_little_endian(host0) {
        let (guest, host) = (ttendian(guest0), ttendian(host0));
        found.push(Lacking { field: "IDR0.TTENDIAN", guest, host, advice: None });
    }
    found
}

fn walks_aarch64(idr0: Idr0) -> bool {
    matches!(idr0.ttf(), TranslationTableFormat::AArch64 | TranslationTableFormat::Both)
}

fn reads_little_endian(idr0: Idr0) -> bool {
    matches!(idr0.ttendian(), TableEndianness::Little | TableEndianness::Mixed)
}

fn ttendian(idr0: Idr0) -> u32 {
    u32::from(idr0.ttendian().0)
}

#[cfg(test)]
mod tests;
