// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold of every profile, whoever edits it, on both architectures.

use super::*;
use crate::landlock;
use crate::profile::RootKind;
use crate::seccomp::{compile, explain};
use crate::syscalls;

const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

const KINDS: [MemoryFiles; 2] = [MemoryFiles::NeverExecutable, MemoryFiles::Executable];

/// Both architectures, both kinds of kernel.
fn every() -> impl Iterator<Item = Profile> {
    let all = |arch| KINDS.into_iter().flat_map(move |kind| all_with(arch, kind));
    BOTH.into_iter().flat_map(all).map(|profile| profile.with_numbers(numbers))
}

const KVM_FD: u64 = 6;
const DEVICE_FD: u64 = 7;
const IOMMU_FD: u64 = 13;

/// The descriptors that rules are about, as a process might have them.
fn numbers(slot: &str) -> Vec<u32> {
    let number = match slot {
        "dirty-log" => 4,
        "ring" => 5,
        "kvm" => KVM_FD,
        "vfio-device" => DEVICE_FD,
        "msi-board" => 8,
        "iommufd" => IOMMU_FD,
        "owed-map" => 4,
        "checkpoint" => 11,
        _ => panic!("a rule about `{slot}`"),
    };
    vec![u32::try_from(number).unwrap()]
}

fn allowed(profile: &Profile, name: &str, args: [u64; 6]) -> bool {
    syscalls::number(name, profile.arch).is_some_and(|number| explain(profile, number, &args).is_none())
}

#[test]
fn each_profile_compiles_for_both_architectures() {
    for profile in every() {
        let programs = compile(&profile).unwrap_or_else(|error| panic!("{error}"));
        // The kernel takes at most 4096 instructions; ours stay far below, for they are run at every call. The
        // coordinator's are everybody's together, and it makes few calls.
        let most = if profile.name == "coordinator" { 1536 } else { 1024 };
        assert!(programs.rules.len() < most, "{} {}: {}", profile.name, profile.arch, programs.rules.len());
    }
}

#[test]
fn rules_are_sorted_and_each_name_stands_once() {
    for profile in every() {
        assert!(profile.rules.is_sorted_by(|a, b| a.syscall < b.syscall), "{}", profile.name);
        for rule in &profile.rules {
            assert!(
                rule.when.iter().all(|checks| !checks.is_empty()),
                "{}: an empty alternative",
                rule.syscall
            );
        }
    }
}

#[test]
fn coordinator_allows_what_its_children_need() {
    for (arch, kind) in BOTH.into_iter().flat_map(|arch| KINDS.map(|kind| (arch, kind))) {
        let profiles = all_with(arch, kind);
        let (coordinator, children) = profiles.split_first().unwrap();
        let spawned = children.iter().filter(|child| child.root == RootKind::Inherited);
        for rule in spawned.flat_map(|child| &child.rules) {
            let own = coordinator.rule(rule.syscall).unwrap_or_else(|| panic!("{} is missing", rule.syscall));
            let covered = own.when.is_empty()
                || !rule.when.is_empty() && rule.when.iter().all(|checks| own.when.contains(checks));
            assert!(covered, "{}: {:?} is not covered by {:?}", rule.syscall, rule.when, own.when);
        }
        assert!(children.iter().all(|child| child.landlock_abi_min <= coordinator.landlock_abi_min));
    }
}

#[test]
fn no_profile_makes_memory_executable() {
    for profile in every() {
        for prot in 0..64u64 {
            let data = prot & !3 == 0;
            assert_eq!(allowed(&profile, "mmap", [0, 4096, prot, 0x22, u64::MAX, 0]), data);
            assert_eq!(allowed(&profile, "mprotect", [0, 4096, prot, 0, 0, 0]), data);
        }
        for name in
            ["pkey_mprotect", "remap_file_pages", "shmat", "uselib", "process_madvise", "memfd_secret"]
        {
            assert!(!allowed(&profile, name, [0; 6]), "{} allows {name}", profile.name);
        }
    }
}

