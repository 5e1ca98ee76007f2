// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stage 1 translation for EL1&0 (Arm ARM D5, VMSAv8-64).

mod fault;
mod regime;
mod walk;

pub(crate) use fault::Fault;
pub(crate) use regime::Regime;
pub(crate) use walk::Granule;

/// What an access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
    /// A cache maintenance instruction by address: needs the right to read, is reported as a write.
    Maintain,
}
