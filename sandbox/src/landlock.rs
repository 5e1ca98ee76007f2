// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock, denying everything it can deny: paths, network ports, signals to others, abstract Unix sockets.
//!
//! The profile names the ABI that is required. A kernel with less is refused, and what a newer kernel could
//! deny beyond that is not counted on. Called by `locked::seal` with one thread running: Landlock binds the
//! calling thread and what it starts from then on.
//!
//! One exception: executing opens the file anew, so a process that spawns others is allowed to execute (and to that
//! end read) exactly the program files it holds. Their descriptors are the rule; no path is.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// Why Landlock does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel has no Landlock, or it is switched off.
    #[error(
        "the kernel does not offer Landlock ({0}): it must be built with it and `lsm=` must list `landlock`"
    )]
    Missing(std::io::Error),
    /// The kernel's ABI is too old.
    #[error(
        "the kernel's Landlock ABI is {kernel}, the profile requires {required}: a newer kernel is needed"
    )]
    TooOld {
        /// What the kernel has.
        kernel: u32,
        /// What the profile asks for.
        required: u32,
    },
    /// The profile asks for an ABI that this program cannot name.
    #[error("the profile requires Landlock ABI {0}, which this program does not know")]
    UnknownAbi(u32),
    /// The kernel refused the rules.
    #[error("the kernel refused the Landlock rules: {0}")]
    Refused(#[from] landlock::RulesetError),
    /// The kernel took the rules but does not enforce all of them.
    #[error("Landlock is enforced only in part")]
    Partial,
}

/// Denies everything ABI `required` can deny, but executing `programs`. Returns the kernel's ABI.
pub fn deny_all(required: u32, programs: &[BorrowedFd<'_>]) -> Result<u32, LandlockError> {
    let kernel = crate::sys::landlock_abi().map_err(LandlockError::Missing)?;
    if kernel < required {
        return Err(LandlockError::TooOld { kernel, required });
    }
    let abi = match required {
        6 => ABI::V6,
        7 => ABI::V7,
        _ => return Err(LandlockError::UnknownAbi(required)),
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    for program in programs {
        ruleset = ruleset.add_rule(PathBeneath::new(program, AccessFs::Execute | AccessFs::ReadFile))?;
    }
    let status = ruleset.restrict_self()?;
    if status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs {
        Ok(kernel)
    } else {
        Err(LandlockError::Partial)
    }
}

#[cfg(test)]
mod tests;
