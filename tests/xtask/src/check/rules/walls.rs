// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `unsafe` is opened in the named places and nowhere else, and each says why it must be.
//!
//! The compiler refuses unsafe code wherever it is not opened, and clippy refuses a block without its
//! `SAFETY:` comment; what is left to judge here is where it may be opened at all.

use crate::check::tree::Tree;

/// Where unsafe code may be opened: a file, or a folder with `/` at its end, and what for.
const WALLS: [(&str, &str); 8] = [
    ("dev-vfio/src/physical/sys/", "the ioctls of VFIO and iommufd"),
    ("dev-vfio/tests/mock/ioctl.rs", "the ioctl of iommufd's mock, which only tests may call"),
    ("ipc/src/shm/", "memory shared with other processes"),
    ("sandbox/src/sys.rs", "system calls without a safe wrapper"),
    ("sandbox/src/sys/", "system calls without a safe wrapper"),
    ("soft-cpu/src/ram.rs", "the guest's memory"),
    ("soft-cpu/src/tlb.rs", "host pointers into the guest's memory"),
    ("vcpu/src/kvm/sys.rs", "the ioctls of KVM that take addresses, and the kick's signal handler"),
];

/// How long after the head the reason may begin.
const HEAD_LINES: usize = 30;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        let opens = file.text.lines().any(opens_unsafe);
        if !opens {
            continue;
        }
        if !WALLS
            .iter()
            .any(|(place, _)| file.path == *place || place.ends_with('/') && file.path.starts_with(place))
        {
            findings.push(format!("{}: opens unsafe code outside of the named walls", file.path));
        }
        if !file.text.lines().take(HEAD_LINES).any(|line| line.trim_start().starts_with("// UNSAFETY:")) {
            findings.push(format!("{}: opens unsafe code without saying `// UNSAFETY:` why", file.path));
        }
    }
    findings
}

/// True for the attribute that lifts the workspace's ban, in any spelling.
fn opens_unsafe(line: &str) -> bool {
    let line = line.trim_start();
    (line.starts_with("#[") || line.starts_with("#!["))
        && (line.contains("expect(") || line.contains("allow("))
        && line.contains("unsafe_code")
}
