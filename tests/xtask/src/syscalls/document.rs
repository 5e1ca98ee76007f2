// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `sandbox/SYSCALLS.md`: a row for each call that any profile allows, a column for each profile that was traced.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sandbox::{Arch, Profile, profiles};

use super::trace::Used;

/// Where it is, from the root of the workspace.
pub const PATH: &str = "sandbox/SYSCALLS.md";

/// The document, if every call that was not seen has a reason.
pub fn render(used: &Used) -> Result<String> {
    let all = profiles::all(Arch::host());
    let traced: Vec<&Profile> =
        used.profiles().filter_map(|name| all.iter().find(|profile| profile.name == name)).collect();
    ensure!(traced.len() == used.profiles().count() && !traced.is_empty(), "a traced process has no profile");
    let mut text = String::from(HEAD);
    let count = |profile: &&Profile| {
        let seen = profile.rules.iter().filter(|rule| used.has(profile.name, rule.syscall)).count();
        format!(" {} {seen} of {} |", profile.name, profile.rules.len())
    };
    text += &format!(
        "| call |{} allowed though not seen, because |\n",
        traced.iter().map(count).collect::<String>()
    );
    text += &format!("|---|{}---|\n", "---|".repeat(traced.len()));
    let mut unexplained = Vec::new();
    let calls: BTreeSet<&str> =
        traced.iter().flat_map(|profile| profile.rules.iter().map(|rule| rule.syscall)).collect();
    for call in calls {
        let mut unseen = false;
        text += &format!("| {call} |");
        for profile in &traced {
            let word = match (profile.rule(call), used.has(profile.name, call)) {
                (Some(_), true) => "used",
                (Some(_), false) => {
                    unseen = true;
                    "allowed"
                }
                (None, _) => "",
            };
            text += &format!(" {word} |");
        }
        let reason = profiles::UNSEEN.iter().find(|(known, _)| *known == call).map(|(_, why)| *why);
        if unseen && reason.is_none() {
            unexplained.push(call);
        }
        text += &format!(" {} |\n", reason.filter(|_| unseen).unwrap_or_default());
    }
    text += "\nNot traced here, and what they have beyond the nearest of these:\n\n";
    for (name, near) in
        [("nvme-standalone", "nvme"), ("vfio-kernel", "vfio"), ("vcpu-kvm", "vcpu-soft"), ("mover", "vfio")]
    {
        text += &beyond(name, near);
    }
    ensure!(unexplained.is_empty(), "allowed, never seen, and without a reason: {}", unexplained.join(", "));
    let stale = unneeded_reasons();
    ensure!(stale.is_empty(), "reasons in UNSEEN for calls that no profile allows: {}", stale.join(", "));
    Ok(text)
}

/// Calls that have a reason in `UNSEEN`, and that no profile of either architecture allows.
fn unneeded_reasons() -> Vec<&'static str> {
    let all = [profiles::all(Arch::X86_64), profiles::all(Arch::Aarch64)].concat();
    let reasons = profiles::UNSEEN.iter().map(|(call, _)| *call);
    reasons.filter(|call| all.iter().all(|profile| profile.rule(call).is_none())).collect()
}

/// A line about a profile that is like another one.
fn beyond(name: &str, near: &str) -> String {
    let all = profiles::all(Arch::Aarch64);
    let [of, from] = [name, near].map(|name| all.iter().find(|profile| profile.name == name));
    let (Some(of), Some(from)) = (of, from) else { return String::new() };
    let rules = of.rules.iter().filter(|rule| from.rule(rule.syscall) != Some(*rule));
    let more: Vec<&str> = rules.map(|rule| rule.syscall).collect();
    format!(
        "- `{name}`: as `{near}`, and {}\n",
        if more.is_empty() { "nothing".to_owned() } else { more.join(", ") }
    )
}

const HEAD: &str = "\
# System calls of each sealed process

Written by `cargo xtask syscalls`, which runs the programs under `strace` (x86-64): Linux boots, fills a disk and reads
it back; processes are restarted, and the vSMMU's is killed and comes back; the guest is paused, resumed, saved and
restored, and ended. The heads of the columns say how many of the allowed calls were seen. Arguments are in the profiles
(`src/profiles/`), since many calls are allowed with certain ones only. `coordinator` holds what a process does until it
has sealed itself too, since that happens under its filter.

`vcpu-kvm` and `vfio-kernel` have no column: they run where an arm64 host has KVM and an SMMU that nests, which is the
Arm lab's emulated server and not the machine that writes this table, and its image has no tracer. What is not allowed
ends them, which is proved there (`cargo xtask lab sealed isolation isolation-vfio`). What of the rest they do not need
is not measured, only reviewed in their profiles.

";

#[cfg(test)]
mod tests;
