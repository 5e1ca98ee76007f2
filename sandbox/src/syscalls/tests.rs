// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of call numbers against two independent sources: libc's constants and seccompiler's own tables.

use super::*;

const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

#[test]
fn table_is_sorted_and_numbers_are_unique() {
    assert!(table::SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
    for arch in BOTH {
        let mut numbers: Vec<i16> =
            table::SYSCALLS.iter().map(|row| pick(row, arch)).filter(|number| *number >= 0).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{arch}");
        assert!(count > 300, "{arch}");
    }
}

#[test]
fn name_and_number_are_inverse() {
    for arch in BOTH {
        for row in table::SYSCALLS {
            match number(row.0, arch) {
                Some(found) => assert_eq!(name(found, arch), Some(row.0)),
                None => assert!(pick(row, arch) < 0),
            }
        }
    }
    assert_eq!(number("no_such_call", Arch::X86_64), None);
    assert_eq!(name(9999, Arch::X86_64), None);
    assert_eq!(name(u32::MAX, Arch::Aarch64), None);
}

#[test]
fn numbers_are_libcs() {
    for (syscall, expected) in [
        ("read", libc::SYS_read),
        ("mmap", libc::SYS_mmap),
        ("clone", libc::SYS_clone),
        ("futex", libc::SYS_futex),
        ("execveat", libc::SYS_execveat),
        ("newfstatat", libc::SYS_newfstatat),
        ("clone3", libc::SYS_clone3),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
        ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
        ("seccomp", libc::SYS_seccomp),
    ] {
        assert_eq!(number(syscall, Arch::host()).map(i64::from), Some(expected), "{syscall}");
    }
}

/// seccompiler has tables of its own behind its JSON front end: a program for one name must come out the same.
#[test]
fn numbers_are_seccompilers_on_both_architectures() {
    for (arch, target) in
        [(Arch::X86_64, seccompiler::TargetArch::x86_64), (Arch::Aarch64, seccompiler::TargetArch::aarch64)]
    {
        let names: Vec<&str> =
            table::SYSCALLS.iter().filter(|row| pick(row, arch) >= 0).map(|row| row.0).collect();
        let rules: Vec<String> = names.iter().map(|name| format!(r#"{{"syscall": "{name}"}}"#)).collect();
        let json = format!(
            r#"{{"all": {{"mismatch_action": "trap", "match_action": "allow", "filter": [{}]}}}}"#,
            rules.join(",")
        );
        let theirs = seccompiler::compile_from_json(json.as_bytes(), target).unwrap();
        let numbers = names.iter().map(|name| (number(name, arch).unwrap().into(), Vec::new())).collect();
        let ours = seccompiler::SeccompFilter::new(
            numbers,
            seccompiler::SeccompAction::Trap,
            seccompiler::SeccompAction::Allow,
            target,
        )
        .unwrap();
        let ours: seccompiler::BpfProgram = ours.try_into().unwrap();
        // JSON rules come in no order; the set of compared numbers must be the same.
        let compared = |program: &seccompiler::BpfProgram| {
            let mut words: Vec<u32> = program.iter().map(|instruction| instruction.k).collect();
            words.sort_unstable();
            words
        };
        assert_eq!(compared(&theirs["all"]), compared(&ours), "{arch}");
    }
}
