// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The context descriptor table: which CD a transaction uses, and what it says. IHI 0070 §3.3.2, §5.3, §5.4.
//!
//! At most two fetches: an L1CD and a CD. A `Context` exists only if its CD is legal, so the walk has
//! nothing left to doubt: granule and sizes are ones it can walk, table addresses are in range.

use super::Fault;
use super::stream::{Stage1Stream, align_down};
use crate::addr::SubstreamId;
use crate::memory::{Memory, fetch};
use crate::model::{Granule, Model};
use crate::spec::cd::{CD_LEN, Cd, CdTtb, L1CD_LEN, L1Cd, Tg0, Tg1};
use crate::spec::events::{EventRecord, Requester};
use crate::spec::id::{StallModel, TableEndianness};
use crate::spec::ste::{ContextTableFormat, DefaultSubstream};

/// TxSZ without IDR3.STT and IDR5.VAX (§5.4, T0SZ).
const TXSZ: core::ops::RangeInclusive<u8> = 16..=39;

/// How a transaction of a stage 1 stream goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// Stage 1 is bypassed (STE.S1DSS).
    Bypass,
    /// By the CD at this index of the table.
    Context(u32),
}

/// A legal context descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The address space.
    pub asid: u16,
    /// Faults of the walk are recorded (CD.R).
    pub record: bool,
    /// Access flag faults are off.
    pub affd: bool,
    /// Writable is never executable.
    pub wxn: bool,
    /// Privileged data accesses may not touch unprivileged pages.
    pub pan: bool,
    /// Bits of an output address: IPS, at most OAS.
    pub effective_ips: u32,
    /// Under TTB0 and TTB1; `None` if the walk is disabled (EPDx).
    pub halves: [Option<Half>; 2],
}

/// One translation table and the addresses it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Half {
    /// Address of the first table, aligned to its size.
    pub table: u64,
    /// TG0 or TG1: the size of pages and tables.
    pub granule: Granule,
    /// Input address bits: 25 to 48.
    pub input_bits: u32,
    /// Address bits 63:56 are ignored.
    pub top_byte_ignored: bool,
    /// Hierarchical attributes are ignored.
    pub hierarchy_ignored: bool,
}

/// Which CD a transaction uses (§5.2, S1CDMax and S1DSS).
///
/// # Errors
/// C_BAD_SUBSTREAMID, or F_STREAM_DISABLED as S1DSS says.
pub fn select(stream: &Stage1Stream, requester: Requester) -> Result<Selection, Fault> {
    let disabled = || Fault::recorded(EventRecord::f_stream_disabled(requester));
    let enabled = stream.cd_max > 0;
    match (requester.substream, stream.default_substream) {
        (None, _) if !enabled => Ok(Selection::Context(0)),
        (None, DefaultSubstream::Bypass) => Ok(Selection::Bypass),
        (None, DefaultSubstream::UseSubstream0) => Ok(Selection::Context(0)),
        (None, _) => Err(disabled()),
        (Some(substream), _) if !enabled || u64::from(substream.0) >= 1 << stream.cd_max => {
            Err(Fault::recorded(EventRecord::c_bad_substreamid(requester.stream, substream)))
        }
        // CD 0 belongs to transactions without a substream.
        (Some(SubstreamId(0)), DefaultSubstream::UseSubstream0) => Err(disabled()),
        (Some(substream), _) => Ok(Selection::Context(substream.0)),
    }
}

