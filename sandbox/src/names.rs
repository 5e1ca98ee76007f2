// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The names of the descriptors that a process is given, in the order of their numbers.
//!
//! The parent passes names with the descriptors to `spawn`, which appends them to the arguments; the process reads
//! them from there. To this crate a name is a text: before a `:` is its kind, after it which of several it is. Rules
//! of a profile use names as well; this table gives their numbers.

use std::ffi::{CString, NulError};
use std::fmt::Display;

use crate::fds::FDS_MAX;

/// Standard error, which is always the log.
pub(crate) const STDERR: usize = 2;
/// Its name.
const LOG: &str = "log";

/// The names, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

/// Why a list of names is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// A name occurs twice.
    #[error("two descriptors are called `{0}`")]
    Doubled(String),
    /// A name is empty, or not a word.
    #[error("{0:?} cannot be the name of a descriptor")]
    NoName(String),
    /// The log is where the standard library looks for it.
    #[error("descriptor {number} is called `{name}`, but descriptor {STDERR} is the `{LOG}`, and no other")]
    Log {
        /// The descriptor.
        number: usize,
        /// The name that it cannot have.
        name: String,
    },
    /// More than a process can be given.
    #[error("{0} descriptors are named, at most {FDS_MAX} can be given")]
    TooMany(usize),
}

impl Names {
    /// A list of names.
    ///
    /// # Errors
    /// If a process cannot be given such descriptors.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Names, NamesError> {
        let names: Vec<String> = names.into_iter().collect();
        if names.len() > FDS_MAX {
            return Err(NamesError::TooMany(names.len()));
        }
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(name) = sorted.iter().zip(sorted.iter().skip(1)).find_map(|(a, b)| (a == b).then_some(*a))
        {
            return Err(NamesError::Doubled(name.clone()));
        }
        let is_word = |name: &&String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(name) = names.iter().find(|name| !is_word(name)) {
            return Err(NamesError::NoName(name.chars().take(64).collect()));
        }
        let mut wrong =
            names.iter().enumerate().filter(|(number, name)| (*number == STDERR) != (*name == LOG));
        match wrong.next() {
            None => Ok(Names(names)),
            Some((number, name)) => Err(NamesError::Log { number, name: name.clone() }),
        }
    }

    /// How many there are: descriptors 0 to this.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The number of the descriptor called `name`.
    pub fn number_of(&self, name: impl Display) -> Option<u32> {
        let name = name.to_string();
        self.0.iter().position(|known| *known == name).and_then(|at| u32::try_from(at).ok())
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// As arguments.
    pub(crate) fn to_args(&self) -> Result<Vec<CString>, NulError> {
        self.iter().map(CString::new).collect()
    }
}

#[cfg(test)]
mod tests;
