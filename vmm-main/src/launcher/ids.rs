// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A user id of the host for one VM alone: out of a range that the user names, or that `/etc/subuid` gives.
//!
//! Processes of different ids cannot signal each other, and what the kernel counts by user (processes, descriptors in
//! messages that nobody has read, locked memory) it counts for each VM. An id is taken by locking a file of its number,
//! for as long as the launcher lives. Nothing here parts a VM from the ordinary user who starts it: whoever owns a user
//! namespace has every capability in it (`sandbox/THREAT_MODEL.md`).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sandbox::spawn::UNPRIVILEGED_ID;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Where root's locks are: ids are the host's, whatever folder a VM's socket is in.
const LOCKS_OF_ROOT: &str = "/run/bulkhead-ids";
/// The table of ranges: `NAME:FIRST:COUNT`. subuid(5).
const TABLE: &str = "/etc/subuid";
/// Whose range root's VMs take from.
const NAME_FOR_ROOT: &str = "bulkhead";
/// More VMs than a host runs; a search has an end.
const COUNT_MAX: u32 = 4096;

/// Where the ids of VMs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Every VM of this user has the same.
    Shared,
    /// One of the range that `/etc/subuid` has for this user; for root, for the name `bulkhead`.
    Subuid,
    /// One of these.
    Range {
        /// The lowest user id.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// Reads `shared`, `subuid` or `FIRST:COUNT`.
pub fn parse(text: &str) -> Result<Ids, String> {
    let range = |(first, count): (&str, &str)| {
        let (first, count) = (first.parse().ok()?, count.parse().ok()?);
        valid(first, count).then_some(Ids::Range { first, count })
    };
    match text {
        "shared" => Ok(Ids::Shared),
        "subuid" => Ok(Ids::Subuid),
        _ => text.split_once(':').and_then(range).ok_or_else(|| {
            format!("{text:?} is none of `shared`, `subuid` and FIRST:COUNT, such as 200000:1000 (never 0 or 65534)")
        }),
    }
}

/// Root and nobody are not ids of a VM's own, nor is the number that means none.
fn valid(first: u32, count: u32) -> bool {
    let end = first.checked_add(count);
    first > 0 && count > 0 && end.is_some() && !(first..end.unwrap_or(0)).contains(&UNPRIVILEGED_ID)
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Subuid => f.write_str("subuid"),
            Self::Range { first, count } => write!(f, "{first}:{count}"),
        }
    }
}

/// An id that no other VM has while this lives.
#[derive(Debug)]
pub struct OwnId {
    /// The number, of user and group alike.
    pub id: u32,
    _lock: File,
}

/// Takes an id as `wanted` says. Not said: root takes from `/etc/subuid` if that has a range for VMs, all else is
/// shared.
pub fn take(wanted: Option<Ids>, locks_of_user: &Path) -> Result<Option<OwnId>, Problem> {
    let uid = rustix::process::geteuid();
    let table = || fs::read_to_string(TABLE).unwrap_or_default();
    let name = if uid.is_root() { NAME_FOR_ROOT.to_owned() } else { uid.as_raw().to_string() };
    let range = match wanted {
        Some(Ids::Shared) => None,
        Some(Ids::Range { first, count }) => Some((first, count)),
        None if !uid.is_root() => None,
        None => range_of(&table(), &name),
        Some(Ids::Subuid) => {
            let login = std::env::var("USER").ok().filter(|_| !uid.is_root());
            let names = [Some(name.clone()), login];
            let found = names.iter().flatten().find_map(|name| range_of(&table(), name));
            Some(found.ok_or_else(|| {
                Problem::usage(
                    format!("{TABLE} has no range for {name}"),
                    "ids",
                    format!("add a line such as `{name}:1000000:1000`, or give --ids FIRST:COUNT"),
                )
            })?)
        }
    };
    let Some((first, count)) = range else { return Ok(None) };
    let folder = if uid.is_root() { PathBuf::from(LOCKS_OF_ROOT) } else { locks_of_user.to_path_buf() };
    lock_one(&folder, first, count).map(Some)
}

/// The range that the table has for `name`, if it is fit for VMs.
fn range_of(table: &str, name: &str) -> Option<(u32, u32)> {
    let mut rows = table.lines().filter_map(|line| {
        let mut words = line.trim().split(':');
        (words.next()? == name).then_some(())?;
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    rows.find(|(first, count)| valid(*first, *count))
}

/// Locks the first free number.
fn lock_one(folder: &Path, first: u32, count: u32) -> Result<OwnId, Problem> {
    let place = folder.display().to_string();
    let refused = |error: std::io::Error| {
        Problem::host(format!("an id cannot be locked: {error}"), place.clone(), "check who owns that folder")
    };
    fs::DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(refused)?;
    for id in first..first.saturating_add(count.min(COUNT_MAX)) {
        let path = folder.join(id.to_string());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(refused)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(OwnId { id, _lock: lock });
        }
    }
    Err(Problem::host(
        format!("all of the ids {first}:{count} are in use by other VMs"),
        "ids",
        "give a longer range, or stop a VM",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_or_a_range_without_root_and_nobody() {
        assert_eq!(parse("shared"), Ok(Ids::Shared));
        assert_eq!(parse("subuid"), Ok(Ids::Subuid));
        assert_eq!(parse("200000:10"), Ok(Ids::Range { first: 200_000, count: 10 }));
        for wrong in ["", "0:10", "65000:1000", "65534:1", "5:0", "4294967295:1", "200000", "a:1", "-1:2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn range_of_a_name_is_its_first_that_fits() {
        let table =
            "root:100000:65536\n# bulkhead:1:1\nbulkhead:0:9\nbulkhead:300000:5\n\n12345:400000:7:x\n";
        assert_eq!(range_of(table, "bulkhead"), Some((300_000, 5)));
        assert_eq!(range_of(table, "12345"), Some((400_000, 7)));
        assert_eq!(range_of(table, "nobody"), None);
    }

    #[test]
    fn id_is_one_vms_alone_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_one(folder.path(), 200_000, 2).unwrap();
        let second = lock_one(folder.path(), 200_000, 2).unwrap();
        assert_eq!((first.id, second.id), (200_000, 200_001));
        let error = lock_one(folder.path(), 200_000, 2).unwrap_err();
        assert!(error.what.contains("in use by other VMs"), "{error}");
        drop(first);
        assert_eq!(lock_one(folder.path(), 200_000, 2).unwrap().id, 200_000);
    }
}
