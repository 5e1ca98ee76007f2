// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same cases again as an ordinary user, which is how the product is meant to be run.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::Case;

pub const CASES: &[Case] = &[("all_cases_pass_as_an_ordinary_user", again)];

/// An id that needs no account: nothing of it is looked up.
const ORDINARY_ID: u32 = 12345;

fn again() {
    if !rustix::process::geteuid().is_root() {
        println!("this is an ordinary user already: all the other cases have shown it");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let as_ordinary = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command.uid(ORDINARY_ID).gid(ORDINARY_ID).current_dir("/").env("TMPDIR", "/tmp");
        command
    };
    let Ok(output) = as_ordinary(&program).output() else {
        println!("SKIPPED: {} cannot be executed by an ordinary user", program.display());
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // It did run them, this one included.
    assert!(text.contains("test all_cases_pass_as_an_ordinary_user ... ok"), "{text}");
    assert_eq!(text.matches("... ok").count(), super::all().len(), "{text}");
}
