// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seccomp filters that a live process runs under, instruction by instruction, beside those of its profile.

use std::io;
use std::time::{Duration, Instant};

use seccompiler::sock_filter;

use crate::profile::Profile;
use crate::seccomp::{self, CompileError};
use crate::sys::Stopped;

/// More than are read: the kernel bounds the instructions of all filters, and of ours there are four.
const FILTERS_MAX: usize = 256;

/// The filters of one process, the one that was installed first at the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    /// The instructions of each, as the kernel has them.
    pub programs: Vec<Vec<u64>>,
    /// How long the process's main thread stood still to be read.
    pub stopped_for: Duration,
}

impl Filters {
    /// Reads those of process `pid`. For root of the first user namespace only, whose own threads are not filtered, and
    /// on kernels with CONFIG_CHECKPOINT_RESTORE.
    ///
    /// # Errors
    /// What the kernel answers: EPERM to others, EACCES to who is filtered, ESRCH when it ends, ETIMEDOUT when it does
    /// not stop.
    pub fn read(pid: i32) -> io::Result<Filters> {
        let begun = Instant::now();
        let stopped = Stopped::new(pid)?;
        let mut programs = Vec::new();
        while let Some(program) = stopped.filter(programs.len())? {
            if programs.len() == FILTERS_MAX {
                return Err(io::Error::other(format!("there are more than {FILTERS_MAX}")));
            }
            programs.push(program);
        }
        drop(stopped);
        Ok(Filters { programs, stopped_for: begun.elapsed() })
    }
}

/// The filters that the kernel has of a process that was sealed with `profile`, in the order of their installing.
///
/// # Errors
/// The profile names a call or descriptor that there is not.
pub fn expected(profile: &Profile) -> Result<Vec<Vec<u64>>, CompileError> {
    let seccomp::Programs { absent, rules } = seccomp::compile(profile)?;
    Ok([absent, rules].map(|program| program.iter().map(word).collect()).to_vec())
}

/// A `struct sock_filter` as eight bytes: 16 bits of code, two offsets of 8, 32 of a constant.
fn word(instruction: &sock_filter) -> u64 {
    let [a, b] = instruction.code.to_ne_bytes();
    let [c, d, e, f] = instruction.k.to_ne_bytes();
    u64::from_ne_bytes([a, b, instruction.jt, instruction.jf, c, d, e, f])
}
