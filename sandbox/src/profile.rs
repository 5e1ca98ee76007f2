// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A role's rights, as data: what the profiles in `profiles/` are written in.
//!
//! A [`Profile`] says which system calls a sealed process may make and with which arguments, what its root is,
//! its resource limits and the least Landlock ABI. Parent (`spawn`), child (`locked`), the report
//! of a death and the audit all read the same value. Rights are required, never best effort.

use std::fmt;

use crate::memory_file::MemoryFiles;

/// An architecture a profile can be compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// AArch64.
    Aarch64,
}

impl Arch {
    /// The architecture this program was built for.
    pub const fn host() -> Arch {
        if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// The kernel's `AUDIT_ARCH_*` word, as the seccomp data and a SIGSYS carry it.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

impl std::str::FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Arch, String> {
        let known = [Arch::X86_64, Arch::Aarch64].into_iter().find(|arch| arch.to_string() == text);
        known.ok_or_else(|| format!("{text:?} is neither x86_64 nor aarch64"))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

/// A condition on one argument. `int` arguments are compared in their low 32 bits, since the kernel reads no more and
/// callers may leave anything above; `word` arguments in all 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// The bits that are compared.
    pub mask: u64,
    /// Their required value.
    pub value: u64,
    /// Whether only the low 32 bits are compared.
    pub narrow: bool,
    /// The name of the descriptor whose number the argument must be. Until [`Profile::with_numbers`] has put the number
    /// into `value`, nothing passes.
    pub slot: Option<&'static str>,
    /// The reason, for reports ("mapping executable memory is never allowed").
    pub why: &'static str,
}

impl Check {
    /// The `int` argument `index` is exactly `value`.
    pub const fn int(index: u8, value: u32, why: &'static str) -> Check {
        Check { index, mask: 0xffff_ffff, value: value as u64, narrow: true, why, slot: None }
    }

    /// The argument `index` is the descriptor called `slot`.
    pub const fn descriptor(index: u8, slot: &'static str, why: &'static str) -> Check {
        Check { slot: Some(slot), ..Check::int(index, u32::MAX, why) }
    }

    /// The 64-bit argument `index` is exactly `value`.
    pub const fn word(index: u8, value: u64, why: &'static str) -> Check {
        Check { index, mask: u64::MAX, value, narrow: false, why, slot: None }
    }

    /// The 64-bit argument `index` has none of the bits of `mask`.
    pub const fn without(index: u8, mask: u64, why: &'static str) -> Check {
        Check { index, mask, value: 0, narrow: false, why, slot: None }
    }

    /// The `int` argument `index` has no bit outside `mask`.
    pub const fn only_bits(index: u8, mask: u32, why: &'static str) -> Check {
        Check { index, mask: (!mask) as u64, value: 0, narrow: true, why, slot: None }
    }

    /// The `int` argument `index` has all the bits of `mask`.
    pub const fn with_bits(index: u8, mask: u32, why: &'static str) -> Check {
        Check { index, mask: mask as u64, value: mask as u64, narrow: true, why, slot: None }
    }

    /// Whether these arguments pass.
    pub fn passes(&self, args: &[u64; 6]) -> bool {
        let seen = args.get(usize::from(self.index)).copied().unwrap_or(0);
        let seen = if self.narrow { seen & 0xffff_ffff } else { seen };
        self.slot.is_none() && seen & self.mask == self.value
    }
}

/// One system call a role may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The kernel's name of the call on every architecture the rule is for.
    pub syscall: &'static str,
    /// Alternatives, each a conjunction of checks. Empty: any arguments.
    pub when: Vec<Vec<Check>>,
    /// What the role needs the call for.
    pub purposes: Vec<&'static str>,
}

impl Rule {
    /// The call with any arguments.
    pub fn any(syscall: &'static str) -> Rule {
        Rule::alternatives(syscall, Vec::new())
    }

    /// The call when all checks of one of these alternatives pass.
    pub fn alternatives(syscall: &'static str, when: Vec<Vec<Check>>) -> Rule {
        Rule { syscall, when, purposes: Vec::new() }
    }

