// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What went wrong, where, and what to do about it: the one error shape a user of `bulkhead` ever sees.
//!
//! The command line prints it as one line, the control API sends it as JSON, and its [`Class`] decides the
//! exit code. Inner errors keep their own types; they become a [`Problem`] once, where the place is known.

use std::process::ExitCode;
use std::{fmt, io};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::printable;

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
    /// Its name, as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Usage => "usage",
            Self::Died => "died",
            Self::Unreachable => "unreachable",
            Self::State => "state",
        }
    }

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

/// A failure as reported to the user: what happened, where, and what to do.
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

    /// The same after `error`: where its number has one cause whatever was tried, that is the host's, and the advice is
    /// about it.
    pub fn because_of(self, error: &io::Error) -> Self {
        self.because_of_number(error.raw_os_error().unwrap_or_default())
    }

    /// The same for an error number; 0: there is none.
    pub fn because_of_number(self, number: i32) -> Self {
        // Zero, of an error that is not the kernel's, is no number to the library.
        match Some(number).filter(|number| *number > 0).and_then(advice_for) {
            Some(advice) => Self { class: Class::Host, advice, ..self },
            None => self,
        }
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
    let parts = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| printable::line(part.as_bytes())).collect::<Vec<_>>().join("; ")
}

/// What to do about an error number that says more than the step in which it came.
fn advice_for(number: i32) -> Option<String> {
    let advice = match Errno::from_raw_os_error(number) {
        Errno::MFILE => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            return Some(format!(
                "this process may have {limit} descriptors open: raise the limit (`ulimit -n`, LimitNOFILE= of a service)"
            ));
        }
        Errno::NFILE => "the host has as many files open as it may: raise `sysctl fs.file-max`",
        Errno::NOMEM => {
            "free memory on the host, or raise this user's limits (`ulimit -v`, MemoryMax= of a service)"
        }
        Errno::TOOMANYREFS => {
            "processes of the VM's user id have as many descriptors in messages that nobody has read as that user may: end them, or \
             give the VM an id of its own (`--ids`)"
        }
        Errno::NOSPC => "the file system is full: free space on it",
        Errno::DQUOT => "this user's quota is used up: free space, or have it raised",
        Errno::ROFS => {
            "its file system is mounted read-only: have it mounted for writing, or use a copy elsewhere"
        }
        Errno::IO => "the medium or its server fails: look at the host's kernel log (`dmesg`)",
        Errno::STALE => "its file system was exported anew: mount it again",
        _ => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_of_an_error_number_advises_about_it_whatever_the_step() {
        let refused = |errno: Errno| {
            Problem::usage("x", "y", "check the path")
                .because_of(&io::Error::from_raw_os_error(errno.raw_os_error()))
        };
        let descriptors = refused(Errno::MFILE);
        assert_eq!(descriptors.class, Class::Host);
        assert!(descriptors.advice.contains("descriptors open") && descriptors.advice.contains("ulimit -n"));
        assert!(refused(Errno::NOSPC).advice.contains("full"));
        assert_eq!(refused(Errno::NOENT), Problem::usage("x", "y", "check the path"));
    }

    #[test]
    fn problem_display_obeys_no_text_in_it() {
        let text = Problem::usage("a\u{1b}[31m", "b\u{7}", "c\u{202e}d").to_string();
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }

    #[test]
    fn problem_display_is_one_line_and_class_has_its_own_code() {
        let problem = Problem::usage("first\n  second", "vm.toml, line 3", "do this");
        assert_eq!(problem.to_string(), "first; second (vm.toml, line 3): do this");
        let classes = [Class::Host, Class::Usage, Class::Died, Class::Unreachable, Class::State];
        let mut codes: Vec<u8> = classes.iter().map(|class| class.exit_code()).collect();
        codes.dedup();
        assert_eq!(codes, [1, 2, 3, 4, 5]);
        for class in classes {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }
}
