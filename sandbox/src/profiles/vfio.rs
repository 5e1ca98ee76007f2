// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of an assigned device behind vfio-user: guest RAM, its MMIO ring, its channels, its interrupts.
//!
//! The device's server is reached over a socket that was connected before; no new one can be made. Memory, four
//! threads, descriptors and eventfds are all it needs; no ioctl at all.
//! Spawned by the sealed coordinator, so every rule here is also the coordinator's.

use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, needed_for, union};
use crate::profiles::common;

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "vfio",
        arch,
        root: RootKind::Inherited,
        // 64 interrupt vectors, beside what it is given.
        limits: Limits {
            nofile_count: 112,
            nproc_count: 16,
            fsize_len: super::DEVICE_SAVED_LEN_MAX,
            data_len: 192 << 20,
            address_len: (192 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        rules: rules(),
        memory_files: None,
        absent: common::ABSENT,
    }
}

pub fn rules() -> Vec<Rule> {
    union(&[
        &common::memory(),
        &common::threads(),
        &common::ending(),
        &common::descriptors(),
        &interrupts(),
        &counted(),
    ])
}

/// Messages of which the kernel writes beside the header how much of them passed, so that a next life knows.
fn counted() -> Vec<Rule> {
    let rules = vec![
        Rule::when("sendmmsg", &[Check::int(2, 1, ONE_MESSAGE)]),
        Rule::when("recvmmsg", &[Check::int(2, 1, ONE_MESSAGE), Check::word(4, 0, "it never waits")]),
    ];
    needed_for("messages to and from a server that stays when this process dies", rules)
}

const ONE_MESSAGE: &str = "only one message is sent or received at once";

/// A device's vectors are eventfds that the process makes; it hands them on, and files of a device's memory.
pub fn interrupts() -> Vec<Rule> {
    let own = [
        Rule::any("eventfd2").needed_for("the device's vectors"),
        Rule::any("sendmsg").needed_for("vectors and the device's memory, as descriptors"),
    ];
    union(&[&own, &common::shared_eventfds()])
}
