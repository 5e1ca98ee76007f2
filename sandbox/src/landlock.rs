// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock, denying everything the running kernel can deny: paths, and by its ABI network ports, device ioctls,
//! signals to others, abstract Unix sockets.
//!
//! The profile names the lowest ABI with which the process starts. All rights of the kernel's ABI, up to the newest
//! that was tested, are denied. For what an older ABI cannot deny, [`gaps`] names the other mechanism that denies it,
//! and sealing checks that. Called by `locked::seal` with one thread running: Landlock binds the calling thread and
//! what it starts from then on.
//!
//! One exception: executing opens the file anew, so a process that spawns others is allowed to execute (and to that
//! end read) exactly the program files it holds. Their descriptors are the rule; no path is.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::profile::Profile;

/// Why Landlock cannot be enforced.
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
    /// An ABI that this program cannot name.
    #[error("Landlock ABI {0} is not one that this program knows how to enforce")]
    UnknownAbi(u32),
    /// The kernel's ABI does not deny something, and the profile leaves it open as well.
    #[error(
        "Landlock ABI {enforced} does not deny {what}, and the profile allows {call}: nothing would deny it"
    )]
    Open {
        /// The ABI that would be enforced.
        enforced: u32,
        /// What it does not deny.
        what: &'static str,
        /// The call that the profile allows.
        call: &'static str,
    },
    /// The kernel refused the rules.
    #[error("the kernel refused the Landlock rules: {0}")]
    Refused(#[from] landlock::RulesetError),
    /// The kernel took the rules but does not enforce all of them.
    #[error("Landlock is enforced only in part")]
    Partial,
}

/// The newest ABI whose rights tests have seen denied. Rights of newer ABIs are not relied on.
const ABI_MAX: u32 = 7;

/// The ABI in force, and the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    pub enforced: u32,
    pub kernel: u32,
}

/// Something that Landlock denies only from some ABI on, and what denies it otherwise.
#[derive(Debug)]
pub struct Gap {
    /// The first ABI that denies it.
    pub abi: u32,
    /// The operation that older kernels do not deny.
    pub what: &'static str,
    /// The other mechanism.
    pub wall: &'static str,
    /// Calls that may be in no profile, or (`ioctl`) only with listed arguments, for that mechanism to hold.
    calls: &'static [&'static str],
}

const GAPS: [Gap; 4] = [
    Gap {
        abi: 3,
        what: "truncating files by path",
        wall: "empty read-only root, in which no path leads to a file; no truncate call",
        calls: &["truncate"],
    },
    Gap {
        abi: 4,
        what: "TCP ports",
        wall: "own network namespace, no socket, bind or connect call",
        calls: &["socket", "bind", "connect", "listen"],
    },
    Gap {
        abi: 5,
        what: "ioctls on devices",
        wall: "seccomp passes listed ioctls only, no device can be opened",
        calls: &["ioctl"],
    },
    Gap {
        abi: 6,
        what: "signals to others and abstract Unix sockets",
        wall: "own pid namespace, no kill call; own network namespace, no socket or connect call",
        calls: &[
            "kill",
            "tkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "pidfd_open",
            "socket",
            "bind",
            "connect",
        ],
    },
];

/// What ABI `enforced` does not deny.
pub fn gaps(enforced: u32) -> impl Iterator<Item = &'static Gap> {
    GAPS.iter().filter(move |gap| gap.abi > enforced)
}

impl Gap {
    /// A call that `profile` allows and that defeats the other mechanism.
    pub fn open_call(&self, profile: &Profile) -> Option<&'static str> {
        let open =
            |call: &str| profile.rule(call).is_some_and(|rule| call != "ioctl" || rule.when.is_empty());
        self.calls.iter().copied().find(|call| open(call))
    }
}

/// The ABI to enforce on `kernel` for a profile that asks for `required` at least.
fn to_enforce(kernel: u32, required: u32) -> Result<(u32, ABI), LandlockError> {
    if kernel < required {
        return Err(LandlockError::TooOld { kernel, required });
    }
    let enforced = kernel.min(ABI_MAX);
    let abi = match enforced {
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        other => return Err(LandlockError::UnknownAbi(other)),
    };
    Ok((enforced, abi))
}

/// Denies everything the kernel's ABI can deny, but executing `programs`.
pub fn deny_all(profile: &Profile, programs: &[BorrowedFd<'_>]) -> Result<InForce, LandlockError> {
    let kernel = crate::sys::landlock_abi().map_err(LandlockError::Missing)?;
    let (enforced, abi) = to_enforce(kernel, profile.landlock_abi_min)?;
    if let Some((gap, call)) = gaps(enforced).find_map(|gap| Some((gap, gap.open_call(profile)?))) {
        return Err(LandlockError::Open { enforced, what: gap.what, call });
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    // An empty set is refused: older ABIs have none of these.
    let (ports, scopes) = (AccessNet::from_all(abi), Scope::from_all(abi));
    if !ports.is_empty() {
        ruleset = ruleset.handle_access(ports)?;
    }
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    let mut ruleset = ruleset.create()?;
    for program in programs {
        ruleset = ruleset.add_rule(PathBeneath::new(program, AccessFs::Execute | AccessFs::ReadFile))?;
    }
    let status = ruleset.restrict_self()?;
    if status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs {
        Ok(InForce { enforced, kernel })
    } else {
        Err(LandlockError::Partial)
    }
}

#[cfg(test)]
mod tests;
