// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The software vCPU process: guest RAM, the GIC, UART and RTC; one thread per vCPU.
//!
//! It needs memory, threads and the descriptors it was given; no ioctl at all.
//! Spawned by the sealed coordinator, so every rule here is also the coordinator's.

use crate::profile::{Arch, Limits, Profile, RootKind, Rule, union};
use crate::profiles::common;

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "vcpu-soft",
        arch,
        root: RootKind::Inherited,
        // 256 vCPUs, the console, control and clock threads, and room to restart one.
        // What it is given, and what each device brings, is added for the machine.
        limits: Limits {
            nofile_count: 24,
            nproc_count: 288,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 768 << 20,
            address_len: (768 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: None,
        rules: rules(),
        absent: common::ABSENT,
    }
}

pub fn rules() -> Vec<Rule> {
    union(&[
        &common::memory(),
        &common::threads(),
        &common::ending(),
        &common::descriptors(),
        &[
            Rule::any("eventfd2").needed_for("wake-ups of its own threads"),
            Rule::any("clock_nanosleep")
                .needed_for("between two looks at whether a CPU that was kicked has left guest code"),
            Rule::any("fstatfs")
                .needed_for("whether memory that a device offers lies in ordinary pages, which cannot fault"),
        ],
    ])
}
