// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The compiled programs decide as the rules say, on both architectures: run in a small interpreter of classic BPF.

use seccompiler::{BpfProgramRef, sock_filter};

use super::*;
use crate::profile::{Limits, RootKind, Rule};
use crate::profiles;

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// What the kernel would answer: the instructions that the compiler emits, and no others.
fn run(program: BpfProgramRef<'_>, arch: Arch, number: u32, args: &[u64; 6]) -> u32 {
    let mut data = [0u32; 16];
    (data[0], data[1]) = (number, arch.audit_arch());
    for (at, arg) in args.iter().enumerate() {
        data[4 + 2 * at] = u32::try_from(arg & 0xffff_ffff).unwrap();
        data[5 + 2 * at] = u32::try_from(arg >> 32).unwrap();
    }
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = data[usize::try_from(k).unwrap() / 4],
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction 0x{other:x} is not known here"),
        }
    }
}

/// Every argument vector worth asking about for this rule: what it allows, and that changed in one bit.
fn vectors(rule: &Rule) -> Vec<[u64; 6]> {
    let mut found = vec![[0; 6], [u64::MAX; 6], [7, 7, 7, 7, 7, 7]];
    for checks in &rule.when {
        let mut passing = [0u64; 6];
        for check in checks {
            let slot = &mut passing[usize::from(check.index)];
            *slot = *slot & !check.mask | check.value;
        }
        found.push(passing);
        for check in checks {
            for bit in 0..64 {
                let mut changed = passing;
                changed[usize::from(check.index)] ^= 1 << bit;
                found.push(changed);
            }
        }
    }
    found
}

/// Every profile, with the descriptors that its rules are about at two numbers each.
fn every(arch: Arch) -> Vec<Profile> {
    profiles::all(arch).into_iter().map(|profile| profile.with_numbers(|_| vec![6, 7])).collect()
}

#[test]
fn rule_about_a_descriptor_without_a_number_does_not_compile() {
    let profile =
        profiles::all(Arch::X86_64).into_iter().find(|profile| profile.name == "vfio-kernel").unwrap();
    let known = |slot: &str| if slot == "iommufd" { Vec::new() } else { vec![6] };
    let Err(error) = compile(&profile.with_numbers(known)) else { panic!("it compiles") };
    assert!(error.to_string().contains("`vfio-kernel` has a rule about descriptor `iommufd`"), "{error}");
}

#[test]
fn programs_decide_as_the_rules_say_on_both_architectures() {
    let mut decisions = [0u32; 2];
    for profile in BOTH.into_iter().flat_map(every) {
        let programs = compile(&profile).unwrap();
        for number in 0..600 {
            let rule = syscalls::name(number, profile.arch).and_then(|name| profile.rule(name));
            let asked = rule.map_or_else(|| vec![[0; 6], [1; 6]], vectors);
            for args in asked {
                let refused = explain(&profile, number, &args).is_some();
                let answer = run(&programs.rules, profile.arch, number, &args);
                assert_eq!(answer, if refused { TRAP } else { ALLOW }, "{} {number} {args:x?}", profile.name);
                decisions[usize::from(refused)] += 1;
            }
        }
    }
    // Both answers were seen often: the test compares something.
    assert!(decisions[0] > 1000 && decisions[1] > 1000, "{decisions:?}");
}

#[test]
fn absent_calls_answer_enosys_and_others_pass() {
    for profile in BOTH.into_iter().flat_map(every) {
        let programs = compile(&profile).unwrap();
        for number in 0..600 {
            let absent =
                syscalls::name(number, profile.arch).is_some_and(|name| profile.absent.contains(&name));
            let expected = if absent { ERRNO | libc::ENOSYS.cast_unsigned() } else { ALLOW };
            assert_eq!(run(&programs.absent, profile.arch, number, &[0; 6]), expected);
        }
    }
}

#[test]
fn call_of_another_abi_is_killed() {
    for (own, other) in [(Arch::X86_64, Arch::Aarch64), (Arch::Aarch64, Arch::X86_64)] {
        for profile in every(own) {
            let programs = compile(&profile).unwrap();
            assert_eq!(run(&programs.rules, other, 0, &[0; 6]), KILL_PROCESS);
        }
    }
    // The x32 calls of x86-64 have the same architecture word and a bit in the number.
    let programs = compile(&every(Arch::X86_64)[0]).unwrap();
    assert_eq!(run(&programs.rules, Arch::X86_64, 0x4000_0001, &[0; 6]), TRAP);
}

fn profile_with(rules: Vec<Rule>, absent: &'static [&'static str], arch: Arch) -> Profile {
    let limits = Limits {
        nofile_count: 1,
        nproc_count: 1,
        fsize_len: 0,
        data_len: 0,
        address_len: 0,
        locked_len: Some(0),
    };
    Profile {
        name: "test",
        arch,
        root: RootKind::NewEmpty,
        limits,
        landlock_abi_min: 2,
        memory_files: None,
        rules,
        absent,
    }
}

#[test]
fn unknown_call_name_is_refused() {
    for (syscall, arch) in [("opne", Arch::X86_64), ("open", Arch::Aarch64), ("poll", Arch::Aarch64)] {
        match compile(&profile_with(vec![Rule::any(syscall)], &[], arch)) {
            Err(error @ CompileError::UnknownSyscall { .. }) => {
                assert_eq!(
                    error.to_string(),
                    format!("profile `test` names `{syscall}`, which {arch} does not have")
                );
            }
            other => panic!("{syscall}: {:?}", other.err()),
        }
    }
    assert!(compile(&profile_with(vec![Rule::any("open")], &[], Arch::X86_64)).is_ok());
}

#[test]
fn absent_call_that_would_trap_is_refused() {
    for rules in [vec![Rule::any("read")], vec![Rule::when("clone3", &[Check::int(0, 1, "x")])]] {
        let refused = compile(&profile_with(rules, &["clone3"], Arch::X86_64));
        assert!(matches!(refused, Err(CompileError::AbsentTraps { syscall: "clone3", .. })));
    }
}

#[test]
fn explanation_names_the_argument_that_came_nearest() {
    let profile = &profiles::all(Arch::X86_64)[1];
    let ask =
        |name: &str, args: [u64; 6]| explain(profile, syscalls::number(name, profile.arch).unwrap(), &args);
    assert_eq!(ask("read", [0; 6]), None);
    assert_eq!(ask("mount", [0; 6]).unwrap(), "not in profile `vcpu-soft`");
    assert_eq!(
        ask("tgkill", [1, 5, 9, 0, 0, 0]).unwrap(),
        "sig = SIGKILL is not allowed: a process may signal only itself, to abort (profile `vcpu-soft`)"
    );
    assert_eq!(explain(profile, 1023, &[0; 6]).unwrap(), "not in profile `vcpu-soft`");
}
