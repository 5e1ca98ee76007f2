// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest can tell of the part of its machine that a process is, and in which form that is saved: a bounded list
//! of names and values.
//!
//! A process says so as soon as it knows ([`Event::Features`](super::control::Event::Features)). Who moves a guest to
//! another host compares the lists of both, before it moves: values are to be equal, but for versions of states
//! ([`STATE`]), of which the other host may have a newer one. The coordinator gives them no other meaning.

use serde::{Deserialize, Serialize};

use crate::saved::SavedState;

/// The most features of one process.
pub const FEATURES_MAX: usize = 32;
/// The longest name or value, in bytes.
pub const TEXT_LEN_MAX: usize = 64;

/// How the name of a version of a saved state begins; the kind of the state unit follows.
pub const STATE: &str = "state ";

/// A thing by which a guest could tell two processes apart, or the version of a state that one saves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// What it is called, unique among those of a process.
    pub name: String,
    /// Its value, with its unit.
    pub value: String,
}

impl Feature {
    /// A feature of this name and value.
    pub fn new(name: impl Into<String>, value: impl ToString) -> Self {
        Self { name: name.into(), value: value.to_string() }
    }

    /// The version of a state that a process saves. It loads those before, too.
    #[must_use]
    pub fn state<T: SavedState>() -> Self {
        Self::new(format!("{STATE}{:?}", T::KIND), T::VERSION)
    }

    /// Whether it keeps to the limits.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.name.len() <= TEXT_LEN_MAX && self.value.len() <= TEXT_LEN_MAX
    }
}
