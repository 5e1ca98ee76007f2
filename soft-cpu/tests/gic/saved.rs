// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save and restore: nothing lost, nothing trusted.

use soft_cpu::gic::saved::{GicV1, ItsV1, PendingLpisV1};
use soft_cpu::gic::{Gic, GicError, TableMemory};

use crate::machine::{BPR1, CTLR, DEVICE_TABLE, ITTS, Machine, PMR, RPR, config};

/// A machine with something unusual in every part.
fn busy() -> Machine {
    let machine = Machine::with_lpis(3);
    machine.enable_spi(40, false);
    machine.enable_spi(41, true);
    machine.enable_spi(42, true);
    machine.set_priority(42, 0x20);
    machine.gic.dist_write(0x6000 + 41 * 8, 8, 2);
    machine.gic.set_level(40, true);
    machine.gic.pulse(41);
    machine.gic.pulse(42);
    assert_eq!(machine.ack(0), 42);
    machine.set_icc(1, BPR1, 5);
    machine.set_icc(1, CTLR, 0b11);
    machine.set_icc(1, PMR, 0x80);
    machine.enable_private(1, 27);
    machine.gic.set_ppi_level(1, 27, true);
    machine.set_redist(2, 0x14, 0b10);
    machine.mapd(5, 4, ITTS);
    machine.mapti(5, 3, 8200, 1);
    machine.mapti(5, 4, 65535, 2);
    machine.gic.signal_msi(5, 3);
    machine.gic.signal_msi(5, 4);
    machine
}

#[test]
fn save_restore_save_gives_the_same() {
    let machine = busy();
    let other = machine.migrated();
    assert_eq!(other.gic.save(), machine.gic.save());
    assert_eq!(other.gic.save_its(), machine.gic.save_its());
    assert_eq!(other.ram.contents(), machine.ram.contents(), "neither changed memory");
}

#[test]
fn restored_machine_goes_on_where_the_other_stopped() {
    let machine = busy().migrated();
    assert_eq!(machine.icc(0, RPR), 0x20);
    assert!(!machine.line(0), "SPI 42 is still being handled");
    machine.eoi(0, 42);
    assert_eq!(machine.drain(0, 3), [40, 40, 40], "the wire is still high");
    machine.gic.set_level(40, false);
    assert!(!machine.line(0));
    machine.set_icc(1, PMR, 0xf0);
    assert_eq!(machine.ack(1), 27);
    machine.gic.set_ppi_level(1, 27, false);
    machine.set_icc(1, CTLR, 0);
    assert_eq!(machine.icc(1, BPR1), 5);
    machine.eoi(1, 27);
    assert_eq!(machine.drain(1, 9), [8200]);
    machine.set_redist(2, 0x14, 0);
    assert_eq!(machine.drain(2, 9), [41, 65535]);
    machine.gic.signal_msi(5, 4);
    assert_eq!(machine.drain(2, 9), [65535], "mappings came with memory");
}

#[test]
fn lines_that_are_high_are_reported_by_restore() {
    let machine = busy();
    machine.set_icc(1, PMR, 0xf0);
    let other = machine.migrated();
    assert_eq!((other.rises(0), other.rises(1), other.rises(2)), (0, 1, 0));
    assert!(other.line(1));
}

#[test]
fn half_done_queue_is_finished_by_the_other_machine() {
    let machine = busy();
    let mut next = machine.gic.its_read(0x88, 8);
    for _ in 0..200 {
        next = machine.enqueue(next, [0x05, 0, 0, 0]);
    }
    next = machine.enqueue(next, [5 << 32 | 0x01, 3, 0, 0]);
    machine.gic.its_write(0x88, 8, next);
    assert_ne!(machine.gic.save_its().unwrap().creadr, next);
    let other = machine.migrated();
    while other.gic.its_step(10) {}
    assert_eq!(other.gic.save_its().unwrap().creadr, next);
    other.eoi(0, 42);
    other.gic.set_level(40, false);
    assert_eq!(other.drain(0, 9), [8200], "the MOVI ran there");
}

fn restored(gic: &GicV1, its: Option<&ItsV1>) -> Result<Gic, GicError> {
    Gic::restore(config(3), crate::machine::Ram::new(), Box::new(|_| ()), gic, its)
}