#[test]
fn memory_is_private_and_of_no_file_or_shared_and_of_one() {
    const SHARED: u64 = 1;
    const PRIVATE: u64 = 2;
    const FIXED: u64 = 0x10;
    const ANONYMOUS: u64 = 0x20;
    const NORESERVE: u64 = 0x4000;
    const STACK: u64 = 0x2_0000;
    for profile in every() {
        let passes = |flags: u64| allowed(&profile, "mmap", [0, 4096, 3, flags, 4, 0]);
        // All of the first bits, and each of the others beside them.
        let others = (0..27).map(|bit| if bit == 0 { 0 } else { 0x20 << bit }).chain([NORESERVE | STACK]);
        let flags = others.flat_map(|other| (0..0x40).map(move |flags| flags | other));
        let mut passed: Vec<u64> = flags.filter(|flags| passes(*flags)).collect();
        passed.sort_unstable();
        let mut expected = vec![SHARED, SHARED | NORESERVE];
        for more in 0..8 {
            let flag = |bit: u64, flag| if more & bit != 0 { flag } else { 0 };
            expected.push(PRIVATE | ANONYMOUS | flag(1, FIXED) | flag(2, NORESERVE) | flag(4, STACK));
        }
        expected.sort_unstable();
        assert_eq!(passed, expected, "{}", profile.name);
        assert!(allowed(&profile, "mremap", [0, 4096, 8192, 1, 0, 0]));
        assert!(!(2..8).any(|flags| allowed(&profile, "mremap", [0, 4096, 8192, flags, 0, 0])));
    }
}

#[test]
fn futexes_only_wait_and_wake() {
    const MODES: [u64; 4] = [0, 128, 256, 384];
    for profile in every() {
        let passes =
            |op: u64| MODES.iter().all(|mode| allowed(&profile, "futex", [0, op | mode, 0, 0, 0, 0]));
        assert_eq!(
            (0..128).filter(|op| passes(*op)).collect::<Vec<u64>>(),
            [0, 1, 9, 10],
            "{}",
            profile.name
        );
        assert!(!allowed(&profile, "futex", [0, 0x200, 0, 0, 0, 0]));
    }
}

#[test]
fn socket_pairs_are_of_listed_types_and_of_who_has_a_runtime() {
    for profile in every() {
        let made: Vec<(u64, u64)> = (0..48)
            .flat_map(|domain| (0..16).map(move |kind| (domain, kind)))
            .filter(|(domain, kind)| allowed(&profile, "socketpair", [*domain, kind | 0x8_0800, 0, 0, 0, 0]))
            .collect();
        let expected = match profile.name {
            "coordinator" => vec![(1, 1), (1, 2), (1, 5)],
            // Its runtime's own.
            "mover" => vec![(1, 1)],
            _ => vec![],
        };
        assert_eq!(made, expected, "{}", profile.name);
        assert!(!allowed(&profile, "socketpair", [1, 1, 1, 0, 0, 0]), "only the default protocol");
    }
}

#[test]
fn no_profile_reaches_beyond_its_process() {
    let never = [
        "socket",
        "connect",
        "bind",
        "listen",
        "open",
        "creat",
        "openat2",
        "open_by_handle_at",
        "execve",
        "fork",
        "vfork",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kill",
        "tkill",
        "rt_sigqueueinfo",
        "pidfd_open",
        "pidfd_getfd",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "fsopen",
        "move_mount",
        "open_tree",
        "setns",
        "bpf",
        "io_uring_setup",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "setuid",
        "setresuid",
        "setgroups",
        "init_module",
        "kexec_load",
        "modify_ldt",
        "iopl",
        "personality",
        "quotactl",
        "swapon",
        "reboot",
        "unlinkat",
        "linkat",
        "renameat2",
        "mkdirat",
        "fchmod",
        "fchmodat",
        "chdir",
        "msgget",
        "semget",
        "shmget",
        "mq_open",
        "name_to_handle_at",
    ];
    for profile in every() {
        for name in never {
            assert!(profile.rule(name).is_none(), "{} names {name}", profile.name);
        }
    }
}

#[test]
fn only_the_coordinator_starts_processes_and_only_in_namespaces() {
    let thread = 0x003d_0f00;
    for profile in every() {
        let coordinator = profile.name == "coordinator";
        assert!(allowed(&profile, "clone", [thread, 0, 0, 0, 0, 0]), "{}", profile.name);
        assert_eq!(allowed(&profile, "clone", [crate::sys::SPAWN_FLAGS, 0, 0, 0, 0, 0]), coordinator);
        assert_eq!(allowed(&profile, "execveat", [3, 0, 0, 0, 0x1000, 0]), coordinator);
        assert_eq!(allowed(&profile, "fadvise64", [3, 0, 0, 4, 0, 0]), coordinator, "POSIX_FADV_DONTNEED");
        assert!(!allowed(&profile, "fadvise64", [3, 0, 0, 3, 0, 0]), "POSIX_FADV_WILLNEED");
        // Less isolation, or a shared address space with a new process, is never had.
        for flags in [0x11, 0x4111, 0x1000_0011, thread & !0x1_0000, crate::sys::SPAWN_FLAGS & !0x4000_0000] {
            assert!(!allowed(&profile, "clone", [flags, 0, 0, 0, 0, 0]), "{} 0x{flags:x}", profile.name);
        }
    }
}

