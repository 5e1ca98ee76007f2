// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The NVMe controller process: its image file, a vfio-user socket, and the memory its client hands over.
//!
//! It needs memory, a few threads and the descriptors it was given; beyond the common groups it moves data between its
//! image and its client's memory, and flushes, zeroes and punches holes into its image. No ioctl, no path. Two forms:
//! spawned by the sealed coordinator, or by its own launcher when it is used without a VM of ours, which accepts
//! clients on a listening socket as well.

use crate::profile::{Arch, Limits, Profile, RootKind, Rule, union};
use crate::profiles::common;

/// Spawned by the coordinator.
pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "nvme",
        arch,
        root: RootKind::Inherited,
        // 32 workers and the connection's thread.
        // Eventfds for all vectors, twice while they are replaced; memory objects are closed once mapped.
        // The image may be of any size: who starts the process says which.
        limits: Limits {
            nofile_count: 256,
            nproc_count: 40,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 512 << 20,
            address_len: (512 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: None,
        rules: rules(),
        absent: common::ABSENT,
    }
}

/// Spawned by its own launcher, on a host like any other: it brings its own empty root.
pub fn standalone(arch: Arch) -> Profile {
    let rules = union(&[&rules(), &[Rule::any("accept4").needed_for("its clients")]]);
    Profile { name: "nvme-standalone", root: RootKind::NewEmpty, rules, ..profile(arch) }
}

pub fn rules() -> Vec<Rule> {
    union(&[
        &common::memory(),
        &common::threads(),
        &common::ending(),
        &common::channels(),
        &[
            Rule::any("sendmsg").needed_for("data to the client, in several pieces"),
            Rule::any("lseek").needed_for("the length of the image"),
            Rule::any("fstatfs").needed_for("whether a client's memory is in ordinary pages"),
            Rule::any("preadv").needed_for("from the image into the client's memory"),
            // Its flags do no harm, and the kernel need not run a filter for each read.
            Rule::any("preadv2").needed_for("the same without waiting, from what is cached"),
            Rule::any("pwritev").needed_for("from the client's memory into the image"),
            Rule::any("fdatasync").needed_for("a flush"),
            Rule::one_of("getrusage", 0, &[libc::RUSAGE_THREAD.cast_unsigned()], "only a thread's own")
                .needed_for("whether a thread that took long has waited"),
            Rule::one_of("fallocate", 1, &[PUNCH_HOLE, ZERO_RANGE], "only zeroing within the image's length")
                .needed_for("blocks that the guest deallocates or zeroes"),
        ],
    ])
}

/// With FALLOC_FL_KEEP_SIZE.
const PUNCH_HOLE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned();
/// With FALLOC_FL_KEEP_SIZE.
const ZERO_RANGE: u32 = (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned();
