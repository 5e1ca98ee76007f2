// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock arm64 Linux on several software CPUs: all work, are taken offline and online, and are saved together.

use tests::{
    guest::{GuestFiles, USER_SPACE_MARK},
    vm::Vm,
};

use crate::support::{BOOT, COMMAND, launch_as};

/// A guest of this many CPUs at its shell, or nothing, after saying why.
fn guest_of(vcpu_count: u32, name: &str) -> Option<Vm> {
    let mut vm = launch_as(GuestFiles::cached(), name, |options| {
        options.arguments = ["--cpu", "soft", "--vcpus", &vcpu_count.to_string()].map(String::from).to_vec();
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

pub fn output(vm: &mut Vm, command: &str) -> String {
    vm.console.output(command, BOOT).unwrap()
}

/// Whatever the kernel says when a CPU hangs, an interrupt is lost or memory is torn.
pub fn assert_kernel_is_content(vm: &mut Vm) {
    let complaints =
        output(vm, "dmesg | grep -iE 'BUG|stall|lockup|Oops|WARNING|unhandled|failed to come' || true");
    assert_eq!(complaints, "");
}

/// Every CPU hashes zeros and makes processes; the hash is known, so a torn register or page shows.
pub fn work_on_all(vm: &mut Vm, vcpu_count: u32) {
    let hashes = output(
        vm,
        &format!(
            "(for job in $(seq {}); do (for turn in 1 2 3; do dd if=/dev/zero bs=64k count=16 2>/dev/null | sha256sum; \
             done) & done; wait)",
            2 * vcpu_count
        ),
    );
    const MEBIBYTE_OF_ZEROS: &str = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
    assert_eq!(hashes.matches(MEBIBYTE_OF_ZEROS).count(), 6 * vcpu_count as usize, "{hashes}");
}

/// Ticks of user and system time of each CPU.
fn busy_ticks(vm: &mut Vm) -> Vec<u64> {
    let stat = output(vm, "grep '^cpu[0-9]' /proc/stat");
    let busy = |line: &str| {
        let mut fields = line.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap());
        fields.next().unwrap() + fields.nth(1).unwrap()
    };
    stat.lines().map(busy).collect()
}

fn boots_and_works(vcpu_count: u32) {
    let Some(mut vm) = guest_of(vcpu_count, "smp") else { return };
    assert_eq!(output(&mut vm, "nproc"), vcpu_count.to_string());
    let before = busy_ticks(&mut vm);
    work_on_all(&mut vm, vcpu_count);
    let after = busy_ticks(&mut vm);
    assert_eq!(after.len(), vcpu_count as usize);
    for (cpu, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(after > before, "CPU {cpu} did no work: {before} and {after} ticks");
    }
    let interrupts = output(&mut vm, "grep -E 'IPI0|IPI1|arch_timer' /proc/interrupts");
    for line in interrupts.lines() {
        let counts = line.split_whitespace().skip(1).take(vcpu_count as usize);
        assert!(counts.clone().all(|count| count != "0"), "a CPU takes no interrupts:\n{interrupts}");
    }
    assert_kernel_is_content(&mut vm);
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}

#[test]
fn guest_of_two_cpus_boots_and_works_on_both() {
    boots_and_works(2);
}

#[test]
fn guest_of_four_cpus_boots_and_works_on_all() {
    boots_and_works(4);
}

#[test]
fn guest_of_eight_cpus_boots_and_works_on_all() {
    boots_and_works(8);
}

/// Hashes on so many CPUs until `end_load`.
fn begin_load(vm: &mut Vm, jobs: u32) {
    output(
        vm,
        &format!(
            "for job in $(seq {jobs}); do (while [ ! -e /tmp/end ]; do sha256sum /bin/busybox; done >/dev/null) & done"
        ),
    );
}

fn end_load(vm: &mut Vm) {
    output(vm, "touch /tmp/end; wait");
}

#[test]
fn cpus_that_are_unplugged_come_back_and_work() {
    let Some(mut vm) = guest_of(4, "hotplug") else { return };
    // So that there is something to move away.
    begin_load(&mut vm, 2);
    let online = |vm: &mut Vm, cpus: &[u32], value: u32| {
        for cpu in cpus {
            output(vm, &format!("echo {value} >/sys/devices/system/cpu/cpu{cpu}/online"));
        }
    };
    for _ in 0..5 {
        online(&mut vm, &[1, 2, 3], 0);
        assert_eq!(output(&mut vm, "cat /sys/devices/system/cpu/online"), "0");
        online(&mut vm, &[3, 1, 2], 1);
        assert_eq!(output(&mut vm, "cat /sys/devices/system/cpu/online"), "0-3");
    }
    end_load(&mut vm);
    work_on_all(&mut vm, 4);
    assert_kernel_is_content(&mut vm);
    vm.power_off(COMMAND).unwrap();
}

/// Enough for every CPU: hashes, pages that are written and given back, and two programs that wake each other, which
/// takes interrupts between CPUs. Until `end_load`.
fn begin_mixed_load(vm: &mut Vm, vcpu_count: u32) {
    let jobs = vcpu_count / 2;
    begin_load(vm, jobs);
    let until_end = "while [ ! -e /tmp/end ]; do";
    output(
        vm,
        &format!(
            "for job in $(seq {jobs}); do \
             ({until_end} dd if=/dev/zero of=/tmp/pages$job bs=64k count=64 2>/dev/null; rm /tmp/pages$job; done) & \
             ({until_end} echo wake; done | while read line; do :; done) & done"
        ),
    );
}

/// Interrupts that CPUs have sent each other so that one looks at its run queue.
fn reschedule_interrupts(vm: &mut Vm) -> u64 {
    let line = output(vm, "grep IPI0 /proc/interrupts");
    line.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
}

fn paused_and_saved_at_work(vcpu_count: u32) {
    let Some(mut vm) = guest_of(vcpu_count, "together") else { return };
    // One of many CPUs is off when it is saved, the others are busy.
    let some_off = vcpu_count > 2;
    if some_off {
        output(&mut vm, "echo 0 >/sys/devices/system/cpu/cpu2/online");
    }
    begin_mixed_load(&mut vm, vcpu_count);
    let before = reschedule_interrupts(&mut vm);
    vm.console.send("continuity 6 0\n").unwrap();
    for turn in 1..=2u32 {
        vm.console.wait_for(&format!("continuity {} ok", 2 * turn), BOOT).unwrap();
        assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
        assert!(vm.control_json("resume").unwrap().contains("\"running\""));
        let answer = vm.control_json("save-restore").unwrap();
        assert!(answer.contains(&format!("\"generation\": {}", turn + 1)), "{answer}");
    }
    vm.console.wait_for("continuity 6 ok", BOOT).unwrap();
    assert!(!vm.console.transcript().contains("FAILED"), "{}", vm.console.transcript());
    let sent = reschedule_interrupts(&mut vm) - before;
    assert!(sent > 0, "the load made no CPU interrupt another");
    end_load(&mut vm);
    if some_off {
        output(&mut vm, "echo 1 >/sys/devices/system/cpu/cpu2/online");
    }
    work_on_all(&mut vm, vcpu_count);
    assert_kernel_is_content(&mut vm);
    vm.power_off(COMMAND).unwrap();
}

#[test]
fn two_cpus_at_work_are_paused_saved_and_restored_together() {
    paused_and_saved_at_work(2);
}

#[test]
fn four_cpus_at_work_are_paused_saved_and_restored_together() {
    paused_and_saved_at_work(4);
}

#[test]
fn guest_of_four_cpus_reboots_a_dozen_times() {
    let Some(mut vm) = guest_of(4, "reboots") else { return };
    for _ in 0..12 {
        vm.console.send("reboot -f\n").unwrap();
        // The prompt of before is still unread.
        vm.console.wait_for(USER_SPACE_MARK, BOOT).unwrap();
        vm.console.shell(BOOT).unwrap();
        assert_eq!(output(&mut vm, "nproc"), "4");
    }
    work_on_all(&mut vm, 4);
    assert_kernel_is_content(&mut vm);
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}
