// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names of arguments and values, and conditions in words.

use super::*;
use crate::profile::Arch;
use crate::profiles;

#[test]
fn calls_are_in_order_and_each_argument_of_a_condition_has_a_name() {
    assert!(table::ARGUMENTS.is_sorted_by(|a, b| a.0 < b.0));
    for profile in [Arch::X86_64, Arch::Aarch64].into_iter().flat_map(profiles::all) {
        for rule in &profile.rules {
            for check in rule.when.iter().flatten() {
                let known = nth(rule.syscall, check.index);
                assert!(known.is_some(), "{}: argument {}", rule.syscall, check.index);
            }
        }
    }
}

#[test]
fn each_condition_on_an_ioctl_has_its_name() {
    for profile in [Arch::X86_64, Arch::Aarch64].into_iter().flat_map(profiles::all) {
        let checks = profile.rule("ioctl").into_iter().flat_map(|rule| rule.when.iter().flatten());
        for check in checks.filter(|check| check.index == 1) {
            let text = Condition { syscall: "ioctl", check }.to_string();
            assert!(!text.contains("0x"), "{text}");
        }
    }
}

#[test]
fn values_are_shown_by_name_and_parsed_back() {
    let show = |syscall, index, value| nth(syscall, index).unwrap().show(value);
    assert_eq!(show("mmap", 2, 0), "PROT_NONE");
    assert_eq!(show("mmap", 2, 7), "PROT_READ|PROT_WRITE|PROT_EXEC");
    assert_eq!(show("mmap", 2, 0x103), "PROT_READ|PROT_WRITE|0x100");
    assert_eq!(show("mmap", 3, 0x22), "MAP_PRIVATE|MAP_ANONYMOUS");
    assert_eq!(show("mmap", 3, 0x24), "MAP_ANONYMOUS|0x4");
    assert_eq!(show("mmap", 4, 5), "0x5");
    assert_eq!(show("mmap", 4, 0), "0");
    assert_eq!(show("futex", 1, 0x80), "FUTEX_WAIT|FUTEX_PRIVATE_FLAG");
    assert_eq!(show("fcntl", 1, 77), "0x4d");
    for (syscall, arguments) in table::ARGUMENTS {
        for argument in *arguments {
            for (name, value) in argument.values {
                assert_eq!(argument.parse(name), Some(*value), "{syscall} {name}");
                let shown = argument.show(*value);
                assert!(shown.split('|').any(|word| word == *name), "{syscall} {name}: {shown}");
            }
        }
    }
}

#[test]
fn numbers_are_read_as_c_has_them() {
    let argument = nth("mmap", 2).unwrap();
    for (text, value) in [
        ("3", Some(3)),
        ("0x11", Some(0x11)),
        ("-1", Some(u64::MAX)),
        ("PROT_READ | PROT_WRITE", Some(3)),
        ("PROT_READ|0x10", Some(0x11)),
        ("PROT_RAED", None),
        ("", None),
        ("0xg", None),
        ("18446744073709551616", None),
    ] {
        assert_eq!(argument.parse(text), value, "{text:?}");
    }
}

#[test]
fn conditions_read_as_sentences() {
    let said = |syscall, check| Condition { syscall, check: &check }.to_string();
    let prot = libc::PROT_READ.cast_unsigned();
    assert_eq!(said("mprotect", Check::only_bits(2, prot, "")), "prot has no bits but PROT_READ");
    assert_eq!(said("mmap", Check::with_bits(3, 0x22, "")), "flags has MAP_PRIVATE|MAP_ANONYMOUS");
    assert_eq!(
        said("mmap", Check::only_bits(3, 0x22, "")),
        "flags has no bits but MAP_PRIVATE|MAP_ANONYMOUS"
    );
    assert_eq!(said("ioctl", Check::int(1, 0xae80, "")), "op is KVM_RUN");
    assert_eq!(said("ioctl", Check::descriptor(0, "kvm", "")), "fd is the descriptor `kvm`");
    assert_eq!(said("clone", Check::without(0, 0x100, "")), "flags has none of CLONE_VM");
    assert_eq!(said("read", Check::int(2, 16, "")), "argument 2 is 0x10");
    let masked = Check { mask: 0xffff_ff7f, ..Check::int(1, 1, "") };
    assert_eq!(said("futex", masked), "futex_op is FUTEX_WAKE, with or without FUTEX_PRIVATE_FLAG");
}
