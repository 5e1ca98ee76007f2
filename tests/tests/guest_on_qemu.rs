// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest and the tools that drive it, on QEMU: what is wrong here is not the product's fault.
//!
//! Skipped where QEMU or the guest's files are not there: nothing else in the product needs QEMU.

use std::time::Duration;

use tests::{
    SKIPPED,
    console::Console,
    guest::{self, GuestFiles},
    tools::QEMU,
};

/// A boot under QEMU takes about two seconds; a loaded machine may take many times that.
const BOOT: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(30);

/// QEMU with the guest, or nothing, after saying why.
fn start(files: Option<GuestFiles>, extra: &str) -> Option<Console> {
    let Some(qemu) = QEMU.installed() else {
        println!("{SKIPPED}{}", QEMU.missing());
        return None;
    };
    let Some(files) = files else {
        println!("{SKIPPED}the guest's files are not there (`cargo xtask guest --cross` brings them)");
        return None;
    };
    let console = Console::start(&mut qemu.boot(&files, extra));
    assert!(console.is_ok(), "QEMU was there a moment ago, and now does not start");
    console.ok()
}

#[test]
fn guest_boots_answers_commands_and_powers_off() {
    let Some(mut console) = start(GuestFiles::cached(), "") else { return };
    console.wait_for(guest::USER_SPACE_MARK, BOOT).unwrap();
    console.shell(COMMAND).unwrap();
    assert!(console.run("uname -a", COMMAND).unwrap().output.contains("aarch64"));
    assert_eq!(console.run("cat /nowhere", COMMAND).unwrap().code, 1);
    let three = console.run("continuity 3 0.05", COMMAND).unwrap();
    assert_eq!((three.output.as_str(), three.code), ("continuity 1 ok\ncontinuity 2 ok\ncontinuity 3 ok", 0));
    console.send("poweroff -f\n").unwrap();
    assert!(console.wait_exit(COMMAND).unwrap().success());
}

#[test]
fn selftest_prints_the_recorded_hashes() {
    let Some(mut console) = start(GuestFiles::selftest(), &guest::run_word("/bin/selftest")) else { return };
    console.wait_for(guest::USER_SPACE_MARK, BOOT).unwrap();
    let printed = console.wait_for(guest::RUN_ENDED_MARK, BOOT).unwrap();
    let lines: Vec<&str> = printed.lines().filter(|line| line.starts_with("selftest ")).collect();
    assert_eq!(lines.join("\n"), guest::SELFTEST_EXPECTED.trim_end());
}
