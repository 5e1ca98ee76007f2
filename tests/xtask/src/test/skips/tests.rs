// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Skips in the two forms that a runner's output takes.

use std::process::Command;

use super::{Said, in_report, while_running};

#[test]
fn report_gives_each_skip_with_its_reason() {
    let report = "<testcase name=\"a\">\n<system-out>\nSKIPPED: no &lt;qemu&gt; here</system-out>\n\
                  <system-err>SKIPPED: no kvm\nother</system-err>";
    assert_eq!(in_report(report).skipped, ["no <qemu> here", "no kvm"]);
    assert_eq!(in_report(""), Said::default());
}

#[test]
fn report_gives_what_was_counted() {
    let report = "<system-out>running\nCOUNTED: walks, 3 by end: a 1, b 2\nCOUNTED: x &amp; y</system-out>";
    assert_eq!(in_report(report).counted, ["walks, 3 by end: a 1, b 2", "x & y"]);
}

#[test]
fn command_that_ends_well_gives_its_skips() {
    let mut shown = Vec::new();
    let said =
        while_running(Command::new("sh").args(["-c", "echo one; echo 'SKIPPED: two'"]), &mut shown).unwrap();
    assert_eq!(said.skipped, ["two"]);
    assert_eq!(shown, b"one\nSKIPPED: two\n");
}

#[test]
fn command_that_fails_is_an_error_whatever_it_skipped() {
    let mut command = Command::new("sh");
    assert!(while_running(command.args(["-c", "echo 'SKIPPED: x'; exit 1"]), &mut Vec::new()).is_err());
}
