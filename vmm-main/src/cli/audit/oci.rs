// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A profile as the `linux.seccomp` object of the OCI runtime specification, so that a container platform can load it.
//!
//! Its runtimes join several conditions on one argument by OR, and those of a rule on different arguments by AND: so
//! the conditions on one argument become one.

use std::collections::BTreeMap;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::review::{Checked, Review};

/// The object, and what the form cannot say.
pub fn seccomp(review: &Review) -> (Value, Vec<String>) {
    let mut calls = Vec::new();
    let mut lost = Vec::new();
    for rule in review.rules.iter().filter(|rule| !review.absent.contains(&rule.syscall)) {
        if rule.when.is_empty() {
            calls.push(allow(&rule.syscall, &[]));
        }
        for alternative in &rule.when {
            for name in alternative.iter().filter_map(|checked| checked.descriptor.as_deref()) {
                lost.push(format!("{}: any descriptor instead of `{name}`", rule.syscall));
            }
            let call = allow(&rule.syscall, &conditions(alternative));
            if !calls.contains(&call) {
                calls.push(call);
            }
        }
    }
    calls.push(json!({ "names": review.absent, "action": "SCMP_ACT_ERRNO", "errnoRet": Errno::NOSYS.raw_os_error() }));
    let arch = if review.arch == "aarch64" { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    lost.sort();
    lost.dedup();
    (json!({ "defaultAction": "SCMP_ACT_TRAP", "architectures": [arch], "syscalls": calls }), lost)
}

fn allow(syscall: &str, args: &[Value]) -> Value {
    if args.is_empty() {
        return json!({ "names": [syscall], "action": "SCMP_ACT_ALLOW" });
    }
    json!({ "names": [syscall], "action": "SCMP_ACT_ALLOW", "args": args })
}

/// One for each argument: all bits that are compared, and what they must be.
fn conditions(alternative: &[Checked]) -> Vec<Value> {
    let mut joined: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
    for checked in alternative.iter().filter(|checked| checked.descriptor.is_none()) {
        let whole = if checked.is_int { u64::from(u32::MAX) } else { u64::MAX };
        let (mask, value) = joined.entry(checked.index).or_default();
        *mask |= checked.mask & whole;
        *value |= checked.value;
    }
    // The first number is the mask: libseccomp's SCMP_CMP_MASKED_EQ.
    let condition = |(index, (mask, value)): (u8, (u64, u64))| json!({ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" });
    joined.into_iter().map(condition).collect()
}