#[test]
fn ioctls_are_listed_one_by_one() {
    // Those that take no structure: KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE; KVM_CHECK_EXTENSION, KVM_CREATE_VCPU,
    // KVM_RUN, KVM_GET_STATS_FD.
    const KVM: [u64; 2] = [0xae01, 0xae04];
    const VM: [u64; 4] = [0xae03, 0xae41, 0xae80, 0xaece];
    for profile in every() {
        let passed = |fd: u64| -> Vec<u64> {
            (0..0x1_0000).filter(|request| allowed(&profile, "ioctl", [fd, *request, 0, 0, 0, 0])).collect()
        };
        let runs_kvm = profile.arch == Arch::Aarch64 && ["coordinator", "vcpu-kvm"].contains(&profile.name);
        if runs_kvm {
            let mut both = [&KVM[..], &VM].concat();
            both.sort_unstable();
            assert_eq!((passed(0), passed(KVM_FD)), (VM.to_vec(), both), "{}", profile.name);
            assert!(allowed(&profile, "ioctl", [9, 0x4020_ae46, 0, 0, 0, 0]), "KVM_SET_USER_MEMORY_REGION");
            // KVM_CREATE_GUEST_MEMFD, KVM_SET_USER_MEMORY_REGION2, KVM_ARM_MTE_COPY_TAGS.
            for absent in [0xc040_aed4, 0x40a0_ae49, 0x8030_aeb4] {
                assert!(!allowed(&profile, "ioctl", [9, absent, 0, 0, 0, 0]), "{absent:#x}");
            }
        } else {
            assert_eq!([passed(0), passed(KVM_FD)], [const { Vec::<u64>::new() }; 2], "{}", profile.name);
        }
    }
}

#[test]
fn no_process_that_a_guest_reaches_changes_the_flags_of_a_file_that_others_hold() {
    const FIONBIO: u64 = 0x5421;
    for profile in every() {
        for (call, request) in [("fcntl", libc::F_SETFL as u64), ("ioctl", FIONBIO)] {
            let is_allowed = allowed(&profile, call, [4, request, 0, 0, 0, 0]);
            let needs = profile.name == "coordinator" && call == "fcntl";
            assert_eq!(is_allowed, needs, "{} {call}", profile.name);
        }
        let waits = allowed(&profile, "preadv2", [4, 0, 1, u64::MAX, u64::MAX, 0]);
        assert_eq!(
            waits,
            ["coordinator", "nvme", "nvme-standalone"].contains(&profile.name),
            "{}",
            profile.name
        );
    }
}

#[test]
fn real_devices_process_maps_no_guest_ram_and_calls_each_ioctl_on_its_own_file() {
    const RAM_FD: u64 = 3;
    for arch in BOTH {
        let profile = vfio_kernel::profile(arch).with_numbers(numbers);
        let mapped: Vec<u64> =
            (0..64).filter(|fd| allowed(&profile, "mmap", [0, 4096, 3, 1, *fd, 0])).collect();
        assert_eq!(mapped, [4, 5, 8, 11]);
        assert!(!mapped.contains(&RAM_FD));
        let passed = |fd: u64| -> Vec<u64> {
            (0..0x1_0000).filter(|request| allowed(&profile, "ioctl", [fd, *request, 0, 0, 0, 0])).collect()
        };
        assert_eq!(
            passed(DEVICE_FD),
            [0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f, 0x3b75, 0x3b76, 0x3b77, 0x3b78]
        );
        assert_eq!(
            passed(IOMMU_FD),
            [0x3b80, 0x3b81, 0x3b89, 0x3b8a, 0x3b8b, 0x3b8c, 0x3b8d, 0x3b8f, 0x3b90, 0x3b91, 0x3b93]
        );
        for other in [0, RAM_FD, 4, 9, 10, 12, 14] {
            assert_eq!(passed(other), [0; 0]);
        }
    }
}

#[test]
fn memory_files_are_executable_on_old_kernels_only_and_then_with_our_flags_only() {
    let (older, noexec) = (3, 8);
    for profile in every() {
        let passed: Vec<u64> =
            (0..64).filter(|flags| allowed(&profile, "memfd_create", [0, *flags, 0, 0, 0, 0])).collect();
        let mut expected: Vec<u64> = match profile.memory_files {
            None => Vec::new(),
            Some(_) => (0..64).filter(|flags| flags & noexec != 0).collect(),
        };
        if profile.memory_files == Some(MemoryFiles::Executable) {
            expected.insert(0, older);
            expected.sort_unstable();
        }
        assert_eq!(passed, expected, "{}", profile.name);
        assert_eq!(profile.memory_files.is_some(), profile.name == "coordinator");
    }
}

#[test]
fn where_landlock_cannot_deny_another_wall_stands() {
    for profile in every() {
        for gap in landlock::gaps(0) {
            assert_eq!(gap.open_call(&profile), None, "{}: {}", profile.name, gap.what);
        }
    }
}
