// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A profile's rules as seccomp programs, and as explanations of a refusal.
//!
//! Two programs are stacked: the rules (default: trap, so that the process can say what it tried), and the calls
//! that answer ENOSYS. The kernel takes the stricter of the two answers, and a trap is stricter than an
//! errno: a call that is to answer ENOSYS must pass the rules.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::profile::{Arch, Check, Profile};
use crate::{arguments, syscalls};

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A rule names a call that the architecture does not have.
    #[error("profile `{profile}` names `{syscall}`, which {arch} does not have")]
    UnknownSyscall {
        /// Name of the profile.
        profile: &'static str,
        /// The name.
        syscall: &'static str,
        /// The architecture.
        arch: Arch,
    },
    /// A call that is to answer ENOSYS is not let through by the rules.
    #[error("profile `{profile}`: `{syscall}` is to answer ENOSYS but its rule would trap first")]
    AbsentTraps {
        /// Name of the profile.
        profile: &'static str,
        /// The name.
        syscall: &'static str,
    },
    /// A rule is about a descriptor that the process was not given.
    #[error("profile `{profile}` has a rule about descriptor `{slot}`, which was not given")]
    UnknownSlot {
        /// Name of the profile.
        profile: &'static str,
        /// The descriptor's name.
        slot: &'static str,
    },
    /// The compiler refused the rules.
    #[error("profile `{profile}`: the filter does not compile: {source}")]
    Backend {
        /// Name of the profile.
        profile: &'static str,
        /// What the compiler said.
        source: seccompiler::BackendError,
    },
}

/// The two programs of one sealing, in the order in which they are to be installed.
pub struct Programs {
    /// Answers ENOSYS to the calls that are to be thought absent.
    pub absent: BpfProgram,
    /// The rules: allow or trap.
    pub rules: BpfProgram,
}

/// Compiles `profile` for its own architecture, whatever the host's.
pub fn compile(profile: &Profile) -> Result<Programs, CompileError> {
    let backend = |source| CompileError::Backend { profile: profile.name, source };
    if let Some(slot) = profile.unknown_slot() {
        return Err(CompileError::UnknownSlot { profile: profile.name, slot });
    }
    let mut allowed = BTreeMap::new();
    for rule in &profile.rules {
        let alternatives: Result<Vec<_>, _> = rule.when.iter().map(|checks| conjunction(checks)).collect();
        allowed.insert(number(profile, rule.syscall)?, alternatives.map_err(backend)?);
    }
    let mut absent = BTreeMap::new();
    for syscall in profile.absent {
        let free = profile.rule(syscall).is_some_and(|rule| rule.when.is_empty());
        if !free {
            return Err(CompileError::AbsentTraps { profile: profile.name, syscall });
        }
        absent.insert(number(profile, syscall)?, Vec::new());
    }
    let program = |rules, mismatch, matching| {
        SeccompFilter::new(rules, mismatch, matching, target(profile.arch))
            .and_then(BpfProgram::try_from)
            .map_err(backend)
    };
    Ok(Programs {
        absent: program(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))?,
        rules: program(allowed, SeccompAction::Trap, SeccompAction::Allow)?,
    })
}

fn conjunction(checks: &[Check]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions: Result<Vec<_>, _> = checks
        .iter()
        .map(|check| {
            let len = if check.narrow { SeccompCmpArgLen::Dword } else { SeccompCmpArgLen::Qword };
            SeccompCondition::new(check.index, len, SeccompCmpOp::MaskedEq(check.mask), check.value)
        })
        .collect();
    SeccompRule::new(conditions?)
}

fn number(profile: &Profile, syscall: &'static str) -> Result<i64, CompileError> {
    syscalls::number(syscall, profile.arch).map(i64::from).ok_or(CompileError::UnknownSyscall {
        profile: profile.name,
        syscall,
        arch: profile.arch,
    })
}

fn target(arch: Arch) -> TargetArch {
    match arch {
        Arch::X86_64 => TargetArch::x86_64,
        Arch::Aarch64 => TargetArch::aarch64,
    }
}

/// Why `profile` refuses call `number` with these arguments, in words; None when it does not refuse it.
pub fn explain(profile: &Profile, number: u32, args: &[u64; 6]) -> Option<String> {
    let rule = syscalls::name(number, profile.arch).and_then(|name| profile.rule(name));
    let Some(rule) = rule else {
        return Some(format!("not in profile `{}`", profile.name));
    };
    if rule.when.is_empty() {
        return None;
    }
    // The nearest alternative explains most: the first of those with the fewest failed checks.
    let mut nearest: Option<Vec<&Check>> = None;
    for checks in &rule.when {
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passes(args)).collect();
        if failed.is_empty() {
            return None;
        }
        if nearest.as_ref().is_none_or(|known| failed.len() < known.len()) {
            nearest = Some(failed);
        }
    }
    let said = |check: &Check| {
        let seen = args.get(usize::from(check.index)).copied().unwrap_or(0);
        match arguments::nth(rule.syscall, check.index) {
            Some(argument) => {
                format!("{} = {} is not allowed: {}", argument.name, argument.show(seen), check.why)
            }
            None => format!("argument {} = {seen:#x} is not allowed: {}", check.index, check.why),
        }
    };
    let texts: Vec<String> = nearest.unwrap_or_default().into_iter().map(said).collect();
    Some(format!("{} (profile `{}`)", texts.join("; "), profile.name))
}

#[cfg(test)]
mod tests;
