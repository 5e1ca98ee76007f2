// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers, doorbells and configuration space as a host in this process meets them; resets and shutdown.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use dev_nvme::spec::command::admin;
use host::local::started;
use host::{CC_ENABLE, Wire, blank, read, status};

const MIB: u64 = 1 << 20;

#[test]
fn registers_out_of_reset_are_as_specified() {
    let driver = started(MIB);
    let wire = &driver.wire;
    let cap = wire.read(0, 8);
    // 1024 entries, contiguous, 10 s, the NVM command set, 4 KiB pages only.
    assert_eq!(cap, 1 << 37 | 20 << 24 | 1 << 16 | 1023);
    assert_eq!((wire.read(0, 4), wire.read(4, 4)), (cap & 0xffff_ffff, cap >> 32));
    assert_eq!(wire.read(8, 4), 0x10400);
    // Interrupt masks are not for MSI-X; what does not exist reads as 0 and takes no write.
    wire.write(0xc, 4, 0xffff_ffff);
    wire.write(0x38, 4, 0xffff_ffff);
    assert_eq!((wire.read(0xc, 4), wire.read(0x38, 4), wire.read(0xffc, 8)), (0, 0, 0));
    wire.write(0, 8, u64::MAX);
    assert_eq!(wire.read(0, 8), cap);
    assert_eq!(wire.read(0x14, 4), u64::from(CC_ENABLE));
}

#[test]
fn enabling_with_what_is_not_offered_is_fatal_and_a_reset_ends_it() {
    for cc in [CC_ENABLE | 1 << 7, CC_ENABLE | 1 << 4, CC_ENABLE | 1 << 11] {
        let driver = started(MIB);
        driver.disable();
        driver.wire.write(0x14, 4, cc.into());
        assert_eq!(driver.csts() & 3, 2, "{cc:#x}");
        driver.enable();
        assert!(driver.identify(1, 0).is_ok());
    }
}

#[test]
fn bad_doorbells_do_no_harm() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 8);
    let page = driver.pages(1);
    for value in [8, 9, 0xffff, 0xffff_ffff] {
        driver.wire.write(0x1008, 4, value);
        driver.wire.write(0x100c, 4, value);
    }
    // A completion queue's head beyond what was written.
    driver.wire.write(0x100c, 4, 3);
    driver.wire.write(0x1000 + 17 * 8, 4, 1);
    driver.wire.write(0x1002, 4, 1);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
}

#[test]
fn queues_outside_memory_are_fatal_and_a_reset_ends_it() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 8);
    queue.lose(!0xfff);
    let mut command = blank(admin::DELETE_IO_SQ);
    command.cdw10 = 1.into();
    assert_eq!(status(&driver.admin(command)), 0);
    let mut command = blank(admin::CREATE_IO_SQ);
    command.prp1 = (!0xfff).into();
    command.cdw10 = (7 << 16 | 1).into();
    command.cdw11 = (1 << 16 | 1).into();
    assert_eq!(status(&driver.admin(command)), 0);
    driver.wire.write(0x1008, 4, 1);
    while driver.wire.step() {}
    assert_eq!(driver.csts() & 2, 2);
    driver.enable();
    assert_eq!(driver.csts() & 2, 0);
    assert!(driver.identify(1, 0).is_ok());
}

#[test]
fn reset_while_commands_wait_forgets_them() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    for _ in 0..40 {
        driver.enqueue(&mut queue, read(0, 8, page, 0));
    }
    driver.ring(&queue);
    assert!(driver.wire.step());
    driver.wire.pause_engine(true);
    driver.enable();
    driver.wire.pause_engine(false);
    while driver.wire.step() {}
    let mut again = driver.create(1, 64);
    assert_eq!(driver.poll(&mut again, true), None);
    assert_eq!(status(&driver.run(&mut again, read(0, 8, page, 0))), 0);
}

#[test]
fn shutdown_finishes_what_was_asked_and_says_so() {
    let driver = started(MIB);
    let _ = driver.wire.raised.take();
    driver.wire.write(0x14, 4, u64::from(CC_ENABLE | 1 << 14));
    assert_eq!(driver.csts() >> 2 & 3, 1);
    driver.until("shut down", |csts| csts >> 2 & 3 == 2);
    driver.enable();
    assert!(driver.identify(1, 0).is_ok());
    assert_eq!(driver.wire.raised.take()[0], 1);
}

#[test]
fn configuration_space_has_the_class_and_capabilities_of_nvme() {
    use dev_nvme::device::Region;
    let driver = started(MIB);
    let device = &driver.wire.device;
    let get = |at: u64| {
        let mut bytes = [0; 4];
        device.read(Region::Config, at, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let put = |at: u64, value: u32| device.write(Region::Config, at, &value.to_le_bytes()).unwrap();
    assert_eq!(get(8), 0x0108_0200);
    // BAR sizing.
    put(0x10, u32::MAX);
    put(0x14, u32::MAX);
    assert_eq!((get(0x10), get(0x14)), (!0x3fff | 4, u32::MAX));
    put(0x10, 0x1000_0000);
    put(0x14, 0x80);
    assert_eq!((get(0x10), get(0x14)), (0x1000_0004, 0x80));
    put(0x18, u32::MAX);
    assert_eq!(get(0x18), 0);
    // The chain ends, and holds PM, MSI-X and PCI Express.
    let mut at = get(0x34) & 0xff;
    let mut found = Vec::new();
    while at != 0 && found.len() < 10 {
        found.push(get(at.into()) & 0xff);
        at = get(at.into()) >> 8 & 0xff;
    }
    assert_eq!(found, [1, 0x11, 0x10]);
    assert_eq!((get(0x50) >> 16 & 0x7ff, get(0x54), get(0x58)), (16, 0x2000, 0x3000));
    put(0x50, u32::MAX);
    assert_eq!(get(0x50) >> 16, 0xc010);
    assert_eq!(get(0x100), 0);
    // A function level reset.
    put(0x68, 0x8000);
    assert_eq!((driver.csts(), get(0x68) & 0x8000, get(0x10)), (0, 0, 4));
    // The MSI-X table is kept, masked at first; the PBA is zeros.
    let wire = &driver.wire;
    assert_eq!(wire.read(0x200c, 4), 1);
    wire.write(0x2000, 8, 0xfee0_0000_1234_5678);
    wire.write(0x200c, 4, 0xffff_fffe);
    assert_eq!(
        (wire.read(0x2000, 8), wire.read(0x200c, 4), wire.read(0x3000, 8)),
        (0xfee0_0000_1234_5678, 0, 0)
    );
}
