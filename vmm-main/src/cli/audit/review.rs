// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sandbox profile as a person reviews it: each call, when it is allowed, what it is needed for; and what has changed
//! since another version's.

use std::collections::BTreeMap;

use sandbox::arguments::Condition;
use sandbox::profile::{Check, RootKind, Rule};
use sandbox::profiles::UNSEEN;
use sandbox::{Profile, syscalls};
use serde::{Deserialize, Serialize};

/// A profile, for people and programs. The form is stable: fields are added, none is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The role.
    pub profile: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Where its root directory comes from: `new` (an empty one of its own) or `inherited`.
    pub root: String,
    /// The least Landlock ABI.
    pub landlock_abi_min: u32,
    /// Limits of the smallest VM, by the kernel's name; none is as much as the launcher may.
    pub limits: BTreeMap<String, Option<u64>>,
    /// Calls that are answered ENOSYS.
    pub absent: Vec<String>,
    /// Every call that is allowed, by name.
    pub rules: Vec<Allowed>,
}

/// A call that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Its name.
    pub syscall: String,
    /// By which the kernel knows it on this architecture.
    pub number: u32,
    /// What it is needed for.
    pub needed_for: Vec<String>,
    /// Alternatives, each a list of conditions that must all be true; none: with any arguments.
    pub when: Vec<Vec<Checked>>,
    /// Why a running VM may not show it, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rarely_seen: Option<String>,
}

/// A condition on an argument: its bits under `mask` are `value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Which argument, from 0.
    pub index: u8,
    /// Bits that are compared.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
    /// Whether the kernel reads the low 32 bits only.
    pub is_int: bool,
    /// The name of the descriptor that it must be; its number is `value`'s place at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<String>,
    /// The same in words.
    pub text: String,
    /// Why nothing else is allowed.
    pub why: String,
}

type Bits<'a> = (u8, u64, u64, bool, Option<&'a str>);

impl Review {
    /// Of this profile.
    pub fn of(profile: &Profile) -> Self {
        let limits = &profile.limits;
        let limit = |name: &str, value| (name.to_owned(), value);
        Self {
            profile: profile.name.to_owned(),
            arch: profile.arch.to_string(),
            root: match profile.root {
                RootKind::NewEmpty => "new",
                RootKind::Inherited => "inherited",
            }
            .to_owned(),
            landlock_abi_min: profile.landlock_abi_min,
            limits: BTreeMap::from([
                limit("RLIMIT_NOFILE", Some(limits.nofile_count)),
                limit("RLIMIT_NPROC", Some(limits.nproc_count)),
                limit("RLIMIT_FSIZE", Some(limits.fsize_len)),
                limit("RLIMIT_DATA", Some(limits.data_len)),
                limit("RLIMIT_AS", Some(limits.address_len)),
                limit("RLIMIT_MEMLOCK", limits.locked_len),
            ]),
            absent: profile.absent.iter().map(|&name| name.to_owned()).collect(),
            rules: profile.rules.iter().map(|rule| Allowed::of(rule, profile)).collect(),
        }
    }

