// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saved form of a CPU and of the counter: frozen structures of plain integers.
//!
//! They share no type with the running state. A released version is never edited; a change is a new version.

use serde::{Deserialize, Serialize};

/// The system counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockV1 {
    /// Counter value at the time of saving, in ticks of 62.5 MHz.
    pub ticks: u64,
}
