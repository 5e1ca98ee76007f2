// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GITS registers: what a guest's probing reads back.

use crate::machine::{COLLECTION_TABLE, DEVICE_TABLE, Machine, QUEUE};

#[test]
fn typer_tells_widths_and_that_targets_are_processor_numbers() {
    let typer = Machine::new(1).gic.its_read(8, 8);
    assert_eq!(typer & 1, 1, "physical LPIs");
    assert_eq!(typer >> 4 & 0xf, 7, "8-byte ITT entries");
    assert_eq!(typer >> 8 & 0x1f, 15);
    assert_eq!(typer >> 13 & 0x1f, 15);
    assert_eq!(typer >> 19 & 1, 0, "PTA");
    assert_eq!(typer >> 24 & 0xff, 0, "no collections outside memory");
    assert_eq!(typer >> 36 & 1, 0, "16-bit collections");
}

#[test]
fn machine_without_its_reads_zero() {
    let machine = Machine::with(soft_cpu::gic::GicConfig { vcpu_count: 1, spi_count: 32, its: false });
    machine.gic.its_write(0, 4, 1);
    assert_eq!(machine.gic.its_read(0xffe8, 4), 0);
    assert!(!machine.gic.signal_msi(0, 0));
    assert!(!machine.gic.its_step(1));
    assert_eq!(machine.gic.save_its(), None);
}

#[test]
fn ctlr_is_quiescent_exactly_when_disabled() {
    let machine = Machine::new(1);
    assert_eq!(machine.gic.its_read(0, 4), 1 << 31);
    machine.gic.its_write(0, 4, 0xffff_ffff);
    assert_eq!(machine.gic.its_read(0, 4), 1);
    machine.gic.its_write(0, 4, 0);
    assert_eq!(machine.gic.its_read(0, 4), 1 << 31);
}

#[test]
fn basers_tell_type_and_entry_size_and_keep_the_rest() {
    let machine = Machine::new(1);
    let (devices, collections) = (machine.gic.its_read(0x100, 8), machine.gic.its_read(0x108, 8));
    assert_eq!((devices >> 56 & 7, devices >> 48 & 0x1f), (1, 7));
    assert_eq!((collections >> 56 & 7, collections >> 48 & 0x1f), (4, 7));
    for offset in (0x110..0x140).step_by(8) {
        machine.gic.its_write(offset, 8, u64::MAX);
        assert_eq!(machine.gic.its_read(offset, 8), 0, "not implemented: {offset:#x}");
    }
    machine.gic.its_write(0x100, 8, u64::MAX);
    // Type 1, entry size 8, page size 64 KiB for the reserved value, inner shareable for the reserved value.
    assert_eq!(machine.gic.its_read(0x100, 8), 0xf9e7_ffff_ffff_f6ff);
    machine.gic.its_write(0x108, 8, u64::MAX);
    assert_eq!(machine.gic.its_read(0x108, 8), 0xbce7_ffff_ffff_f6ff, "collections are never indirect");
}

#[test]
fn baser_page_sizes_are_all_offered() {
    let machine = Machine::new(1);
    for offset in [0x100, 0x108] {
        assert_eq!(machine.gic.its_read(offset, 8) >> 8 & 3, 2, "64 KiB until the guest chooses");
    }
    for page_size in 0..3 {
        machine.gic.its_write(0x100, 8, page_size << 8);
        assert_eq!(machine.gic.its_read(0x100, 8) >> 8 & 3, page_size);
    }
}

#[test]
fn baser_by_halves() {
    let machine = Machine::new(1);
    machine.gic.its_write(0x104, 4, 1 << 31);
    machine.gic.its_write(0x100, 4, DEVICE_TABLE | 3);
    assert_eq!(machine.gic.its_read(0x100, 8), 1 << 63 | 1 << 56 | 7 << 48 | DEVICE_TABLE | 3);
}

#[test]
fn tables_and_queue_freeze_while_enabled() {
    let machine = Machine::with_lpis(1);
    let before =
        (machine.gic.its_read(0x80, 8), machine.gic.its_read(0x100, 8), machine.gic.its_read(0x108, 8));
    for offset in [0x80, 0x100, 0x108] {
        machine.gic.its_write(offset, 8, 0);
    }
    let after =
        (machine.gic.its_read(0x80, 8), machine.gic.its_read(0x100, 8), machine.gic.its_read(0x108, 8));
    assert_eq!(before, after);
}

#[test]
fn cbaser_write_empties_the_queue() {
    let machine = Machine::with_lpis(1);
    assert_ne!(machine.gic.its_read(0x90, 8), 0);
    machine.gic.its_write(0, 4, 0);
    machine.gic.its_write(0x80, 8, 1 << 63 | QUEUE);
    assert_eq!(machine.gic.its_read(0x90, 8), 0);
    assert_eq!(machine.gic.its_read(0x88, 8), 0);
}

#[test]
fn cwriter_beyond_the_queue_is_ignored() {
    let machine = Machine::new(1);
    machine.gic.its_write(0x80, 8, 1 << 63 | QUEUE);
    machine.gic.its_write(0x88, 8, 0x0fe0);
    machine.gic.its_write(0x88, 8, 0x1000);
    assert_eq!(machine.gic.its_read(0x88, 8), 0x0fe0);
    assert_eq!(machine.gic.its_read(0x90, 8), 0, "disabled: nothing runs");
}

#[test]
fn creadr_and_typer_are_read_only() {
    let machine = Machine::new(1);
    let typer = machine.gic.its_read(8, 8);
    machine.gic.its_write(8, 8, 0);
    machine.gic.its_write(0x90, 8, 0x40);
    assert_eq!(machine.gic.its_read(8, 8), typer);
    assert_eq!(machine.gic.its_read(0x90, 8), 0);
}

#[test]
fn vcpu_write_to_translater_signals_nothing() {
    let machine = Machine::with_lpis(1);
    machine.mapd(0, 4, crate::machine::ITTS);
    machine.mapti(0, 1, 8193, 0);
    machine.gic.its_write(0x1_0040, 4, 1);
    machine.gic.its_write(0x1_0040, 2, 1);
    assert!(!machine.line(0));
    assert!(machine.gic.signal_msi(0, 1));
    assert!(machine.line(0));
}

#[test]
fn sizes_that_registers_do_not_take_are_refused() {
    let machine = Machine::new(1);
    machine.gic.its_write(0x100, 2, 0xffff);
    machine.gic.its_write(0, 1, 1);
    machine.gic.its_write(0, 8, 1);
    assert_eq!(machine.gic.its_read(0, 4), 1 << 31);
    assert_eq!(machine.gic.its_read(8, 2), 0);
    assert_eq!(machine.gic.counters().refused_accesses, 4);
}

#[test]
fn sixty_four_kib_pages_put_high_address_bits_low() {
    let machine = Machine::booted(1);
    // Bits 15:12 are address bits 51:48, so this table is far outside memory; with 4 KiB pages it would be
    // inside.
    machine.gic.its_write(0x108, 8, 1 << 63 | COLLECTION_TABLE | 0x1000 | 2 << 8);
    machine.gic.its_write(0x80, 8, 1 << 63 | QUEUE | 0xf);
    machine.gic.its_write(0, 4, 1);
    machine.mapc(0, 0);
    assert_eq!(machine.command_errors(), 1);
}
