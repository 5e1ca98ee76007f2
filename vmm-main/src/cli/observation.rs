// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel shows of a VM's processes from outside, and how that differs from their profiles: for `bulkhead ps`
//! and `audit`, which do not take the coordinator's word for how they are confined.

use super::client_commands::{self, Target, ask, runtime};
use super::host_pids;
use crate::api::types::{Limits, Observed, Process, Status};
use crate::launcher::cgroup;
use crate::problem::Problem;
use crate::system;
use hyper::Method;

/// A VM at one moment.
pub struct Snapshot {
    /// What it says of itself.
    pub status: Status,
    /// Its processes, with what the kernel shows of them.
    pub processes: Vec<Process>,
}

/// Asks a VM, and looks at its processes.
pub fn snapshot_of(target: &Target) -> Result<Snapshot, Problem> {
    let status = ask(target, Method::GET, "/v1/status", Vec::new())?;
    let rows = runtime()?.block_on(client_commands::processes(&target.socket()?))?;
    Ok(Snapshot { status, processes: observed(rows) })
}

/// Adds what the kernel shows of these processes.
pub fn observed((launcher, mut rows): (Option<i32>, Vec<Process>)) -> Vec<Process> {
    let host_pids = launcher.map(host_pids::map).unwrap_or_default();
    for row in &mut rows {
        row.host_pid = host_pids.get(&row.pid).copied();
        row.observed = row.host_pid.and_then(|pid| observe(pid, &row.profile, row.limits));
    }
    rows
}

/// A user id, and which processes share it.
fn user(uid: u32) -> String {
    if uid == sandbox::spawn::UNPRIVILEGED_ID {
        return format!("{uid} (shared with other VMs and with nobody's processes: see --ids)");
    }
    if uid == rustix::process::geteuid().as_raw() {
        // The owner of the namespaces has every capability in them.
        return format!("{uid} (your own: your other processes can reach into it)");
    }
    uid.to_string()
}

/// What the kernel shows of process `pid`, compared with the profile of that name.
fn observe(pid: i32, profile: &str, limits: Option<Limits>) -> Option<Observed> {
    let mut profile = system::profile(profile)?;
    // Limits that depend on the VM's size are as the coordinator reports them.
    if let Some(limits) = limits {
        profile.limits.address_len = limits.address_len;
        profile.limits.fsize_len = limits.file_len;
        profile.limits.nofile_count = limits.descriptor_count;
        profile.limits.nproc_count = limits.thread_count;
    }
    let seen = sandbox::audit::observe(pid);
    let (unread, drift): (Vec<_>, Vec<_>) =
        sandbox::audit::compare(&seen, &profile).into_iter().partition(|drift| drift.unread);
    let texts = |drifts: Vec<sandbox::audit::Drift>| drifts.iter().map(ToString::to_string).collect();
    let mut facts = Vec::new();
    if let Ok(status) = &seen.status {
        let filters = status.seccomp_filters.map_or_else(String::new, |count| format!(" ({count} filters)"));
        facts.push(format!("seccomp {}{filters}", status.seccomp_mode));
        facts.push(format!("no_new_privs {}", u8::from(status.no_new_privs)));
        let none = status.capabilities == sandbox::audit::Capabilities::default();
        facts.push(if none { "no capabilities".to_owned() } else { "HAS CAPABILITIES".to_owned() });
        facts.push(format!("uid {}", status.uids.map(user).first().cloned().unwrap_or_default()));
    }
    let own =
        seen.namespaces.values().filter(|fact| fact.as_ref().is_ok_and(|ns| ns.id != ns.observer)).count();
    facts.push(format!("{own} own namespaces"));
    if let Ok(fds) = &seen.descriptors {
        facts.push(format!("{} fds", fds.len()));
    }
    if let Ok(entries) = &seen.root_entries {
        facts.push(if entries.is_empty() {
            "empty root".to_owned()
        } else {
            format!("{} root entries", entries.len())
        });
    }
    facts.push(cgroup::seen(pid));
    Some(Observed { facts, drift: texts(drift), unread: texts(unread) })
}

/// How a process is confined, in a line.
pub fn confinement(row: &Process) -> String {
    let Some(seen) = &row.observed else { return "cannot be observed".to_owned() };
    let mut text = seen.facts.join(", ");
    if !seen.unread.is_empty() {
        text.push_str(&format!(" ({} facts only root can read)", seen.unread.len()));
    }
    if !seen.drift.is_empty() {
        text.push_str(&format!("; DRIFT: {}", seen.drift.join("; ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observation_of_an_unsealed_process_shows_drift() {
        let own = i32::try_from(std::process::id()).unwrap();
        let seen = observe(own, "smmu", None).unwrap();
        assert!(!seen.drift.is_empty());
        assert!(seen.facts.iter().any(|fact| fact.starts_with("seccomp 0")), "{:?}", seen.facts);
    }
}