    /// The same, needed for `purpose`.
    #[must_use]
    pub fn needed_for(mut self, purpose: &'static str) -> Rule {
        self.purposes = vec![purpose];
        self
    }

    /// The call when all `checks` pass.
    pub fn when(syscall: &'static str, checks: &[Check]) -> Rule {
        Rule::alternatives(syscall, vec![checks.to_vec()])
    }

    /// The call when the `int` argument `index` is one of `values`.
    pub fn one_of(syscall: &'static str, index: u8, values: &[u32], why: &'static str) -> Rule {
        let when = values.iter().map(|value| vec![Check::int(index, *value, why)]).collect();
        Rule::alternatives(syscall, when)
    }

    /// The call when the argument `index` is one of these descriptors and all `checks` pass.
    pub fn on(
        syscall: &'static str,
        index: u8,
        slots: &[&'static str],
        why: &'static str,
        checks: &[Check],
    ) -> Rule {
        let of = |slot: &&'static str| [checks, &[Check::descriptor(index, slot, why)]].concat();
        Rule::alternatives(syscall, slots.iter().map(of).collect())
    }

    /// The alternatives with every descriptor's number in place. A name that has several numbers makes several
    /// alternatives.
    fn with_numbers(mut self, numbers: &impl Fn(&str) -> Vec<u32>) -> Rule {
        let mut when = Vec::new();
        let mut left: Vec<Vec<Check>> = self.when.into_iter().rev().collect();
        while let Some(checks) = left.pop() {
            let open = checks.iter().enumerate().find_map(|(at, check)| {
                let numbers = numbers(check.slot?);
                (!numbers.is_empty()).then_some((at, *check, numbers))
            });
            let Some((at, check, numbers)) = open else {
                when.push(checks);
                continue;
            };
            for number in numbers.into_iter().rev() {
                let mut checks = checks.clone();
                checks.splice(at..=at, [Check::int(check.index, number, check.why)]);
                left.push(checks);
            }
        }
        self.when = when;
        self
    }
}

/// Where the process's root directory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// `spawn` mounts an empty read-only tmpfs and pivots into it; the caller must be free to mount.
    NewEmpty,
    /// The caller's own root, which must already be an empty read-only one: a process under Landlock
    /// cannot mount, so the sealed coordinator's children inherit its root.
    Inherited,
}

/// Resource limits, soft and hard alike. A lower limit that is already in force stays: it is never weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_NOFILE, descriptors, without those that depend on the VM ([`Profile::with_more`]).
    pub nofile_count: u64,
    /// RLIMIT_NPROC: threads of this process and of all below it, without those for the VM's devices.
    pub nproc_count: u64,
    /// RLIMIT_FSIZE, bytes: the largest file the process may write, unless the VM gives it a larger one
    /// ([`Profile::sized`]).
    pub fsize_len: u64,
    /// RLIMIT_DATA, bytes: writable memory of its own, thread stacks included. Does not grow with the guest.
    pub data_len: u64,
    /// RLIMIT_AS, bytes: all that it has mapped, without guest RAM and devices ([`Profile::sized`]).
    pub address_len: u64,
    /// RLIMIT_MEMLOCK, bytes: how much memory the process may have pinned. None: as much as the launcher may.
    pub locked_len: Option<u64>,
}

/// The rights of one role on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The role's name, as reports print it.
    pub name: &'static str,
    /// The architecture whose calls the rules name.
    pub arch: Arch,
    /// Where the root directory comes from.
    pub root: RootKind,
    /// Resource limits.
    pub limits: Limits,
    /// The Landlock ABI without which the process does not start. What the kernel can deny beyond it is denied too.
    pub landlock_abi_min: u32,
    /// Which memory files it may make; None: none at all.
    pub memory_files: Option<MemoryFiles>,
    /// Every call that is allowed, sorted by name, each name once. All else ends the process with a report.
    pub rules: Vec<Rule>,
    /// Calls that fail with ENOSYS so that the C library falls back to one whose arguments a filter can see.
    pub absent: &'static [&'static str],
}

