// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The identity of a process in its VM: its role, and its index in that role.
//!
//! Its text is the process's name in logs, the API, configuration messages and names of descriptors ([`crate::slot`]):
//! `vfio0`. An instance has exactly one name: no leading zeros, and no index where a VM has only one of the role.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hello::Role;

/// One process of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// What the process is for.
    pub role: Role,
    /// Its index in the role, from 0.
    pub index: u8,
}

/// A text that names no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no process of a VM; names are like `vcpu` or `vfio0`")]
pub struct UnknownInstance(String);

impl InstanceId {
    /// The instance `index` of `role`.
    #[must_use]
    pub const fn new(role: Role, index: u8) -> Self {
        Self { role, index }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.role.is_single() { self.role.fmt(f) } else { write!(f, "{}{}", self.role, self.index) }
    }
}

impl FromStr for InstanceId {
    type Err = UnknownInstance;

    fn from_str(text: &str) -> Result<Self, UnknownInstance> {
        let index = text.trim_start_matches(|c: char| c.is_ascii_lowercase());
        // Refuses every other spelling, such as leading zeros.
        let id = Role::ALL.iter().find_map(|&role| {
            let id = Self::new(role, if role.is_single() { 0 } else { index.parse().ok()? });
            (id.to_string() == text).then_some(id)
        });
        id.ok_or_else(|| UnknownInstance(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests;