    /// What differs from `old`, one line each.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut differs = |what: &str, old: String, new: String| {
            if old != new {
                changes.push(format!("~ {what}: {old} -> {new}"));
            }
        };
        differs("root", old.root.clone(), self.root.clone());
        differs("Landlock ABI", old.landlock_abi_min.to_string(), self.landlock_abi_min.to_string());
        differs("answered ENOSYS", old.absent.join(", "), self.absent.join(", "));
        for (name, limit) in &self.limits {
            let shown = |limit: Option<&Option<u64>>| match limit {
                Some(Some(limit)) => limit.to_string(),
                Some(None) => "as the launcher".to_owned(),
                None => "none".to_owned(),
            };
            differs(name, shown(old.limits.get(name)), shown(Some(limit)));
        }
        for rule in &self.rules {
            let before = old.rules.iter().find(|known| known.syscall == rule.syscall);
            if before.is_some_and(|before| before.lines() == rule.lines() && before.bits() != rule.bits()) {
                changes.push(format!(
                    "~ {}: other bits under the same words: {:?}",
                    rule.syscall,
                    rule.bits()
                ));
            }
        }
        let by_name = |review: &Self| -> BTreeMap<String, Vec<String>> {
            review.rules.iter().map(|rule| (rule.syscall.clone(), rule.lines())).collect()
        };
        let (before, after) = (by_name(old), by_name(self));
        for (sign, those, others) in [('+', &after, &before), ('-', &before, &after)] {
            for (name, lines) in those {
                let known = others.get(name).map(Vec::as_slice).unwrap_or_default();
                let only = lines.iter().filter(|line| !known.contains(line));
                changes.extend(only.map(|line| format!("{sign} {name}: {line}")));
            }
        }
        changes
    }

    /// For a terminal: a paragraph for each call.
    pub fn text(&self) -> String {
        let mut text = format!(
            "profile {} on {}: {} calls; all others end the process, but for {}, which is answered ENOSYS\n",
            self.profile,
            self.arch,
            self.rules.len(),
            self.absent.join(", ")
        );
        for rule in &self.rules {
            text.push_str(&format!("\n{}: {}\n", rule.syscall, rule.needed_for.join("; ")));
            for line in rule.lines() {
                text.push_str(&format!("    {line}\n"));
            }
            for reason in rule.reasons() {
                text.push_str(&format!("    nothing else: {reason}\n"));
            }
        }
        text
    }

    /// A table in Markdown, with what stands above it.
    pub fn markdown(&self) -> String {
        let cell = |lines: &[String]| lines.join("<br>").replace('|', "\\|");
        let mut text = format!("# Profile `{}` on {}\n\n", self.profile, self.arch);
        text.push_str(&format!("Root: {}. Landlock ABI: at least {}.", self.root, self.landlock_abi_min));
        text.push_str(&format!(" Answered ENOSYS: {}.\n\n| limit | |\n|---|---|\n", self.absent.join(", ")));
        for (name, limit) in &self.limits {
            let limit = limit.map_or_else(|| "as the launcher".to_owned(), |limit| limit.to_string());
            text.push_str(&format!("| {name} | {limit} |\n"));
        }
        text.push_str("\n| call | allowed when | needed for | nothing else, because |\n|---|---|---|---|\n");
        for rule in &self.rules {
            text.push_str(&format!(
                "| {} | {} | {} | {} |\n",
                rule.syscall,
                cell(&rule.lines()),
                cell(&rule.needed_for),
                cell(&rule.reasons())
            ));
        }
        text
    }
}

impl Allowed {
    fn of(rule: &Rule, profile: &Profile) -> Self {
        let checked = |check: &Check| Checked {
            index: check.index,
            mask: check.mask,
            value: check.value,
            is_int: check.narrow,
            descriptor: check.slot.map(str::to_owned),
            text: Condition { syscall: rule.syscall, check }.to_string(),
            why: check.why.to_owned(),
        };
        let unseen = UNSEEN.iter().find(|(syscall, _)| *syscall == rule.syscall);
        Self {
            syscall: rule.syscall.to_owned(),
            number: syscalls::number(rule.syscall, profile.arch).unwrap_or(u32::MAX),
            needed_for: rule.purposes.iter().map(|&purpose| purpose.to_owned()).collect(),
            when: rule.when.iter().map(|checks| checks.iter().map(checked).collect()).collect(),
            rarely_seen: unseen.map(|(_, why)| (*why).to_owned()),
        }
    }

    /// When it is allowed, one line for each group of alternatives that differ in the value of one argument only.
    pub fn lines(&self) -> Vec<String> {
        let mut groups: Vec<Vec<String>> = Vec::new();
        for alternative in &self.when {
            let texts: Vec<String> = alternative.iter().map(|checked| checked.text.clone()).collect();
            if !groups.iter_mut().any(|group| join(group, &texts)) {
                groups.push(texts);
            }
        }
        if groups.is_empty() {
            return vec!["with any arguments".to_owned()];
        }
        groups.into_iter().map(|group| group.join("; ")).collect()
    }

    /// What the filter is made of: argument, mask, value, whether it is an int, and the descriptor that is named.
    fn bits(&self) -> Vec<Vec<Bits<'_>>> {
        fn bits(checked: &Checked) -> Bits<'_> {
            let Checked { index, mask, value, is_int, descriptor, .. } = checked;
            (*index, *mask, *value, *is_int, descriptor.as_deref())
        }
        self.when.iter().map(|alternative| alternative.iter().map(bits).collect()).collect()
    }

    /// Why nothing else is, once each.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for checked in self.when.iter().flatten() {
            if !reasons.contains(&checked.why) {
                reasons.push(checked.why.clone());
            }
        }
        reasons
    }
}

/// Joins an alternative with a group, if they differ in one condition `NAME is VALUE`.
fn join(group: &mut [String], texts: &[String]) -> bool {
    if group.len() != texts.len() {
        return false;
    }
    let mut differing = group.iter_mut().zip(texts).filter(|(known, text)| known != text);
    let (Some((known, text)), None) = (differing.next(), differing.next()) else { return false };
    let (Some((argument, _)), Some((other, value))) = (known.split_once(" is "), text.split_once(" is "))
    else {
        return false;
    };
    let is_list = |text: &str| !text.contains(", with or without ");
    if argument != other || !is_list(known) || !is_list(text) {
        return false;
    }
    known.push_str(" or ");
    known.push_str(value);
    true
}

#[cfg(test)]
mod tests;
