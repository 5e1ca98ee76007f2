// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMUv3 process: guest RAM, its register page and its MMIO ring.
//!
//! It needs memory, a few threads and the descriptors it was given; no ioctl at all.
//! Spawned by the sealed coordinator, so every rule here is also the coordinator's.

use crate::profile::{Arch, Limits, Profile, RootKind, Rule, union};
use crate::profiles::common;

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "smmu",
        arch,
        root: RootKind::Inherited,
        // Beside what it is given, and a thread for each device.
        limits: Limits {
            nofile_count: 32,
            nproc_count: 16,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 128 << 20,
            address_len: (128 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: None,
        rules: rules(),
        absent: common::ABSENT,
    }
}

pub fn rules() -> Vec<Rule> {
    union(&[&common::memory(), &common::threads(), &common::ending(), &common::channels()])
}
