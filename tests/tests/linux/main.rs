// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on the product: what it computes, and what it notices of being saved and restored.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

mod kexec;
mod smp;
#[expect(dead_code, reason = "this suite starts machines without devices only")]
#[path = "../support/mod.rs"]
mod support;

use tests::guest::{self, GuestFiles};

use self::support::{BOOT, COMMAND, launch};

#[test]
fn guest_boots_with_its_devices_and_answers_commands() {
    let Some(mut vm) = launch(GuestFiles::cached(), "boot", "") else { return };
    vm.console.shell(BOOT).unwrap();
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
    assert_eq!(vm.left_over(), [""; 0]);
}

#[test]
fn selftest_computes_what_qemu_computes() {
    let Some(mut vm) = launch(GuestFiles::selftest(), "selftest", &guest::run_word("/bin/selftest")) else {
        return;
    };
    vm.console.wait_for(guest::USER_SPACE_MARK, BOOT).unwrap();
    let printed = vm.console.wait_for(guest::RUN_ENDED_MARK, BOOT).unwrap();
    let lines: Vec<&str> = printed.lines().filter(|line| line.starts_with("selftest ")).collect();
    assert_eq!(lines.join("\n"), guest::SELFTEST_EXPECTED.trim_end());
    assert!(vm.console.wait_exit(COMMAND).unwrap().success());
    assert_eq!(vm.left_over(), [""; 0]);
}

#[test]
fn guest_saved_and_restored_keeps_its_count_memory_and_clock() {
    let Some(mut vm) = launch(GuestFiles::cached(), "continuity", "") else { return };
    vm.console.shell(BOOT).unwrap();
    vm.console.send("continuity 30 0.1\n").unwrap();
    vm.console.wait_for("continuity 5 ok", BOOT).unwrap();
    for turn in 1..=3u32 {
        let answer = vm.control_json("save-restore").unwrap();
        assert!(answer.contains(&format!("\"generation\": {}", turn + 1)), "{answer}");
        vm.console.wait_for(&format!("continuity {} ok", 5 + 5 * turn), BOOT).unwrap();
    }
    vm.console.wait_for("continuity 30 ok", BOOT).unwrap();
    assert!(!vm.console.transcript().contains("FAILED"), "{}", vm.console.transcript());
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}

#[test]
fn guest_paused_stands_still_and_its_clock_with_it() {
    let Some(mut vm) = launch(GuestFiles::cached(), "paused", "") else { return };
    vm.console.shell(BOOT).unwrap();
    let centiseconds = |vm: &mut tests::vm::Vm| -> u64 {
        let uptime = vm.console.run("cut -d' ' -f1 /proc/uptime", COMMAND).unwrap().output;
        uptime.trim().replace('.', "").parse().unwrap()
    };
    let before = centiseconds(&mut vm);
    assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
    // Asked while it stands still, answered when it goes on.
    vm.console.send("echo still $((40 + 2))\n").unwrap();
    let pause = std::time::Duration::from_secs(10);
    assert!(vm.console.wait_for("still 42", pause).is_err(), "a paused guest answered");
    assert!(vm.control_json("resume").unwrap().contains("\"running\""));
    vm.console.wait_for("still 42", BOOT).unwrap();
    let elapsed = centiseconds(&mut vm) - before;
    assert!(elapsed < 100 * pause.as_secs(), "the guest's clock ran through the pause: {elapsed} cs");
    vm.power_off(COMMAND).unwrap();
}
