// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock Debian kernel and userland on the programs that ship: boot, compute, pause, save and restore.
//!
//! Skipped where the guest's files are not there (`cargo xtask guest` brings them); never because of the
//! product: a program that is not built is a failure.

use std::time::Duration;

use tests::{
    SKIPPED,
    guest::{self, GuestFiles},
    places,
    vm::{Options, Vm},
};

/// A boot takes about three seconds of a debug build; a loaded machine may take many times that.
const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);
/// The self-test computes for several seconds.
const SELFTEST: Duration = Duration::from_secs(300);

/// A machine that boots `files`, or nothing, after saying why.
fn launch(name: &str, files: Option<GuestFiles>, extra: &str) -> Option<Vm> {
    let Some(files) = files else {
        println!("{SKIPPED}the guest's files are not there (`cargo xtask guest --cross` brings them)");
        return None;
    };
    let options = Options { extra: extra.into(), ..Options::new(places::programs("debug"), files, name) };
    Some(Vm::launch(options).unwrap())
}

/// A machine at its shell.
fn at_shell(name: &str) -> Option<Vm> {
    let mut vm = launch(name, GuestFiles::cached(), "")?;
    vm.console.wait_for(guest::USER_SPACE_MARK, BOOT).unwrap();
    vm.console.shell(COMMAND).unwrap();
    Some(vm)
}

fn nothing_is_left(vm: &Vm) {
    let left = vm.left_over();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Runs `bulkhead TASK` and fails with what it says.
fn control(vm: &Vm, task: &str) -> String {
    vm.control_json(task).unwrap_or_else(|error| panic!("{error:#}\n{}", vm.console.errors()))
}

#[test]
fn boot_debian_kernel_answers_commands_and_powers_off() {
    let Some(mut vm) = at_shell("boot") else { return };
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    assert!(output("uname -a").contains("aarch64"));
    let interrupts = output("cat /proc/interrupts");
    for device in ["arch_timer", "ttyS0", "arm-smmu-v3-evtq", "arm-smmu-v3-gerror"] {
        assert!(interrupts.contains(device), "{device} has no interrupt:\n{interrupts}");
    }
    let smmu = output("dmesg | grep arm-smmu-v3");
    assert!(smmu.contains("entries for cmdq") && smmu.contains("entries for evtq"), "{smmu}");
    assert!(!smmu.contains("rror") && !smmu.contains("imeout"), "{smmu}");
    vm.power_off(COMMAND).unwrap();
    nothing_is_left(&vm);
}

#[test]
fn selftest_prints_the_hashes_recorded_elsewhere() {
    let run = guest::run_word("/bin/selftest");
    let Some(mut vm) = launch("selftest", GuestFiles::selftest(), &run) else { return };
    vm.console.wait_for(guest::USER_SPACE_MARK, BOOT).unwrap();
    let printed = vm.console.wait_for(guest::RUN_ENDED_MARK, SELFTEST).unwrap();
    let lines: Vec<&str> = printed.lines().filter(|line| line.starts_with("selftest ")).collect();
    assert_eq!(lines.join("\n"), guest::SELFTEST_EXPECTED.trim_end());
}

#[test]
fn save_restore_under_a_working_guest_keeps_its_continuity() {
    const ROUND_COUNT: usize = 12;
    let Some(mut vm) = at_shell("continuity") else { return };
    vm.console.send(&format!("continuity {ROUND_COUNT} 0.1\n")).unwrap();
    vm.console.wait_for("continuity 1 ok", COMMAND).unwrap();
    for generation in 2..=4 {
        let answer = control(&vm, "save-restore");
        assert!(answer.contains(&format!("\"generation\": {generation}")), "{answer}");
    }
    for round in 2..=ROUND_COUNT {
        let before = vm.console.wait_for(&format!("continuity {round} ok"), COMMAND).unwrap();
        assert!(!before.contains("FAILED"), "{before}");
    }
    // The machine is whole: it takes commands, and its vSMMU is the one that was probed.
    assert_eq!(vm.console.run("true", COMMAND).unwrap().code, 0);
    vm.power_off(COMMAND).unwrap();
    nothing_is_left(&vm);
}

#[test]
fn pause_holds_the_guest_and_its_clock_until_resume() {
    let Some(mut vm) = at_shell("pause") else { return };
    let centiseconds = |vm: &mut Vm| -> u64 {
        let uptime = vm.console.run("cut -d' ' -f1 /proc/uptime", COMMAND).unwrap().output;
        uptime.trim().replace('.', "").parse().unwrap()
    };
    let before = centiseconds(&mut vm);
    control(&vm, "pause");
    assert!(control(&vm, "status").contains("paused"));
    // Asked while it stands still, answered when it goes on.
    vm.console.send("echo still $((40 + 2))\n").unwrap();
    let pause = Duration::from_secs(20);
    assert!(vm.console.wait_for("still 42", Duration::from_secs(1)).is_err(), "a paused guest answered");
    std::thread::sleep(pause);
    control(&vm, "resume");
    vm.console.wait_for("still 42", COMMAND).unwrap();
    let elapsed = centiseconds(&mut vm) - before;
    assert!(elapsed < 100 * pause.as_secs(), "the guest's clock ran through the pause: {elapsed} cs");
    vm.power_off(COMMAND).unwrap();
    nothing_is_left(&vm);
}
