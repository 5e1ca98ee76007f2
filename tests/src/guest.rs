// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names and meanings of the guest's files, as `cargo xtask guest` leaves them in the cache.
//!
//! Invariant: a file under one of these names is complete (it is renamed into place). The strings are the contract
//! between the `/init` script of the initramfs and the readers of the guest's console.

use std::path::{Path, PathBuf};

use crate::places;

/// Printed by `/init` as soon as it runs: the kernel's part of the boot is over.
pub const USER_SPACE_MARK: &str = "bulkhead-guest: user space is up";

/// The start of the shell's prompt up to the working directory's first letter; its rest and `# ` follow.
pub const PROMPT: &str = "bulkhead-guest:/";

/// Printed by `/init` when the program named by `bulkhead.run=` ended; its exit code follows.
pub const RUN_ENDED_MARK: &str = "bulkhead-guest: run ended, exit code ";

/// The kernel command line used everywhere unless a caller has reasons: the crypto self-tests are more than
/// half of the instructions of a stock Debian boot, and prove nothing about the machine.
pub const COMMAND_LINE: &str = "console=ttyS0 cryptomgr.notests=1";

/// What the guest self-test (`tests/guest/selftest`) prints on a machine that computes rightly.
///
/// Recorded under qemu-system-aarch64; equal for `-O1` and `-O2`, and for the CPU models cortex-a72 and max.
pub const SELFTEST_EXPECTED: &str = include_str!("../guest/selftest/expected.txt");

/// The kernel command line's word that runs `program` instead of a shell and then powers off.
pub fn run_word(program: &str) -> String {
    format!("bulkhead.run={program}")
}

/// Paths of what a guest boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// An arm64 `Image`.
    pub kernel: PathBuf,
    /// An initramfs in cpio's "newc" format, with busybox and the `/init` of this project.
    pub initramfs: PathBuf,
}

impl GuestFiles {
    /// The files in `cache`, whether they are there or not.
    pub fn in_cache(cache: &Path) -> Self {
        Self { kernel: cache.join("Image"), initramfs: cache.join("initramfs.cpio") }
    }

    /// The files with our programs in the initramfs, or `None` when no compiler was there to build them.
    pub fn selftest() -> Option<Self> {
        let cache = places::cache();
        let files = Self { kernel: cache.join("Image"), initramfs: cache.join("initramfs-selftest.cpio") };
        (files.kernel.is_file() && files.initramfs.is_file()).then_some(files)
    }

    /// The files with a kernel of other pages than 4 KiB, or `None` when it was not to be had.
    ///
    /// A kernel with all that it needs built in may be put into the cache by hand, without an initramfs.
    pub fn with_pages(pages: &str) -> Option<Self> {
        let cache = places::cache();
        let own = cache.join(format!("initramfs-{pages}.cpio"));
        let initramfs = if own.is_file() { own } else { cache.join("initramfs.cpio") };
        let files = Self { kernel: cache.join(format!("Image-{pages}")), initramfs };
        (files.kernel.is_file() && files.initramfs.is_file()).then_some(files)
    }

    /// The cached files, or `None` when `cargo xtask guest` has not been run yet.
    pub fn cached() -> Option<Self> {
        let files = Self::in_cache(&places::cache());
        (files.kernel.is_file() && files.initramfs.is_file()).then_some(files)
    }
}
