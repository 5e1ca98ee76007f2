// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptors that a process was given at exec, as owned values, each by its name.
//!
//! The whole table is taken once, at the start of `main`, and each entry is then taken by its owner. A name that is
//! not in it was not passed: no code guesses how many descriptors there are.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::names::{Names, NamesError, STDERR};
use crate::sys;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why the table, or an entry of it, could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InheritedError {
    /// Two owners of one descriptor would close it twice.
    #[error("the inherited descriptors were taken already")]
    TakenTwice,
    /// The program was not started by its parent's `spawn`.
    #[error(
        "descriptor {number}, `{name}`, was not inherited; this program is started by `bulkhead run`, not by hand"
    )]
    NotOpen {
        /// As the parent passed it in the arguments.
        name: String,
        /// The descriptor, by its position in the arguments.
        number: u32,
    },
    /// The names are invalid.
    #[error("the names of the inherited descriptors: {0}")]
    Names(#[from] NamesError),
    /// Not passed by the parent.
    #[error("this process was given no descriptor `{0}`")]
    NotGiven(String),
    /// Taken twice.
    #[error("descriptor `{0}` was taken already")]
    Taken(String),
}

/// The descriptors, each to be taken once; the rest is closed with the table.
#[derive(Debug)]
pub struct Inherited {
    names: Names,
    fds: Vec<Option<OwnedFd>>,
}

impl Inherited {
    /// Takes descriptors 0, 1, 2, ..., which have these names in this order. Once in the life of a process.
    ///
    /// # Errors
    /// If they are not there, or were taken.
    pub fn take_all(names: impl IntoIterator<Item = String>) -> Result<Inherited, InheritedError> {
        let names = Names::new(names)?;
        let numbers = || 0..i32::try_from(names.count()).unwrap_or(i32::MAX);
        for (number, name) in numbers().zip(names.iter()) {
            if !sys::is_open(number) {
                let (name, number) = (name.to_owned(), number.cast_unsigned());
                return Err(InheritedError::NotOpen { name, number });
            }
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(InheritedError::TakenTwice);
        }
        // The standard library writes to the log: it has no owner here, and stays open.
        let own = |(at, number)| (at != STDERR).then(|| sys::own(number));
        let fds = numbers().enumerate().map(own).collect();
        Ok(Inherited { names, fds })
    }

    /// Takes the one called `name`.
    ///
    /// # Errors
    /// If it was not given, or was taken.
    pub fn take(&mut self, name: impl Display) -> Result<OwnedFd, InheritedError> {
        let name = name.to_string();
        let given = self.take_if_given(&name)?;
        given.ok_or(InheritedError::NotGiven(name))
    }

    /// Takes the one called `name`, if it was given.
    ///
    /// # Errors
    /// If it was taken.
    pub fn take_if_given(&mut self, name: impl Display) -> Result<Option<OwnedFd>, InheritedError> {
        let Some(number) = self.names.number_of(&name) else { return Ok(None) };
        let slot = usize::try_from(number).ok().and_then(|at| self.fds.get_mut(at));
        match slot.and_then(Option::take) {
            Some(fd) => Ok(Some(fd)),
            None => Err(InheritedError::Taken(name.to_string())),
        }
    }

    /// Takes all remaining ones of a kind, each with the part of its name behind `KIND:`.
    pub fn take_each(&mut self, kind: impl Display) -> Vec<(String, OwnedFd)> {
        let kind = format!("{kind}:");
        let all = self.names.iter().zip(&mut self.fds);
        all.filter_map(|(name, fd)| Some((name.strip_prefix(&kind)?.to_owned(), fd.take()?))).collect()
    }

    /// Takes all remaining ones, to be taken by name later.
    #[must_use]
    pub fn take_rest(&mut self) -> Inherited {
        let fds = self.fds.iter_mut().map(Option::take).collect();
        Inherited { names: self.names.clone(), fds }
    }

    /// The names of all, including those that were taken.
    pub fn names(&self) -> &Names {
        &self.names
    }
}

#[cfg(test)]
mod tests;