/// How many seccomp filters one sealing stacks: the rules, and the calls that answer ENOSYS.
const FILTER_COUNT: u32 = 2;

impl Profile {
    /// The rule for the call named `syscall`.
    pub fn rule(&self, syscall: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.syscall == syscall)
    }

    /// Why a process with these rights may not make the call of this name and these arguments; None: it may.
    pub fn refusal(&self, syscall: &str, args: &[u64; 6]) -> Option<String> {
        match crate::syscalls::number(syscall, self.arch) {
            Some(number) => crate::seccomp::explain(self, number, args),
            None => Some(format!("{} has no such call", self.arch)),
        }
    }

    /// The same rights in a VM of some size: `mapped_len` bytes more may be mapped, of guest RAM and devices, and a
    /// file that the process writes has `file_len` bytes. When it is sealed, a process only verifies that these two
    /// limits are set: it does not know the VM's size yet.
    #[must_use]
    pub fn sized(mut self, mapped_len: u64, file_len: u64) -> Profile {
        self.limits.address_len = self.limits.address_len.saturating_add(mapped_len);
        self.limits.fsize_len = self.limits.fsize_len.max(file_len);
        self
    }

    /// The same rights with this many more descriptors and threads: for what a process is given, and for each device
    /// that it works with. Like [`Self::sized`] they depend on the VM, which the process does not know when it is
    /// sealed.
    #[must_use]
    pub fn with_more(mut self, nofile_count: u64, nproc_count: u64) -> Profile {
        self.limits.nofile_count = self.limits.nofile_count.saturating_add(nofile_count);
        self.limits.nproc_count = self.limits.nproc_count.saturating_add(nproc_count);
        self
    }

    /// The same rights with the numbers of the descriptors that rules name. A name without a number stays, and a
    /// process cannot be sealed with such a profile.
    #[must_use]
    pub fn with_numbers(mut self, numbers: impl Fn(&str) -> Vec<u32>) -> Profile {
        self.rules = self.rules.into_iter().map(|rule| rule.with_numbers(&numbers)).collect();
        self
    }

    /// A descriptor that a rule names and whose number is not known.
    pub fn unknown_slot(&self) -> Option<&'static str> {
        self.rules.iter().flat_map(|rule| rule.when.iter().flatten()).find_map(|check| check.slot)
    }

    /// How many seccomp filters a process sealed with this profile carries at least: its own, and those of the
    /// sealed process it was spawned by.
    pub fn filter_count_min(&self) -> u32 {
        match self.root {
            RootKind::NewEmpty => FILTER_COUNT,
            RootKind::Inherited => 2 * FILTER_COUNT,
        }
    }
}

/// Those of the rules that have no purpose of their own get this one.
pub fn needed_for(purpose: &'static str, rules: Vec<Rule>) -> Vec<Rule> {
    let with_purpose = |rule: Rule| if rule.purposes.is_empty() { rule.needed_for(purpose) } else { rule };
    rules.into_iter().map(with_purpose).collect()
}

/// Joins rule lists: one rule per name, alternatives and purposes united, "any arguments" winning over all
/// alternatives.
pub fn union(lists: &[&[Rule]]) -> Vec<Rule> {
    let mut joined: std::collections::BTreeMap<&'static str, Rule> = std::collections::BTreeMap::new();
    for rule in lists.iter().flat_map(|list| list.iter()) {
        match joined.entry(rule.syscall) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(rule.clone());
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                let known = slot.get_mut();
                for purpose in &rule.purposes {
                    if !known.purposes.contains(purpose) {
                        known.purposes.push(purpose);
                    }
                }
                if rule.when.is_empty() {
                    known.when.clear();
                } else if !known.when.is_empty() {
                    for checks in &rule.when {
                        if !known.when.contains(checks) {
                            known.when.push(checks.clone());
                        }
                    }
                }
            }
        }
    }
    joined.into_values().collect()
}

#[cfg(test)]
mod tests;
