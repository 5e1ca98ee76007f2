// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decoding of commands against a model, which finds illegal ones. IHI 0070 chapter 4.
//!
//! The one decoder of raw commands, used by the queue that consumes them and by the caches they apply to, so both
//! agree. Reserved fields are ignored (§4.1.5); an out-of-range StreamID, SubstreamID or address has no effect of its
//! own (§4.1.7). Hints that narrow an invalidation (Leaf, TTL) are kept, for a cache to use or to ignore:
//! invalidating more is always allowed.

use crate::addr::{StreamId, SubstreamId};
use crate::model::{Granule, Model};
use crate::spec::commands::{Command, ComplSignal, InvalidationGranule, Opcode};
use crate::spec::id::StallModel;

/// The command cannot be consumed: CERROR_ILL (§4.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Illegal;

/// A legal command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A hint that nothing needs to follow (CMD_PREFETCH_*).
    Hint,
    /// Configuration may have changed.
    Configuration(ConfigurationInvalidation),
    /// Translations may have changed.
    Translation(TranslationInvalidation),
    /// Wait for everything before, then signal.
    Sync(ComplSignal),
}

/// CMD_CFGI_* (§4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigurationInvalidation {
    /// The stream table entries of these streams, and all their context descriptors.
    Streams(StreamRange),
    /// One context descriptor.
    Context(StreamId, SubstreamId),
    /// Every context descriptor of a stream.
    Contexts(StreamId),
}

/// CMD_TLBI_* at stage 1 (§4.4.2, §4.4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TranslationInvalidation {
    /// Every translation.
    All,
    /// Every non-global translation of an address space.
    Asid(u16),
    /// Translations of addresses; with an ASID, only its own and global ones.
    Addresses(AddressRange, Option<u16>),
}

/// The addresses of an invalidation, and its hints about the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressRange {
    /// The lowest VA.
    pub first: u64,
    /// The highest VA: a range does not wrap.
    pub last: u64,
    /// Only entries of tables with this granule have to be invalidated.
    pub granule: Option<Granule>,
    /// Only entries of this level have to be invalidated.
    pub level: Option<u8>,
    /// Only last-level entries have to be invalidated.
    pub leaf: bool,
}

/// An inclusive range of StreamIDs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamRange {
    /// The lowest.
    pub first: StreamId,
    /// The highest.
    pub last: StreamId,
}

impl StreamRange {
    /// Every StreamID there can be.
    pub const ALL: StreamRange = StreamRange { first: StreamId(0), last: StreamId(u32::MAX) };

    /// One stream.
    pub const fn one(stream: StreamId) -> StreamRange {
        StreamRange { first: stream, last: stream }
    }

    /// CMD_CFGI_STE_RANGE: the aligned range of 2^(range+1) streams around `stream` (§4.3.2).
    pub const fn aligned(stream: StreamId, range: u8) -> StreamRange {
        let mask = if range >= 31 { u32::MAX } else { (2u32 << range) - 1 };
        StreamRange { first: StreamId(stream.0 & !mask), last: StreamId(stream.0 | mask) }
    }

    /// Whether the range includes a stream.
    pub const fn contains(&self, stream: StreamId) -> bool {
        self.first.0 <= stream.0 && stream.0 <= self.last.0
    }
}