/// Fetches the CD at `index`, which `select` found to be in the table.
///
/// # Errors
/// F_CD_FETCH where the table cannot be read, C_BAD_SUBSTREAMID for an L1CD that is not valid.
pub fn lookup(
    model: &Model,
    memory: &(impl Memory + ?Sized),
    stream: &Stage1Stream,
    index: u32,
    requester: Requester,
) -> Result<Cd, Fault> {
    let fetch_fault = |address| Fault::recorded(EventRecord::f_cd_fetch(requester, model.truncate(address)));
    let leaf_bits = match stream.format {
        ContextTableFormat::TwoLevel4K if stream.cd_max > 0 => Some(6),
        ContextTableFormat::TwoLevel64K if stream.cd_max > 0 => Some(10),
        _ => None,
    };
    let address = if let Some(leaf_bits) = leaf_bits {
        let l1_len = (L1CD_LEN << stream.cd_max.saturating_sub(leaf_bits)).max(64);
        let l1_address = align_down(stream.context_table, l1_len) + u64::from(index >> leaf_bits) * L1CD_LEN;
        let l1: L1Cd = fetch(memory, l1_address).map_err(|_| fetch_fault(l1_address))?;
        if !l1.v() || !model.in_range(l1.l2ptr()) {
            let substream = SubstreamId(index);
            return Err(Fault::recorded(EventRecord::c_bad_substreamid(requester.stream, substream)));
        }
        align_down(l1.l2ptr(), CD_LEN << leaf_bits) + u64::from(index & ((1 << leaf_bits) - 1)) * CD_LEN
    } else {
        align_down(stream.context_table, CD_LEN << stream.cd_max) + u64::from(index) * CD_LEN
    };
    fetch(memory, address).map_err(|_| fetch_fault(address))
}

/// Reads a CD, or finds it ILLEGAL (§5.4.2).
///
/// # Errors
/// C_BAD_CD.
pub fn check(model: &Model, cd: &Cd, requester: Requester) -> Result<Context, Fault> {
    legal(model, cd).ok_or(Fault::recorded(EventRecord::c_bad_cd(requester)))
}

fn legal(model: &Model, cd: &Cd) -> Option<Context> {
    let (idr0, qw0) = (model.idr0(), cd.qw0);
    let terminates = !idr0.term_model() || qw0.a();
    let stall_allowed = match idr0.stall_model() {
        StallModel::TerminateOnly => !qw0.s(),
        StallModel::StallForced => qw0.s(),
        _ => true,
    };
    let endianness = match idr0.ttendian() {
        TableEndianness::Little => !qw0.endi(),
        TableEndianness::Big => qw0.endi(),
        _ => true,
    };
    // Endianness of tables that are not walked does not matter.
    let endianness = endianness || (qw0.epd0() && qw0.epd1());
    // VMSAv8-64 is the only format there is; no hardware update of flags (IDR0.HTTU).
    let format = qw0.aa64() && !qw0.ha() && !qw0.hd();
    if !(qw0.v() && terminates && stall_allowed && endianness && format) {
        return None;
    }
    let granule0 = match qw0.tg0() {
        Tg0::Granule4K => Some(Granule::Size4K),
        Tg0::Granule16K => Some(Granule::Size16K),
        Tg0::Granule64K => Some(Granule::Size64K),
        _ => None,
    };
    let granule1 = match qw0.tg1() {
        Tg1::Granule4K => Some(Granule::Size4K),
        Tg1::Granule16K => Some(Granule::Size16K),
        Tg1::Granule64K => Some(Granule::Size64K),
        _ => None,
    };
    let effective_ips = qw0.ips().bits().min(model.oas());
    let half = |disabled: bool, txsz: u8, granule: Option<Granule>, ttb: CdTtb, tbi: bool| {
        if disabled {
            return Some(None);
        }
        let granule = granule.filter(|granule| model.supports(*granule))?;
        if !TXSZ.contains(&txsz) || ttb.ttb() >> effective_ips != 0 {
            return None;
        }
        let input_bits = 64 - u32::from(txsz);
        let first_table_len = 8 << (input_bits - super::walk::first_shift(granule, input_bits));
        Some(Some(Half {
            table: align_down(ttb.ttb(), first_table_len),
            granule,
            input_bits,
            top_byte_ignored: tbi,
            hierarchy_ignored: model.idr3().had() && ttb.had(),
        }))
    };
    Some(Context {
        asid: qw0.asid(),
        record: qw0.r(),
        affd: qw0.affd(),
        wxn: qw0.wxn(),
        pan: qw0.pan(),
        effective_ips,
        halves: [
            half(qw0.epd0(), qw0.t0sz(), granule0, cd.ttb0, qw0.tbi0())?,
            half(qw0.epd1(), qw0.t1sz(), granule1, cd.ttb1, qw0.tbi1())?,
        ],
    })
}
