// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on the product: what it computes, and what it notices of being saved and restored.

mod support;

use tests::guest::{self, GuestFiles};

use self::support::{BOOT, COMMAND, launch};

#[test]
fn selftest_computes_what_qemu_computes() {
    let Some(mut vm) = launch(GuestFiles::selftest(), "selftest", &guest::run_word("/bin/selftest")) else { return };
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
fn guest_paused_stands_still_and_notices_no_lost_round() {
    let Some(mut vm) = launch(GuestFiles::cached(), "paused", "") else { return };
    vm.console.shell(BOOT).unwrap();
    vm.console.send("continuity 20 0.1\n").unwrap();
    vm.console.wait_for("continuity 3 ok", BOOT).unwrap();
    assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
    // What was on its way to the console has arrived after this; from then on nothing may come.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = vm.console.transcript();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(vm.console.transcript(), before);
    assert!(vm.control_json("resume").unwrap().contains("\"running\""));
    vm.console.wait_for("continuity 20 ok", BOOT).unwrap();
    vm.power_off(COMMAND).unwrap();
}
