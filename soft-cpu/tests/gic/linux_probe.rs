// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The order of accesses in which a Linux guest brings the GIC up, with what it checks on the way,
//! and one device's MSI-X from mapping to teardown.

use soft_cpu::gic::TableMemory;

use crate::machine::{
    BPR1, COLLECTION_TABLE, CONFIG_TABLE, CTLR, DEVICE_TABLE, IGRPEN1, ITTS, Machine, PMR, QUEUE, SGI1R, SRE,
};

/// Distributor: identify, disable, make every SPI a disabled level interrupt of group 1, route, enable.
fn bring_up_distributor(machine: &Machine) {
    assert_eq!(machine.dist(0xffe8) & 0xf0, 0x30);
    let lines = 32 * ((machine.dist(4) & 0x1f) + 1);
    assert_eq!(machine.dist(0xc), 0, "TYPER2: nothing of GICv4.1");
    machine.set_dist(0, 0);
    assert_eq!(machine.dist(0) & 1 << 31, 0, "RWP");
    for word in 1..lines / 32 {
        machine.set_dist(0x80 + 4 * word, 0xffff_ffff);
    }
    for index in 2..lines / 16 {
        machine.set_dist(0xc00 + 4 * index, 0);
    }
    for word in 8..lines / 4 {
        machine.set_dist(0x400 + 4 * word, 0xa0a0_a0a0);
    }
    for word in 1..lines / 32 {
        machine.set_dist(0x380 + 4 * word, 0xffff_ffff);
        machine.set_dist(0x180 + 4 * word, 0xffff_ffff);
    }
    machine.set_dist(0, 0x13);
    assert_eq!(machine.dist(0) & 0x52, 0x52, "ARE, DS and group 1");
    for intid in 32..lines {
        machine.gic.dist_write(0x6000 + 8 * intid, 8, 0);
    }
}

/// A CPU: find its redistributor by affinity, wake it, private interrupts, system registers.
fn bring_up_cpu(machine: &Machine, cpu: usize) {
    let affinity = u64::from(soft_cpu::gic::affinity_of(cpu));
    let mut frame = 0;
    while machine.redist_qw(frame, 8) >> 32 != affinity {
        assert_eq!(machine.redist(frame, 0xffe8) & 0xf0, 0x30);
        assert_eq!(machine.redist_qw(frame, 8) & 0x10, 0, "Last before the CPU was found");
        frame += 1;
    }
    assert_eq!(frame, cpu);
    let waker = machine.redist(frame, 0x14);
    machine.set_redist(frame, 0x14, waker & !0b10);
    assert_eq!(machine.redist(frame, 0x14) & 0b100, 0, "ChildrenAsleep");
    machine.set_redist(frame, 0x1_0080, 0xffff_ffff);
    machine.set_redist(frame, 0x1_0380, 0xffff_ffff);
    machine.set_redist(frame, 0x1_0180, 0xffff_ffff);
    for word in 0..8 {
        machine.set_redist(frame, 0x1_0400 + 4 * word, 0xa0a0_a0a0);
    }
    assert_eq!(machine.icc(cpu, SRE) & 1, 1);
    let priority_bits = (machine.icc(cpu, CTLR) >> 8 & 7) + 1;
    machine.set_icc(cpu, PMR, 1 << (8 - priority_bits));
    assert_ne!(machine.icc(cpu, PMR), 0, "priorities are not shifted: one security state");
    machine.set_icc(cpu, PMR, 0xf0);
    machine.set_icc(cpu, BPR1, 0);
    machine.set_icc(cpu, CTLR, 0);
    machine.set_icc(cpu, crate::machine::AP1R0, 0);
    machine.set_icc(cpu, crate::machine::AP0R0, 0);
    machine.set_icc(cpu, IGRPEN1, 1);
    for sgi in 0..8 {
        machine.set_redist(cpu, 0x1_0100, 1 << sgi);
    }
}

fn bring_up_lpis(machine: &Machine, cpu: usize) {
    assert_eq!(machine.redist_qw(cpu, 8) & 1, 1, "PLPIS");
    assert_eq!(machine.redist(cpu, 0) & 1, 0);
    let propbaser = CONFIG_TABLE | 0b111 << 7 | 0b01 << 10 | 15;
    machine.set_redist_qw(cpu, 0x70, propbaser);
    assert_eq!(machine.redist_qw(cpu, 0x70), propbaser, "shareability accepted");
    let pendbaser = Machine::pending_table(cpu) | 0b111 << 7 | 0b01 << 10;
    machine.set_redist_qw(cpu, 0x78, pendbaser | 1 << 62);
    assert_eq!(machine.redist_qw(cpu, 0x78), pendbaser);
    let ctlr = machine.redist(cpu, 0);
    machine.set_redist(cpu, 0, ctlr | 1);
    assert_eq!(machine.redist(cpu, 0) & 1, 1);
}

