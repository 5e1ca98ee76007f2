// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each program links: the code for its own devices, and none for the other's.
//!
//! A process that was taken over finds only its own kind's code: the server's program has no call of iommufd, the
//! physical device's none of the vfio-user client's. Looked up in the programs' symbol tables with `nm`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::process::Command;

/// How many symbols of a program are this module's of the crate; both ways of mangling write a path so.
fn symbols(program: &str, module: &str) -> Option<usize> {
    let output = Command::new("nm").arg(program).output().ok()?;
    assert!(output.status.success(), "nm cannot read {program}");
    let part = format!("8dev_vfio{}{module}", module.len());
    let symbols = String::from_utf8_lossy(&output.stdout);
    assert!(symbols.contains("8dev_vfio8function"), "{program} has no symbols of this crate");
    Some(symbols.lines().filter(|symbol| symbol.contains(&part)).count())
}

#[test]
fn programs_link_their_own_back_end_alone() {
    let server = env!("CARGO_BIN_EXE_bulkhead-vfio");
    let physical = env!("CARGO_BIN_EXE_bulkhead-vfio-kernel");
    for (program, own, other) in [(server, "vfio_user", "physical"), (physical, "physical", "vfio_user")] {
        let (Some(own), Some(other)) = (symbols(program, own), symbols(program, other)) else {
            println!("SKIPPED: symbols of the programs: there is no `nm` here");
            return;
        };
        assert!(own > 10 && other == 0, "{program}: {own} symbols of its back end, {other} of the other");
    }
}
