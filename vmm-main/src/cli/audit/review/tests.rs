// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Profiles as people and programs are shown them.

use sandbox::{Arch, profiles};

use super::*;
use crate::cli::audit::oci;

fn reviews() -> Vec<Review> {
    [Arch::X86_64, Arch::Aarch64]
        .into_iter()
        .flat_map(profiles::all)
        .map(|profile| Review::of(&profile))
        .collect()
}

fn rule<'a>(review: &'a Review, name: &str) -> &'a Allowed {
    review.rules.iter().find(|rule| rule.syscall == name).unwrap()
}

#[test]
fn each_call_of_each_profile_says_what_it_is_needed_for() {
    for review in reviews() {
        for rule in &review.rules {
            assert!(!rule.needed_for.is_empty(), "{} {}: {}", review.profile, review.arch, rule.syscall);
            assert_ne!(rule.number, u32::MAX, "{}", rule.syscall);
        }
    }
}

#[test]
fn alternatives_that_differ_in_one_value_are_one_line() {
    let smmu = Review::of(&profiles::smmu());
    assert_eq!(rule(&smmu, "rt_sigaction").lines(), ["signum is SIGCANCEL or SIGSETXID"]);
    assert_eq!(rule(&smmu, "brk").lines(), ["with any arguments"]);
    assert_eq!(
        rule(&smmu, "mmap").lines(),
        [
            "prot has no bits but PROT_READ|PROT_WRITE; flags has MAP_PRIVATE|MAP_ANONYMOUS; flags has no bits but \
             MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS|MAP_NORESERVE|MAP_STACK",
            "prot has no bits but PROT_READ|PROT_WRITE; flags has MAP_SHARED; flags has no bits but \
             MAP_SHARED|MAP_NORESERVE"
        ]
    );
    // All that is allowed of a call that waits and wakes.
    assert_eq!(rule(&smmu, "futex").lines().len(), 4);
}

#[test]
fn review_is_read_back_and_differs_from_another_by_what_changed() {
    for review in reviews() {
        let text = serde_json::to_string(&review).unwrap();
        let mut old: Review = serde_json::from_str(&text).unwrap();
        assert_eq!(review, old);
        assert_eq!(review.changes_since(&old), Vec::<String>::new());
        // The old one had one call less, another one more, and another limit.
        let gone = old.rules.remove(0);
        old.rules.push(Allowed { syscall: "ptrace".to_owned(), ..gone.clone() });
        old.limits.insert("RLIMIT_NPROC".to_owned(), Some(1));
        let changes = review.changes_since(&old);
        assert!(changes.iter().any(|line| line.starts_with(&format!("+ {}: ", gone.syscall))), "{changes:?}");
        assert!(changes.iter().any(|line| line.starts_with("- ptrace: ")), "{changes:?}");
        assert!(changes.iter().any(|line| line.starts_with("~ RLIMIT_NPROC: 1 -> ")), "{changes:?}");
    }
}

/// What a container platform would let through of a call: its runtimes' way of reading the object.
fn oci_allows(seccomp: &serde_json::Value, name: &str, args: [u64; 6]) -> bool {
    seccomp["syscalls"].as_array().unwrap().iter().any(|call| {
        let is_meant = call["names"].as_array().unwrap().iter().any(|known| known == name);
        let passes = |arg: &serde_json::Value| {
            assert_eq!(arg["op"], "SCMP_CMP_MASKED_EQ");
            let number = |key: &str| arg[key].as_u64().unwrap();
            args[usize::try_from(number("index")).unwrap()] & number("value") == number("valueTwo")
        };
        let conditions = call["args"].as_array();
        let mut indexes: Vec<_> = conditions.into_iter().flatten().map(|arg| arg["index"].as_u64()).collect();
        let count = indexes.len();
        indexes.dedup();
        assert_eq!(
            indexes.len(),
            count,
            "{name}: a runtime would allow either of two conditions on one argument"
        );
        is_meant && call["action"] == "SCMP_ACT_ALLOW" && conditions.into_iter().flatten().all(passes)
    })
}

#[test]
fn object_for_container_platforms_lets_through_what_the_profile_does() {
    // Every combination of low bits for the calls whose bits matter.
    for profile in profiles::all(Arch::X86_64) {
        let (seccomp, lost) = oci::seccomp(&Review::of(&profile));
        let is_the_same = lost.is_empty();
        for bits in 0..0x100u64 {
            for (name, args) in [
                ("mmap", [0, 4096, bits & 7, (bits >> 3) | 0x20, 0, 0]),
                ("mmap", [0, 4096, bits & 7, bits >> 3, 0, 0]),
                ("mprotect", [0, 4096, bits, 0, 0, 0]),
                ("futex", [0, bits, 0, 0, 0, 0]),
                ("madvise", [0, 0, bits, 0, 0, 0]),
                ("socketpair", [bits & 3, bits >> 2, 0, 0, 0, 0]),
                ("ptrace", [bits; 6]),
                ("read", [bits; 6]),
            ] {
                let allowed = profile.refusal(name, &args).is_none();
                let shown = oci_allows(&seccomp, name, args);
                assert!(
                    if is_the_same { shown == allowed } else { shown || !allowed },
                    "{} {name} {args:x?}",
                    profile.name
                );
            }
        }
    }
}

#[test]
fn markdown_has_a_row_for_each_call_and_no_cell_is_cut() {
    for review in reviews() {
        let text = review.markdown();
        for rule in &review.rules {
            let row = text.lines().find(|line| line.starts_with(&format!("| {} |", rule.syscall))).unwrap();
            let bars = row.replace("\\|", "").matches('|').count();
            assert_eq!(bars, 5, "{row}");
        }
    }
}