#[test]
fn state_of_another_shape_is_refused() {
    let machine = busy();
    let (gic, its) = (machine.gic.save(), machine.gic.save_its().unwrap());
    assert!(restored(&gic, Some(&its)).is_ok());
    assert!(restored(&gic, None).is_err());
    let changes: [fn(&mut GicV1); 7] = [
        |gic| _ = gic.redistributors.pop(),
        |gic| _ = gic.cpu_interfaces.pop(),
        |gic| gic.distributor.routes.push(0),
        |gic| _ = gic.distributor.spis.words.pop(),
        |gic| gic.distributor.spis.priorities.push(0),
        |gic| gic.redistributors[1].private.words.clear(),
        |gic| _ = gic.redistributors[2].private.priorities.pop(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = gic.clone();
        change(&mut changed);
        assert!(matches!(restored(&changed, Some(&its)), Err(GicError::Shape(_))), "change {index}");
    }
}

#[test]
fn hostile_values_are_cut_to_what_a_guest_could_have_written() {
    let machine = busy();
    let (mut gic, mut its) = (machine.gic.save(), machine.gic.save_its().unwrap());
    gic.distributor.ctlr = u64::MAX;
    gic.distributor.routes.fill(u64::MAX);
    gic.distributor.spis.priorities.fill(0xff);
    for vcpu in &mut gic.redistributors {
        vcpu.waker = u64::MAX;
        vcpu.propbaser = u64::MAX;
        vcpu.pendbaser = u64::MAX;
        vcpu.private.words[0].edge = 0;
        vcpu.pending_lpis = vec![PendingLpisV1 { index: u32::MAX, bits: u64::MAX }; 3];
        vcpu.pending_lpis.push(PendingLpisV1 { index: 895, bits: u64::MAX });
    }
    for cpu in &mut gic.cpu_interfaces {
        (cpu.pmr, cpu.bpr0, cpu.bpr1, cpu.ctlr) = (u64::MAX, 0, 0, u64::MAX);
        (cpu.igrpen0, cpu.igrpen1, cpu.ap1r0) = (u64::MAX, u64::MAX, u64::MAX);
    }
    its.cbaser &= !0xff;
    (its.cwriter, its.creadr) = (u64::MAX, 0xf_ffe0);
    (its.devices, its.collections) = (u64::MAX, u64::MAX);
    let again = restored(&gic, Some(&its)).unwrap();
    assert_eq!(again.dist_read(0, 4), 0x53);
    assert_eq!(again.dist_read(0x6000 + 32 * 8, 8), 0x0000_00ff_00ff_ffff);
    assert_eq!(again.dist_read(0x420, 1), 0xf8);
    assert_eq!(again.redist_read(0x1_0c00, 4), 0xaaaa_aaaa);
    assert_eq!(again.redist_read(0x70, 8), 0x070f_ffff_ffff_f79f);
    assert_eq!(again.icc_read(0, PMR), Some(0xf8));
    assert_eq!(again.its_read(0x108, 8) >> 62 & 1, 0);
    let (once, its_once) = (again.save(), again.save_its().unwrap());
    assert_eq!(once.redistributors[0].pending_lpis, [PendingLpisV1 { index: 895, bits: u64::MAX }]);
    assert!(its_once.creadr < 0x1000 && its_once.cwriter < 0x1000);
    let twice = restored(&once, Some(&its_once)).unwrap();
    assert_eq!((twice.save(), twice.save_its().unwrap()), (once, its_once));
}

#[test]
fn saving_does_not_write_memory() {
    let machine = busy();
    let before = machine.ram.contents();
    machine.gic.save();
    machine.gic.save_its();
    assert!(machine.ram.contents() == before);
    assert_eq!(machine.ram.word(Machine::pending_table(1) + 1024), 0);
}

#[test]
fn tables_in_memory_decide_after_a_restore() {
    let machine = busy();
    assert!(machine.ram.write(DEVICE_TABLE + 5 * 8, &0u64.to_le_bytes()));
    assert!(!machine.migrated().gic.signal_msi(5, 3), "no translation is cached across a restore");
}
