// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICR registers, SGIs, PPIs, and LPIs as far as they need no ITS.

use soft_cpu::gic::TableMemory;

use crate::machine::{CONFIG_TABLE, Machine, SPURIOUS};

#[test]
fn typer_gives_number_affinity_and_last() {
    let machine = Machine::new(18);
    let (first, last) = (machine.redist_qw(0, 8), machine.redist_qw(17, 8));
    assert_eq!(first & 0x11, 1, "LPIs, and not the last");
    assert_eq!(last & 0x10, 0x10);
    assert_eq!(last >> 8 & 0xffff, 17);
    assert_eq!(last >> 32, 0x0101);
    assert_eq!(machine.redist(17, 12), 0x0101, "the upper half by itself");
    assert_eq!(u64::from(soft_cpu::gic::affinity_of(17)), 0x0101);
}

#[test]
fn frames_beyond_the_last_vcpu_read_zero() {
    let machine = Machine::new(1);
    assert_eq!(machine.redist(1, 0xffe8), 0);
    machine.set_redist(1, 0x14, 0);
    assert_eq!(machine.gic.redist_read(u64::MAX - 7, 8), 0);
}

#[test]
fn waker_handshake_follows_at_once_and_sleep_holds_interrupts_back() {
    let machine = Machine::new(1);
    assert_eq!(machine.redist(0, 0x14), 0, "awake at reset");
    machine.set_redist(0, 0x14, 0b10);
    assert_eq!(machine.redist(0, 0x14), 0b110, "the CPU interface follows");
    machine.boot();
    assert_eq!(machine.redist(0, 0x14), 0);
    machine.enable_private(0, 27);
    machine.set_redist(0, 0x14, 0b10);
    machine.gic.set_ppi_level(0, 27, true);
    assert!(!machine.line(0));
    assert_eq!(machine.ack(0), SPURIOUS);
    machine.set_redist(0, 0x14, 0);
    assert_eq!(machine.ack(0), 27);
}

#[test]
fn ppi_is_private_to_its_vcpu() {
    let machine = Machine::booted(2);
    machine.enable_private(0, 27);
    machine.enable_private(1, 27);
    machine.gic.set_ppi_level(1, 27, true);
    assert!(!machine.line(0));
    assert_eq!(machine.ack(1), 27);
    assert_eq!(machine.redist(1, 0x1_0300), 1 << 27);
    assert_eq!(machine.redist(0, 0x1_0300), 0);
}

#[test]
fn sgis_are_always_edge_and_ppis_configurable() {
    let machine = Machine::new(1);
    assert_eq!(machine.redist(0, 0x1_0c00), 0xaaaa_aaaa);
    machine.set_redist(0, 0x1_0c00, 0);
    assert_eq!(machine.redist(0, 0x1_0c00), 0xaaaa_aaaa);
    assert_eq!(machine.redist(0, 0x1_0c04), 0);
    machine.set_redist(0, 0x1_0c04, 0x0080_0000);
    assert_eq!(machine.redist(0, 0x1_0c04), 0x0080_0000);
}

#[test]
fn edge_ppi_latches() {
    let machine = Machine::booted(1);
    machine.set_redist(0, 0x1_0c04, 0x0080_0000);
    machine.enable_private(0, 27);
    machine.gic.set_ppi_level(0, 27, true);
    machine.gic.set_ppi_level(0, 27, false);
    assert_eq!(machine.drain(0, 9), [27]);
}

#[test]
fn sgi_frame_beyond_its_registers_reads_zero() {
    let machine = Machine::new(1);
    for offset in [0x1_0084, 0x1_0104, 0x1_0420, 0x1_0c08, 0x1_0d00, 0x1_0e00, 0x1_6100] {
        machine.set_redist(0, offset, 0xffff_ffff);
        assert_eq!(machine.redist(0, offset), 0, "at {offset:#x}");
    }
}

#[test]
fn table_bases_keep_implemented_bits_and_freeze_while_lpis_are_enabled() {
    let machine = Machine::new(1);
    machine.set_redist_qw(0, 0x70, u64::MAX);
    // Shareability 0b11 is reserved and kept as inner shareable.
    assert_eq!(machine.redist_qw(0, 0x70), 0x070f_ffff_ffff_f79f);
    machine.set_redist_qw(0, 0x78, u64::MAX);
    assert_eq!(machine.redist_qw(0, 0x78), 0x070f_ffff_ffff_0780, "PTZ reads as zero");
    machine.set_redist(0, 0x70, 0x4003_078f);
    machine.set_redist(0, 0x74, 0);
    assert_eq!(machine.redist_qw(0, 0x70), 0x4003_078f);
    machine.set_redist(0, 0, 1);
    machine.set_redist_qw(0, 0x70, 0);
    machine.set_redist_qw(0, 0x78, 0);
    assert_eq!(machine.redist_qw(0, 0x70), 0x4003_078f);
    assert_eq!(machine.redist(0, 0), 0b111);
}

