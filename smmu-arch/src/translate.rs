// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a transaction to an output address, or to the event it raises. IHI 0070 §3.3, §3.4 and chapter 7.
//!
//! Three steps, each a pure function of memory and of what the step before found: `stream` finds and
//! checks the stream table entry, `context` the context descriptor, `walk` the translation. Each fetches
//! a stated number of structures (2, 2, and at most 4), so a translation reads memory at most 8 times
//! whatever the guest has written there. The caches of `engine` sit between the steps.

use crate::model::Model;
use crate::spec::control::{Cr0, Cr2, Gbpa};
use crate::spec::events::EventRecord;
use crate::spec::tables::{StrtabBase, StrtabBaseCfg};

pub mod context;
pub mod stream;
pub mod walk;

/// The registers that decide what becomes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// CR0: SMMUEN.
    pub cr0: Cr0,
    /// CR2: RECINVSID.
    pub cr2: Cr2,
    /// GBPA: ABORT.
    pub gbpa: Gbpa,
    /// Where the stream table is.
    pub strtab_base: StrtabBase,
    /// What it looks like.
    pub strtab_base_cfg: StrtabBaseCfg,
}

/// The transaction is terminated with an abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What goes to the Event queue; some terminations are silent.
    pub event: Option<EventRecord>,
}

impl Fault {
    /// Terminated without a record.
    pub const SILENT: Fault = Fault { event: None };

    /// Terminated and recorded.
    pub const fn recorded(event: EventRecord) -> Fault {
        Fault { event: Some(event) }
    }
}

/// Where a transaction goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The output address.
    pub address: u64,
    /// How many bytes from `address` on are translated alike, for the same kind of access.
    pub span: u64,
}

/// An untranslated transaction's output: the input, if it is within the output address size (§3.4).
pub fn untranslated(model: &Model, address: u64) -> Option<Translation> {
    model.in_range(address).then(|| Translation { address, span: (1 << model.oas()) - address })
}
