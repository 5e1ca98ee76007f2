// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks this user's limits against the VM's needs before anything is started, so that a VM with many devices does
//! not fail half-way with an error that names no limit.

use rustix::process::{Resource, getrlimit};

use crate::problem::Problem;

/// Checks that the coordinator, which keeps every object of the VM, may open this many descriptors. The hard limit
/// counts: the soft one is raised to it when the coordinator is started.
pub fn allow_descriptors(needed: u64) -> Result<(), Problem> {
    check(needed, getrlimit(Resource::Nofile).maximum)
}

fn check(needed: u64, allowed: Option<u64>) -> Result<(), Problem> {
    match allowed {
        Some(allowed) if allowed < needed => Err(Problem::host(
            format!(
                "this VM needs {needed} open descriptors in one process, and this user may have {allowed}"
            ),
            "RLIMIT_NOFILE",
            "raise the hard limit (ulimit -Hn, or nofile in /etc/security/limits.conf), or give fewer devices",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_the_user_may_not_have_are_refused_with_both_numbers() {
        assert!(check(2000, None).is_ok() && check(2000, Some(2000)).is_ok());
        let refused = check(2001, Some(2000)).unwrap_err();
        assert!(refused.what.contains("2001") && refused.what.contains("2000"), "{refused}");
        assert_eq!(refused.place, "RLIMIT_NOFILE");
    }
}
