// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are on the lab server's disk, agreed between `cargo xtask lab`, which fills it, and the scenarios.

/// The target folder: programs are in `TARGET/ARCHITECTURE/PROFILE` as cargo would have it.
pub const TARGET: &str = "/lab/target";

/// The folder that stands for `target/guest`: `Image` (small and quick to boot), `initramfs.cpio`, `busybox`.
pub const GUEST: &str = "/lab/guest";

/// Debian's own kernel, for guests; absent where it was not fetched.
pub const DEBIAN_KERNEL: &str = "/lab/guest/Image-debian";

/// Flat images of the public suite of guests, if they were given.
pub const ARM_SUITE: &str = "/lab/arm-suite";

/// Test programs, each named `PACKAGE-TEST`.
pub const SUITES: &str = "/lab/suites";

/// The programs that ship.
pub const PROGRAMS: &str = "/lab/target/aarch64-unknown-linux-gnu/debug";

/// Holds the target folder's path on the machine that built the suites: they have it compiled in.
pub const BUILT_IN: &str = "/lab/built-in";

/// Name of the virtio port that records leave by.
pub const PORT_RECORDS: &str = "bulkhead.records";

/// Name of the virtio port that the kernel's log leaves by, at the end.
pub const PORT_LOG: &str = "bulkhead.log";

/// Kernel parameter: the scenarios to run, separated by commas.
pub const PARAMETER_RUN: &str = "lab.run=";

/// Kernel parameter: the ACPI table to send.
pub const PARAMETER_TABLE: &str = "lab.table=";

/// Kernel parameter: a shell instead of scenarios.
pub const PARAMETER_SHELL: &str = "lab.shell";
