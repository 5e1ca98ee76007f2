// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stream table: find a stream's entry, and say what it asks for. IHI 0070 §3.3.1, §5.1, §5.2.
//!
//! At most two fetches: an L1STD and an STE. Whatever the tables hold, the outcome is one of abort,
//! bypass, stage 1, or an event.

use super::{Fault, Registers};
use crate::addr::StreamId;
use crate::memory::{Memory, fetch};
use crate::model::Model;
use crate::spec::events::{EventRecord, Requester};
use crate::spec::id::{StallModel, StreamTableLevels};
use crate::spec::ste::{ContextTableFormat, DefaultSubstream, L1STD_LEN, L1Std, STE_LEN, Ste, StreamConfig};
use crate::spec::tables::{StreamTableFormat, StrtabBase, StrtabBaseCfg};

/// L1STD.Span from here on is Reserved (§5.1).
const SPAN_RESERVED: u8 = 12;

/// What a valid stream table entry asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamAction {
    /// Terminate, record nothing.
    Abort,
    /// Pass untranslated.
    Bypass,
    /// Translate at stage 1.
    Stage1(Stage1Stream),
}

/// The part of an STE that stage 1 needs, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1Stream {
    /// The CD, or the table of CDs.
    pub context_table: u64,
    /// Its format; without substreams there is one CD.
    pub format: ContextTableFormat,
    /// log2 of the number of CDs; 0 without substreams.
    pub cd_max: u8,
    /// Transactions without a substream, if there are substreams.
    pub default_substream: DefaultSubstream,
}

/// Finds the action for a stream: `lookup`, then `check`.
///
/// # Errors
/// As [`lookup`] and [`check`].
pub fn action(
    model: &Model,
    registers: &Registers,
    memory: &(impl Memory + ?Sized),
    requester: Requester,
) -> Result<StreamAction, Fault> {
    check(model, &lookup(model, registers, memory, requester)?, requester)
}

/// Fetches the stream table entry of a stream.
///
/// # Errors
/// C_BAD_STREAMID (recorded only with CR2.RECINVSID) for a StreamID beyond the table, F_STE_FETCH where it cannot be
/// read.
pub fn lookup(
    model: &Model,
    registers: &Registers,
    memory: &(impl Memory + ?Sized),
    requester: Requester,
) -> Result<Ste, Fault> {
    let (base, config) = (registers.strtab_base, registers.strtab_base_cfg);
    let bad_stream = || {
        let recorded = registers.cr2.recinvsid();
        Fault { event: recorded.then(|| EventRecord::c_bad_streamid(requester)) }
    };
    let fetch_fault = |address| Fault::recorded(EventRecord::f_ste_fetch(requester, model.truncate(address)));

    let bits = config.log2size().min(model.idr1().sidsize());
    if u64::from(requester.stream.0) >= 1 << bits {
        return Err(bad_stream());
    }
    let two_level =
        config.fmt() == StreamTableFormat::TwoLevel && model.idr0().st_level() == StreamTableLevels::TwoLevel;
    let address = if two_level {
        let (l1_address, index) = l1_position(base, config, requester.stream);
        let l1: L1Std = fetch(memory, l1_address).map_err(|_| fetch_fault(l1_address))?;
        let span = l1.span();
        if span == 0 || span >= SPAN_RESERVED || span > split(config) + 1 || index >> (span - 1) != 0 {
            return Err(bad_stream());
        }
        let table = align_down(l1.l2ptr(), STE_LEN << (span - 1));
        table + u64::from(index) * STE_LEN
    } else {
        // The alignment follows LOG2SIZE as written, not as capped.
        let table = STE_LEN.checked_shl(config.log2size().into()).filter(|len| *len != 0);
        table.map_or(0, |len| align_down(base.addr(), len)) + u64::from(requester.stream.0) * STE_LEN
    };
    // §3.4.3, 5: an address beyond the output address size is a fetch fault rather than truncated.
    if !model.in_range(address) {
        return Err(fetch_fault(address));
    }
    fetch(memory, address).map_err(|_| fetch_fault(address))
}

/// Where a stream's L1STD is, and the stream's index in the second level.
fn l1_position(base: StrtabBase, config: StrtabBaseCfg, stream: StreamId) -> (u64, u32) {
    let split = split(config);
    let l1_bits = config.log2size().saturating_sub(split);
    let len = L1STD_LEN.checked_shl(l1_bits.into()).unwrap_or(0).max(STE_LEN);
    let table = align_down(base.addr(), len);
    let index = u64::from(stream.0 >> split);
    (table + index * L1STD_LEN, stream.0 & ((1 << split) - 1))
}

/// STRTAB_BASE_CFG.SPLIT; other values behave as 6 (§6.3.25).
fn split(config: StrtabBaseCfg) -> u8 {
    match config.split() {
        split @ (6 | 8 | 10) => split,
        _ => 6,
    }
}

pub(super) fn align_down(address: u64, len: u64) -> u64 {
    address & !(len - 1)
}

/// Decides what an entry asks for, or finds it ILLEGAL (§5.2.2).
///
/// # Errors
/// C_BAD_STE.
pub fn check(model: &Model, ste: &Ste, requester: Requester) -> Result<StreamAction, Fault> {
    let illegal = Err(Fault::recorded(EventRecord::c_bad_ste(requester)));
    let idr0 = model.idr0();
    if !ste.qw0.v() {
        return illegal;
    }
    match ste.qw0.config() {
        config if config.is_abort() => return Ok(StreamAction::Abort),
        StreamConfig::Bypass => return Ok(StreamAction::Bypass),
        StreamConfig::Stage1 if idr0.s1p() => {}
        // Stage 2, alone or nested: none of our profiles has it.
        _ => return illegal,
    }
    // STRW is ignored without EL2 stream worlds, EATS without ATS.
    if ste.qw1.s1stalld() && idr0.stall_model() != StallModel::StallAndTerminate {
        return illegal;
    }
    let context_table = ste.qw0.s1contextptr();
    if !model.in_range(context_table) {
        return illegal;
    }
    let substream_bits = model.idr1().ssidsize();
    let stream = Stage1Stream {
        context_table,
        format: ContextTableFormat::Linear,
        cd_max: 0,
        default_substream: DefaultSubstream::Terminate,
    };
    // Without substreams S1CDMax, S1Fmt and S1DSS are ignored.
    if substream_bits == 0 || ste.qw0.s1cdmax() == 0 {
        return Ok(StreamAction::Stage1(stream));
    }
    if ste.qw0.s1cdmax() > substream_bits {
        return illegal;
    }
    let format = match ste.qw0.s1fmt() {
        ContextTableFormat::TwoLevel4K | ContextTableFormat::TwoLevel64K if !idr0.cd2l() => return illegal,
        format => format,
    };
    let (cd_max, default_substream) = (ste.qw0.s1cdmax(), ste.qw1.s1dss());
    Ok(StreamAction::Stage1(Stage1Stream { format, cd_max, default_substream, ..stream }))
}