#[test]
fn enabling_lpis_reads_the_pending_table_unless_told_that_it_is_zero() {
    for (zeroed, expected) in [(false, vec![8200, 8321]), (true, vec![])] {
        let machine = Machine::booted(1);
        machine.set_lpi_config(8200, 0xa1);
        machine.set_lpi_config(8321, 0xa1);
        machine.set_lpi_config(8322, 0xa0);
        let table = Machine::pending_table(0);
        assert!(machine.ram.write(table + 8200 / 8, &[1]));
        assert!(machine.ram.write(table + 8321 / 8, &[0b110]));
        // What is below the LPIs in the table means nothing.
        assert!(machine.ram.write(table, &[0xff; 64]));
        machine.set_redist_qw(0, 0x70, CONFIG_TABLE | 0xf);
        machine.set_redist_qw(0, 0x78, table | u64::from(zeroed) << 62);
        machine.set_redist(0, 0, 1);
        assert_eq!(machine.drain(0, 9), expected);
    }
}

#[test]
fn disabling_lpis_writes_the_pending_table_and_enabling_takes_them_back() {
    let machine = Machine::with_lpis(1);
    machine.mapd(1, 4, crate::machine::ITTS);
    machine.mapti(1, 0, 8200, 0);
    assert!(machine.gic.signal_msi(1, 0));
    assert!(machine.line(0));
    machine.set_redist(0, 0, 0);
    assert!(!machine.line(0));
    assert_eq!(machine.ram.word(Machine::pending_table(0) + 1024), 1 << 8);
    machine.gic.signal_msi(1, 0);
    assert!(!machine.line(0), "LPIs that arrive while disabled are dropped");
    machine.set_redist(0, 0, 1);
    assert_eq!(machine.drain(0, 9), [8200]);
}

#[test]
fn zeroed_hint_holds_for_one_enable_only() {
    let machine = Machine::booted(1);
    machine.set_lpi_config(8200, 0xa1);
    machine.set_redist_qw(0, 0x70, CONFIG_TABLE | 0xf);
    machine.set_redist_qw(0, 0x78, Machine::pending_table(0) | 1 << 62);
    machine.set_redist(0, 0, 1);
    machine.set_redist(0, 0, 0);
    assert!(machine.ram.write(Machine::pending_table(0) + 8200 / 8, &[1]));
    machine.set_redist(0, 0, 1);
    assert_eq!(machine.drain(0, 9), [8200]);
}

#[test]
fn propbaser_id_bits_bound_the_lpis() {
    let machine = Machine::booted(1);
    assert!(machine.ram.write(CONFIG_TABLE, &[0xa1; 0xe000]));
    assert!(machine.ram.write(Machine::pending_table(0) + 1024, &[0xff; 7168]));
    machine.set_redist_qw(0, 0x78, Machine::pending_table(0));
    for (id_bits_field, count) in [(12, 0), (13, 8192), (15, 57344), (31, 57344)] {
        machine.set_redist_qw(0, 0x70, CONFIG_TABLE | id_bits_field);
        machine.set_redist(0, 0, 1);
        let pending: u32 =
            machine.gic.save().redistributors[0].pending_lpis.iter().map(|word| word.bits.count_ones()).sum();
        assert_eq!(pending, count, "IDbits {id_bits_field}");
        machine.set_redist(0, 0, 0);
    }
}

#[test]
fn tables_outside_memory_are_harmless() {
    let machine = Machine::booted(1);
    machine.set_redist_qw(0, 0x70, 0x000f_ffff_ffff_f00f);
    machine.set_redist_qw(0, 0x78, 0x000f_ffff_ffff_0000);
    machine.set_redist(0, 0, 1);
    machine.set_redist_qw(0, 0xb0, 0);
    machine.set_redist(0, 0, 0);
    assert!(!machine.line(0));
}

#[test]
fn invlpir_and_invallr_read_the_configuration_again() {
    for all in [false, true] {
        let machine = Machine::with_lpis(1);
        machine.mapd(1, 4, crate::machine::ITTS);
        machine.mapti(1, 0, 8200, 0);
        machine.gic.signal_msi(1, 0);
        machine.set_lpi_config(8200, 0xa0);
        assert!(machine.line(0), "configuration may be cached until it is invalidated");
        let invalidate = |machine: &Machine| match all {
            true => machine.set_redist_qw(0, 0xb0, 0),
            false => machine.set_redist_qw(0, 0xa0, 8200),
        };
        invalidate(&machine);
        assert!(!machine.line(0));
        assert_eq!(machine.redist(0, 0xc0), 0, "SYNCR is not busy");
        machine.set_lpi_config(8200, 0x21);
        invalidate(&machine);
        assert_eq!(machine.ack(0), 8200);
        assert_eq!(machine.icc(0, crate::machine::RPR), 0x20);
    }
}
