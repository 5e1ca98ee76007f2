// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's administrator resets the controller of a disk, or its PCI function, or takes its driver away and brings it
//! back, and a process of the disk is killed meanwhile: each time the order ends as if it had not been, the disk works
//! again, and has what was written. Moments are drawn by a seed that is printed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use support::{COMMAND, launch_at_shell};
use tests::crash::{Life, await_next};
use tests::disk::{self, work};
use tests::draw::Draw;
use tests::vm::Vm;
use tests::{SEEN, asked};

/// How often a process is killed, unless `BULKHEAD_KILLS` says how often.
const KILLS: u32 = 20;
const MIB: u64 = 64;
/// The processes of the disk.
const PROCESSES: [&str; 2] = ["nvme0", "vfio0"];
/// What is written before each order, each time elsewhere.
const BLOCK_LEN: usize = 64 << 10;

/// The disk's function.
const FUNCTION: &str = "/sys/bus/pci/devices/0000:00:01.0";
/// What an administrator does to it, in the guest's shell, and within which time most of it is done. Reads go on
/// meanwhile where the driver stays: they wait.
const ORDERS: [(&str, Duration); 3] = [
    (
        "(dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null || echo read FAILED) & \
        echo 1 > $F/nvme/nvme0/reset_controller; code=$?; wait; (exit $code)",
        Duration::from_millis(500),
    ),
    (
        "(dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null || echo read FAILED) & \
        echo 1 > $F/reset; code=$?; wait; (exit $code)",
        Duration::from_millis(800),
    ),
    (
        // The disk is looked for beside the order.
        "echo 0000:00:01.0 > /sys/bus/pci/drivers/nvme/unbind && \
        echo 0000:00:01.0 > /sys/bus/pci/drivers/nvme/bind && while [ ! -b /dev/nvme0n1 ]; do sleep 0.1; done",
        Duration::from_millis(800),
    ),
];
/// What a kernel says that is in trouble.
const TROUBLE: &str = "dmesg | grep -E 'Oops|BUG|WARNING|Call trace|blocked for more|stall|panic' || true";

#[test]
fn disk_is_reset_unbound_and_bound_while_its_processes_are_killed_and_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let launched = launch_at_shell("resets", |options| {
        options.nvme = vec![image.clone()];
        // They die more often here than a user would put up with.
        options.arguments = ["--device-restarts-per-minute", "1000"].map(Into::into).to_vec();
    });
    let Some(mut vm) = launched else { return };
    vm.console.output(&format!("F={FUNCTION}"), COMMAND).unwrap();
    let kills = asked("BULKHEAD_KILLS").unwrap().unwrap_or(KILLS);
    let blocks = u32::try_from((MIB << 20) / BLOCK_LEN as u64).unwrap();
    let mut draw = Draw::by_seed();
    for kill in 0..kills {
        let at = kill % blocks;
        write_block(&mut vm, kill, at);
        let (order, span) = ORDERS[(kill as usize) % ORDERS.len()];
        let process = PROCESSES[draw.below(PROCESSES.len())];
        let life = Life::of(&vm, process).unwrap().unwrap();
        let moment = draw.moment(span);
        let killer = thread::spawn(move || {
            thread::sleep(moment);
            life.kill()
        });
        let answer = vm.console.run(order, COMMAND);
        let killed = killer.join().unwrap();
        println!("{process} was killed {moment:?} into `{order}`: {killed}, {answer:?}");
        let answer = answer.unwrap();
        assert_eq!((answer.code, answer.output.as_str()), (0, ""), "{}", vm.console.errors());
        await_next(&vm, process, life, Instant::now() + COMMAND).unwrap();
        read_block(&mut vm, at);
    }
    assert_eq!(work::complaints(&mut vm.console, COMMAND).unwrap(), "");
    assert_eq!(vm.console.output(TROUBLE, COMMAND).unwrap(), "");
    assert!(!vm.console.errors().contains("is lost"), "{}", vm.console.errors());
    vm.finish(COMMAND).unwrap();
    let image = File::open(image).unwrap();
    for kill in kills.saturating_sub(blocks)..kills {
        let mut found = vec![0; BLOCK_LEN];
        image.read_exact_at(&mut found, u64::from(kill % blocks) * BLOCK_LEN as u64).unwrap();
        assert!(found == block(kill), "block {} is not what was written before kill {kill}", kill % blocks);
    }
    println!(
        "{SEEN}{kills} kills in the middle of resets, unbinding and binding: the disk has what was written"
    );
}

/// What is written before a kill: lines with its number.
fn block(kill: u32) -> Vec<u8> {
    format!("kill {kill}\n").bytes().cycle().take(BLOCK_LEN).collect()
}

/// The guest writes, and the disk has it when this returns.
fn write_block(vm: &mut Vm, kill: u32, at: u32) {
    let write = format!(
        "yes 'kill {kill}' | head -c {BLOCK_LEN} > /tmp/block && \
        dd if=/tmp/block of=/dev/nvme0n1 bs={BLOCK_LEN} seek={at} conv=fsync 2>/dev/null"
    );
    vm.console.output(&write, COMMAND).unwrap();
}

/// What was written is read from the disk.
fn read_block(vm: &mut Vm, at: u32) {
    let read = format!(
        "echo 3 > /proc/sys/vm/drop_caches; \
        dd if=/dev/nvme0n1 bs={BLOCK_LEN} skip={at} count=1 iflag=direct 2>/dev/null | cmp - /tmp/block"
    );
    vm.console.output(&read, COMMAND).unwrap();
}