/// ITS: for each BASER find a page size that sticks, then a value that is read back unchanged.
fn bring_up_its(machine: &Machine) {
    let its = |offset| machine.gic.its_read(offset, 8);
    assert_eq!(machine.gic.its_read(0xffe8, 4) & 0xf0, 0x30);
    let ctlr = machine.gic.its_read(0, 4);
    machine.gic.its_write(0, 4, ctlr & !1);
    assert_ne!(machine.gic.its_read(0, 4) & 1 << 31, 0, "Quiescent");
    let mut found = Vec::new();
    for offset in (0x100..0x140).step_by(8) {
        let register = its(offset);
        let (kind, entry_len) = (register >> 56 & 7, (register >> 48 & 0x1f) + 1);
        let table = match kind {
            0 => continue,
            1 => DEVICE_TABLE,
            4 => COLLECTION_TABLE,
            other => unreachable!("a table of type {other}"),
        };
        assert_eq!(entry_len, 8);
        // The largest page size is tried first; this guest's pages are 4 KiB, so it then asks for those.
        machine.gic.its_write(offset, 8, register & !0x300 | 2 << 8);
        assert_eq!(its(offset) >> 8 & 3, 2);
        let value = 1 << 63 | kind << 56 | 7 << 48 | 0b111 << 59 | 0b01 << 10 | table | 0xf;
        machine.gic.its_write(offset, 8, value);
        assert_eq!(its(offset), value, "the table is accepted as it was offered");
        found.push(kind);
    }
    assert_eq!(found, [1, 4]);
    let cbaser = 1 << 63 | 0b111 << 59 | 0b01 << 10 | QUEUE | 0xf;
    machine.gic.its_write(0x80, 8, cbaser);
    assert_eq!(its(0x80), cbaser);
    machine.gic.its_write(0x88, 8, 0);
    let ctlr = machine.gic.its_read(0, 4);
    machine.gic.its_write(0, 4, ctlr | 1);
}

fn bring_up(cpus: usize) -> Machine {
    let machine = Machine::new(cpus);
    bring_up_distributor(&machine);
    bring_up_its_and_cpus(&machine, cpus);
    machine
}

fn bring_up_its_and_cpus(machine: &Machine, cpus: usize) {
    for cpu in 0..cpus {
        bring_up_cpu(machine, cpu);
        bring_up_lpis(machine, cpu);
        if cpu == 0 {
            bring_up_its(machine);
        }
        machine.mapc(cpu as u64, cpu as u64);
        machine.command([0x0d, 0, cpu as u64, 0]);
    }
    assert_eq!(machine.command_errors(), 0);
    assert_eq!(machine.gic.counters().refused_accesses, 0, "no access of Linux is refused");
}

#[test]
fn timer_ppi_and_ipi_work_after_bring_up() {
    let machine = bring_up(4);
    machine.set_redist(2, 0x1_0100, 1 << 27);
    machine.gic.set_ppi_level(2, 27, true);
    assert_eq!(machine.ack(2), 27);
    machine.gic.set_ppi_level(2, 27, false);
    machine.eoi(2, 27);
    machine.set_icc(0, SGI1R, 1 << 24 | 0b1110);
    for cpu in 1..4 {
        assert_eq!(machine.drain(cpu, 9), [1]);
    }
}

#[test]
fn msix_of_one_device_from_mapping_to_teardown() {
    let machine = bring_up(2);
    let (device, vectors) = (0x0008, 4);
    machine.mapd(device, 5, ITTS);
    for vector in 0..vectors {
        // A vector is mapped while disabled, then enabled in the table and invalidated.
        machine.set_lpi_config(8192 + vector, 0xa0 | 0b10);
        machine.mapti(device, vector, 8192 + vector, vector % 2);
        machine.gic.signal_msi(device as u32, vector as u32);
        assert!(!machine.line((vector % 2) as usize), "masked");
        machine.set_lpi_config(8192 + vector, 0xa0 | 0b11);
        machine.set_redist_qw((vector % 2) as usize, 0xa0, 8192 + vector);
        assert_eq!(machine.drain((vector % 2) as usize, 9), [8192 + vector], "kept while masked");
    }
    // Affinity change of a vector with a message on its way.
    machine.gic.signal_msi(device as u32, 0);
    machine.movi(device, 0, 1);
    assert_eq!((machine.line(0), machine.drain(1, 9)), (false, vec![8192]));
    // Mask, teardown.
    machine.set_lpi_config(8193, 0xa0 | 0b10);
    machine.inv(device, 1);
    machine.gic.signal_msi(device as u32, 1);
    assert!(!machine.line(1));
    for vector in 0..vectors {
        machine.command([device << 32 | 0x0f, vector, 0, 0]);
    }
    machine.command([device << 32 | 0x08, 0, 0, 0]);
    assert_eq!(machine.command_errors(), 0);
    assert!(!machine.gic.signal_msi(device as u32, 0));
}

#[test]
fn kernel_started_by_kexec_finds_lpis_enabled_and_can_disable_them() {
    let machine = bring_up(1);
    assert_eq!(machine.redist(0, 0) & 0b11, 0b11, "enabled, and CES says that it can be cleared");
    machine.set_redist(0, 0, 0);
    assert_eq!(machine.redist(0, 0) & 1, 0);
    assert!(machine.ram.write(Machine::pending_table(0), &[0; 0x2000]));
    bring_up_distributor(&machine);
    machine.gic.its_write(0, 4, 0);
    bring_up_its_and_cpus(&machine, 1);
}
