// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that changes its stage 1 all the while it moves: it unbinds one of its disks, has its DMA translated or not,
//! and binds it again, over and over, while it works on the other one.

use std::time::{Duration, Instant};

use tests::SEEN;
use tests::disk::{self, work};
use tests::vm::Vm;

use crate::matrix::{answer_of, begin, socket_of};
use crate::relay::Relay;
use crate::support::COMMAND;
use crate::{MIB, machine};

/// Of the link, in bytes: the guest's memory takes it some seconds.
const PER_SECOND: u64 = 16 << 20;
const LIMIT: [&str; 4] = ["--lanes", "1", "--max-rounds", "3"];
const MOVES: usize = 2;

/// Fills the disk that nobody works on with what is known, and changes its domain over and over: what is read through
/// each of them is that.
const CHANGE: &str = "\
    disk=$(ls -d /sys/block/nvme*n1 | grep -v nvme0n1); node=/dev/${disk##*/}; \
    device=$(basename $(readlink -f $disk/device/device)); \
    dd if=/dev/urandom of=/tmp/known bs=64k count=16 2>/dev/null; dd if=/tmp/known of=$node conv=fsync 2>/dev/null; \
    known=$(md5sum < /tmp/known); driver=/sys/bus/pci/drivers/nvme; : >/tmp/changes; \
    (n=0; while [ ! -e /tmp/halt ]; do for type in identity DMA; do n=$((n+1)); \
    echo $device >$driver/unbind || echo unbind FAILED; \
    echo $type >/sys/bus/pci/devices/$device/iommu_group/type || echo $type FAILED; \
    echo $device >$driver/bind || echo bind FAILED; until [ -b $node ]; do sleep 0.02; done; \
    [ \"$(dd if=$node bs=64k count=16 2>/dev/null | md5sum)\" = \"$known\" ] || echo $type read FAILED; \
    echo $n $type; done; done >/tmp/changes 2>&1 &) 2>/dev/null";

/// How often the disk has another domain by now.
fn changes(vm: &mut Vm) -> u64 {
    let last = vm.console.output("tail -n 1 /tmp/changes", COMMAND).unwrap();
    last.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn await_change(vm: &mut Vm) -> u64 {
    let (before, until) = (changes(vm), Instant::now() + COMMAND);
    loop {
        let seen = changes(vm);
        if seen > before {
            return seen;
        }
        assert!(Instant::now() < until, "the disk is not bound again: {before} changes");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn guest_that_changes_its_stage_1_while_it_moves_is_right_after_it() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let images = folders.each_ref().map(|folder| disk::image(folder, MIB).unwrap());
    let Some(mut vm) = machine("stage1", |options| options.nvme = images.to_vec()) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    vm.console.output(CHANGE, COMMAND).unwrap();
    let mut meanwhile = Vec::new();
    for _ in 0..MOVES {
        let before = await_change(&mut vm);
        let next = vm.other_host(COMMAND).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let relay = Relay::slow(folder.path(), &socket_of(&next), PER_SECOND);
        let moved = answer_of(begin(&vm, &relay.address(), &LIMIT));
        assert!(moved.status.success(), "{moved:?}\n{}", next.console.errors());
        assert!(vm.console.wait_exit(COMMAND).unwrap().success());
        vm = next;
        meanwhile.push(changes(&mut vm) - before);
        await_change(&mut vm);
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    vm.console.output("touch /tmp/halt", COMMAND).unwrap();
    let failed =
        vm.console.output("sleep 1; grep -v '^[0-9]* [a-zA-Z]*$' /tmp/changes || true", COMMAND).unwrap();
    assert_eq!(failed, "");
    assert!(meanwhile.iter().all(|count| *count >= 2), "{meanwhile:?}");
    work::finish_unnoticed(vm, COMMAND).unwrap();
    println!("{SEEN}{meanwhile:?} changes of a stage 1 in {MOVES} migrations");
}
