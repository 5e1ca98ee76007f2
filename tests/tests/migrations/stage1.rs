// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that changes its stage 1 all the while it moves, and works on a disk: it unbinds another one, has its DMA
//! translated or not, and binds it again, over and over; or a program in it drives that by VFIO, with DMA through
//! addresses that it maps for each transfer.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::disk::{self, work};
use tests::guest::GuestFiles;
use tests::tools::CROSS;
use tests::vm::Vm;
use tests::{SEEN, SKIPPED};

use crate::matrix::{answer_of, begin, socket_of};
use crate::relay::Relay;
use crate::support::COMMAND;
use crate::{MIB, machine};

/// Of the link, in bytes: the guest's memory takes it some seconds.
const PER_SECOND: u64 = 16 << 20;
const LIMIT: [&str; 4] = ["--lanes", "1", "--max-rounds", "3"];
const MOVES: usize = 2;

/// The disk that nobody works on.
const OTHER: &str = "disk=$(ls -d /sys/block/nvme*n1 | grep -v nvme0n1); node=/dev/${disk##*/}; \
    device=$(basename $(readlink -f $disk/device/device)); driver=/sys/bus/pci/drivers/nvme; \
    dd if=/dev/urandom of=/tmp/known bs=64k count=16 2>/dev/null; dd if=/tmp/known of=$node conv=fsync 2>/dev/null; \
    known=$(md5sum < /tmp/known); : >/tmp/changes; ";

/// Changes its domain over and over: what is read through each of them is what was written.
const CHANGE: &str = "\
    (n=0; while [ ! -e /tmp/halt ]; do for type in identity DMA; do n=$((n+1)); \
    echo $device >$driver/unbind || echo unbind FAILED; \
    echo $type >/sys/bus/pci/devices/$device/iommu_group/type || echo $type FAILED; \
    echo $device >$driver/bind || echo bind FAILED; until [ -b $node ]; do sleep 0.02; done; \
    [ \"$(dd if=$node bs=64k count=16 2>/dev/null | md5sum)\" = \"$known\" ] || echo $type read FAILED; \
    echo $n $type; done; done >/tmp/changes 2>&1 &) 2>/dev/null";

/// Has a program drive it. The kernel wants to be told so where it does not know the device's messages to be isolated.
const DRIVE: &str = "\
    echo Y >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts; folder=/sys/bus/pci/devices/$device; \
    echo $device >$driver/unbind; echo vfio-pci >$folder/driver_override; \
    echo $device >/sys/bus/pci/drivers_probe; group=$(basename $(readlink $folder/iommu_group)); \
    (userdriver $device $group >/tmp/changes 2>&1 & echo $! >/tmp/pid)";

/// The kernel's own driver has it again.
const GIVE_BACK: &str = "\
    kill $(cat /tmp/pid); sleep 1; echo $device >/sys/bus/pci/drivers/vfio-pci/unbind; echo >$folder/driver_override; \
    echo $device >/sys/bus/pci/drivers_probe; until [ -b $node ]; do sleep 0.1; done; \
    [ \"$(dd if=$node bs=64k count=16 2>/dev/null | md5sum)\" = \"$known\" ] || echo read FAILED";

/// How often its stage 1 has changed by now.
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
        if Instant::now() >= until {
            let notes = vm.console.output("tail -n 3 /tmp/changes; dmesg | tail -n 5", COMMAND).unwrap();
            panic!("nothing changes any more: {notes}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Moves it over the slow link, some times. How often its stage 1 has changed meanwhile.
fn moved(mut vm: Vm) -> (Vm, Vec<u64>) {
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
    assert!(meanwhile.iter().all(|count| *count >= 2), "{meanwhile:?}");
    (vm, meanwhile)
}

/// A guest that works on one of two disks, which are there for as long as their folders.
fn with_two_disks(name: &str, guest: Option<GuestFiles>) -> Option<(Vm, [TempDir; 2])> {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let images = folders.each_ref().map(|folder| disk::image(folder, MIB).unwrap());
    let mut vm = machine(name, |options| {
        options.nvme = images.to_vec();
        options.guest = guest.unwrap_or_else(|| options.guest.clone());
    })?;
    work::begin(&mut vm.console, COMMAND).unwrap();
    Some((vm, folders))
}

#[test]
fn guest_that_changes_its_stage_1_while_it_moves_is_right_after_it() {
    let Some((mut vm, _disks)) = with_two_disks("stage1", None) else { return };
    vm.console.output(&[OTHER, CHANGE].concat(), COMMAND).unwrap();
    let (mut vm, meanwhile) = moved(vm);
    vm.console.output("touch /tmp/halt; sleep 1", COMMAND).unwrap();
    let failed = vm.console.output("grep -v '^[0-9]* [a-zA-Z]*$' /tmp/changes || true", COMMAND).unwrap();
    assert_eq!(failed, "");
    work::finish_unnoticed(vm, COMMAND).unwrap();
    println!("{SEEN}{meanwhile:?} changes of a disk's domain in {MOVES} migrations");
}

#[test]
fn guest_of_16k_pages_whose_program_drives_a_disk_by_vfio_moves_and_the_program_notices_nothing() {
    let Some(guest) = GuestFiles::with_pages("16k") else {
        return println!("{SKIPPED}no kernel of 16k pages: `cargo xtask guest --page-sizes` brings one");
    };
    let Some((mut vm, _disks)) = with_two_disks("userdriver", Some(guest)) else { return };
    if vm.console.output("which userdriver || true", COMMAND).unwrap().is_empty() {
        return println!("{SKIPPED}{}", CROSS.missing());
    }
    vm.console.output(&[OTHER, DRIVE].concat(), COMMAND).unwrap();
    let (mut vm, meanwhile) = moved(vm);
    assert_eq!(vm.console.output(GIVE_BACK, COMMAND).unwrap(), "");
    let failed = vm.console.output("grep -v '^[0-9]*$' /tmp/changes || true", COMMAND).unwrap();
    assert_eq!(failed, "");
    work::finish_unnoticed(vm, COMMAND).unwrap();
    println!("{SEEN}{meanwhile:?} mappings by a program in {MOVES} migrations");
}