/// Reads a command of the Non-secure queue of an SMMU of this model.
///
/// # Errors
/// If the command is not one that this model has, or is malformed: CERROR_ILL (§7.1).
pub fn decode(model: &Model, command: &Command) -> Result<Action, Illegal> {
    let idr0 = model.idr0();
    let stage1 = |action| if idr0.s1p() { Ok(action) } else { Err(Illegal) };
    match command.opcode() {
        Opcode::PrefetchConfig | Opcode::PrefetchAddr => non_secure(command, Action::Hint),
        Opcode::CfgiSte => {
            let streams = StreamRange::one(stream_of(command));
            non_secure(command, Action::Configuration(ConfigurationInvalidation::Streams(streams)))
        }
        Opcode::CfgiSteRange => {
            let streams = StreamRange::aligned(stream_of(command), command.cfgi_qw1().range());
            non_secure(command, Action::Configuration(ConfigurationInvalidation::Streams(streams)))
        }
        Opcode::CfgiCd => {
            let substream = SubstreamId(command.stream_qw0().substream_id());
            let context = ConfigurationInvalidation::Context(stream_of(command), substream);
            non_secure(command, Action::Configuration(context)).and_then(stage1)
        }
        Opcode::CfgiCdAll => {
            let contexts = ConfigurationInvalidation::Contexts(stream_of(command));
            non_secure(command, Action::Configuration(contexts)).and_then(stage1)
        }
        Opcode::TlbiNhAll => stage1(Action::Translation(TranslationInvalidation::All)),
        Opcode::TlbiNhAsid => {
            stage1(Action::Translation(TranslationInvalidation::Asid(command.tlbi_qw0().asid())))
        }
        Opcode::TlbiNhVa => {
            let asid = command.tlbi_qw0().asid();
            let addresses = TranslationInvalidation::Addresses(address_range(model, command)?, Some(asid));
            stage1(Action::Translation(addresses))
        }
        Opcode::TlbiNhVaa => {
            let addresses = TranslationInvalidation::Addresses(address_range(model, command)?, None);
            stage1(Action::Translation(addresses))
        }
        Opcode::TlbiNsnhAll => Ok(Action::Translation(TranslationInvalidation::All)),
        Opcode::Sync => match command.sync_qw0().cs() {
            signal @ (ComplSignal::None | ComplSignal::Irq | ComplSignal::Sev) => Ok(Action::Sync(signal)),
            _ => Err(Illegal),
        },
        Opcode::Resume | Opcode::StallTerm if idr0.stall_model() != StallModel::TerminateOnly => {
            non_secure(command, Action::Hint)
        }
        // ATS, PRI, EL2, stage 2, DPT and MPAM commands belong to features no profile of ours has, EL3
        // ones to the Secure queue; anything else is no opcode.
        _ => Err(Illegal),
    }
}

fn stream_of(command: &Command) -> StreamId {
    StreamId(command.stream_qw0().stream_id())
}

/// SSec is ILLEGAL on the Non-secure queue (§4.1.6).
fn non_secure(command: &Command, action: Action) -> Result<Action, Illegal> {
    if command.stream_qw0().ssec() { Err(Illegal) } else { Ok(action) }
}

/// The addresses of a TLB invalidation (§4.4.1.1). Without IDR3.RIL, and with TG zero, it is the one
/// address, and entries of any granule and level.
fn address_range(model: &Model, command: &Command) -> Result<AddressRange, Illegal> {
    let (qw0, qw1) = (command.tlbi_qw0(), command.tlbi_qw1());
    let first = qw1.address_63_12() << 12;
    let one = AddressRange { first, last: first | 0xfff, granule: None, level: None, leaf: qw1.leaf() };
    if !model.idr3().ril() {
        return Ok(one);
    }
    let granule = match qw1.tg() {
        InvalidationGranule::Granule4K => Granule::Size4K,
        InvalidationGranule::Granule16K => Granule::Size16K,
        InvalidationGranule::Granule64K => Granule::Size64K,
        _ => return Ok(one),
    };
    // A 16 KiB table has no level 1 leaf without IDR5.DS: the hint counts as none.
    let ttl = if granule == Granule::Size16K && qw1.ttl() == 1 { 0 } else { qw1.ttl() };
    if ttl == 0 && qw0.num() == 0 && qw0.scale() == 0 {
        return Err(Illegal);
    }
    // At most 32 * 2^31 * 2^16 bytes, which fits.
    let len = ((u64::from(qw0.num()) + 1) << qw0.scale()) << granule.bits();
    Ok(AddressRange {
        last: first.saturating_add(len - 1),
        granule: Some(granule),
        level: (ttl != 0).then_some(ttl),
        ..one
    })
}

#[cfg(test)]
mod tests;
