// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resource limits: set between clone and exec, verified before sealing.
//!
//! Every limit is set soft and hard alike. One already lower in the parent stays as it is: lower is never weaker, and
//! a process without privileges could not raise it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::profile::Limits;

/// The limits as (resource, its name, value); None: not limited by us.
fn table(limits: &Limits) -> [(Resource, &'static str, Option<u64>); 8] {
    [
        (Resource::As, "AS", Some(limits.address_len)),
        (Resource::Data, "DATA", Some(limits.data_len)),
        (Resource::Nofile, "NOFILE", Some(limits.nofile_count)),
        (Resource::Nproc, "NPROC", Some(limits.nproc_count)),
        (Resource::Fsize, "FSIZE", Some(limits.fsize_len)),
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

/// Limits that grow with the VM's size, which a process does not know when it is sealed: it only verifies that they are
/// set.
const OF_MACHINE: [Resource; 4] = [Resource::As, Resource::Fsize, Resource::Nofile, Resource::Nproc];

/// The values of these limits: bytes of address space and of the largest file, descriptors, threads.
pub fn of_machine() -> [Option<u64>; 4] {
    OF_MACHINE.map(|resource| getrlimit(resource).maximum)
}

/// The name of the first limit that is higher than it should be.
pub fn first_too_high(limits: &Limits) -> Option<&'static str> {
    table(limits).into_iter().find_map(|(resource, name, value)| {
        let now = getrlimit(resource);
        let least = |value| if OF_MACHINE.contains(&resource) { u64::MAX } else { value };
        let holds =
            |limit: Option<u64>| value.is_none_or(|value| limit.is_some_and(|limit| limit <= least(value)));
        (!holds(now.current) || !holds(now.maximum)).then_some(name)
    })
}
