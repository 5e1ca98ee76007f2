// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seccomp filters that a process runs under, beside those that its profile makes.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use sandbox::audit::filters::{Filters, expected};
use sandbox::profile::{Profile, RootKind};

use crate::system;

/// What a filter is to be, and whose it is.
type Programs = Vec<Vec<u64>>;

/// The filters of each profile, made once each.
#[derive(Debug, Default)]
pub struct Expected {
    known: BTreeMap<&'static str, Result<Programs, String>>,
}

/// What became of reading a process's filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// They are those of its profile, below the filters of whoever started the VM, if any.
    Right {
        /// How many.
        count: usize,
        /// How long the process stood still.
        stopped_for: Duration,
    },
    /// They are not.
    Wrong(String),
    /// They cannot be read.
    Unread(String),
}

impl Expected {
    /// Reads the filters of process `pid` and compares them with those of the profile of this name.
    pub fn compare(&mut self, pid: i32, profile: &str) -> Seen {
        let expected = match self.of(profile) {
            Ok(expected) => expected,
            Err(why) => return Seen::Wrong(why),
        };
        match Filters::read(pid) {
            Ok(Filters { programs, stopped_for }) => match difference(&programs, &expected) {
                None => Seen::Right { count: programs.len(), stopped_for },
                Some(difference) => Seen::Wrong(difference),
            },
            Err(error) => Seen::Unread(reason(&error)),
        }
    }

    /// A process that the coordinator started has its filters too, which were there first.
    fn of(&mut self, name: &str) -> Result<Programs, String> {
        let profile = system::profile(name).ok_or_else(|| format!("there is no profile `{name}`"))?;
        let own = self.made_of(&profile)?;
        match profile.root {
            RootKind::NewEmpty => Ok(own),
            RootKind::Inherited => Ok([self.made_of(&system::COORDINATOR.profile())?, own].concat()),
        }
    }

    fn made_of(&mut self, profile: &Profile) -> Result<Programs, String> {
        let make = || expected(profile).map_err(|error| error.to_string());
        self.known.entry(profile.name).or_insert_with(make).clone()
    }
}

/// How the filters of a process differ; whoever started the VM may have brought some of his own, which came first.
fn difference(found: &Programs, expected: &Programs) -> Option<String> {
    let Some(outer) = found.len().checked_sub(expected.len()) else {
        return Some(format!("{} filters, and not {}", found.len(), expected.len()));
    };
    let ours = found.iter().skip(outer);
    let (at, (found, expected)) =
        ours.zip(expected).enumerate().find(|(_, (found, expected))| found != expected)?;
    let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    Some(format!(
        "filter {} is not the profile's: {} instructions and not {}, and the first other one is number {same}",
        outer + at,
        found.len(),
        expected.len()
    ))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
            "the kernel shows them to nobody who is under a filter himself, as in a container".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "only root may read them, and nobody while another process traces this one".to_owned()
        }
        io::ErrorKind::TimedOut => "the process did not stop".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::children;

    #[test]
    fn filter_of_one_instruction_more_less_or_another_is_found() {
        for template in children() {
            let right = Expected::default().of(template.profile().name).unwrap();
            assert_eq!(difference(&right, &right), None);
            // Whoever started the VM may be under filters himself.
            let outer = [vec![vec![0x7fff_0000_0000_0006]], right.clone()].concat();
            assert_eq!(difference(&outer, &right), None);
            for at in 0..right.len() {
                let found = |change: &dyn Fn(&mut Vec<u64>)| {
                    let mut found = right.clone();
                    change(&mut found[at]);
                    difference(&found, &right).unwrap()
                };
                assert!(found(&|filter| filter[3] ^= 1 << 40).contains("is number 3"));
                assert!(found(&|filter| filter.truncate(filter.len() - 1)).contains("is not the profile's"));
                assert!(found(&|filter| filter.push(0)).contains("is not the profile's"));
                let mut missing = right.clone();
                missing.remove(at);
                assert!(difference(&missing, &right).unwrap().contains("filters, and not"));
            }
            let more = [right.clone(), vec![vec![0x7fff_0000_0000_0006]]].concat();
            assert!(difference(&more, &right).is_some(), "a filter on top of ours");
        }
    }
}
