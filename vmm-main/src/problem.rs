// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What went wrong, where, and what to do about it: the one error shape a user of `bulkhead` ever sees.
//!
//! The command line prints it as one line, the control API sends it as JSON, and its [`Class`] decides the
//! exit code. Inner errors keep their own types; they become a [`Problem`] once, where the place is known.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The kinds of failure that a script may want to tell apart; each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The host refused something, or a file could not be read: exit code 1.
    Host,
    /// The command line, the configuration or an image is wrong: exit code 2, as `clap` uses.
    Usage,
    /// A process of the VM died and the VM ended with it: exit code 3.
    Died,
    /// No such VM, or it does not answer: exit code 4.
    Unreachable,
    /// The VM is in a state in which this cannot be done: exit code 5.
    State,
}

impl Class {
    /// The exit code of the command that ends with this class.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Host => 1,
            Self::Usage => 2,
            Self::Died => 3,
            Self::Unreachable => 4,
            Self::State => 5,
        }
    }
}

/// A failure told to a person: what happened, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Decides the exit code.
    pub class: Class,
    /// What happened.
    pub what: String,
    /// The file, line, flag, process or step it happened in.
    #[serde(rename = "where")]
    pub place: String,
    /// What the reader can do about it.
    pub advice: String,
}

impl Problem {
    /// A problem of `class`; the three texts are whole clauses without a full stop.
    pub fn new(
        class: Class,
        what: impl Into<String>,
        place: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { class, what: what.into(), place: place.into(), advice: advice.into() }
    }

    /// A wrong command line, configuration or image.
    pub fn usage(what: impl Into<String>, place: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Class::Usage, what, place, advice)
    }

    /// Something the host refused.
    pub fn host(what: impl Into<String>, place: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Class::Host, what, place, advice)
    }

    /// The exit code of a command that ends with this problem.
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(self.class.exit_code())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", one_line(&self.what), one_line(&self.place), one_line(&self.advice))
    }
}

impl std::error::Error for Problem {}

/// Texts of inner errors may span lines; a problem is one line, whatever it is made of.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_display_is_one_line_and_class_has_its_own_code() {
        let problem = Problem::usage("first\n  second", "vm.toml, line 3", "do this");
        assert_eq!(problem.to_string(), "first; second (vm.toml, line 3): do this");
        let classes = [Class::Host, Class::Usage, Class::Died, Class::Unreachable, Class::State];
        let mut codes: Vec<u8> = classes.iter().map(|class| class.exit_code()).collect();
        codes.dedup();
        assert_eq!(codes, [1, 2, 3, 4, 5]);
    }
}
