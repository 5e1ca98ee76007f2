// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resource limits: set between clone and exec, verified before sealing.
//!
//! Every limit is set soft and hard alike. One already lower in the parent stays as it is: lower is never weaker, and
//! a process without privileges could not raise it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::profile::Limits;

/// The limits as (resource, its name, value); None: not limited by us.
fn table(limits: &Limits) -> [(Resource, &'static str, Option<u64>); 6] {
    [
        (Resource::Nofile, "NOFILE", Some(limits.nofile_count)),
        (Resource::Nproc, "NPROC", Some(limits.nproc_count)),
        (Resource::Fsize, "FSIZE", limits.fsize_len),
        (Resource::Core, "CORE", Some(0)),
        (Resource::Memlock, "MEMLOCK", limits.locked_len),
        (Resource::Msgqueue, "MSGQUEUE", Some(0)),
    ]
}

/// Sets them. Async-signal-safe.
pub fn set(limits: &Limits) -> rustix::io::Result<()> {
    for (resource, _, value) in table(limits) {
        if let Some(value) = value {
            let hard = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
            setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?;
        }
    }
    Ok(())
}

/// The name of the first limit that is higher than it should be.
pub fn first_too_high(limits: &Limits) -> Option<&'static str> {
    table(limits).into_iter().find_map(|(resource, name, value)| {
        let now = getrlimit(resource);
        let holds = |limit: Option<u64>| value.is_none_or(|value| limit.is_some_and(|limit| limit <= value));
        (!holds(now.current) || !holds(now.maximum)).then_some(name)
    })
}
