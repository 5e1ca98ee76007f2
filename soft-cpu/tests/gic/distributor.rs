// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GICD registers and SPIs.

use crate::machine::{CTLR, DIR, Machine, SPURIOUS};

#[test]
fn ctlr_reads_are_and_ds_as_one_and_keeps_group_enables_only() {
    let machine = Machine::new(1);
    assert_eq!(machine.dist(0), 0x50);
    machine.set_dist(0, 0xffff_ffff);
    assert_eq!(machine.dist(0), 0x53);
    machine.set_dist(0, 0);
    assert_eq!(machine.dist(0), 0x50);
}

#[test]
fn typer_tells_lines_lpis_and_id_bits() {
    let typer = Machine::new(1).dist(4);
    assert_eq!(typer & 0x1f, 2, "64 SPIs");
    assert_eq!(typer >> 10 & 1, 0, "one security state");
    assert_eq!(typer >> 16 & 3, 3, "message-based SPIs and LPIs");
    assert_eq!(typer >> 19 & 0x1f, 15, "16-bit INTIDs");
    assert_eq!(typer >> 25 & 1, 1, "no 1-of-N");
}

#[test]
fn typer_without_its_has_no_lpis_and_ten_id_bits() {
    let machine = Machine::with(soft_cpu::gic::GicConfig { vcpu_count: 1, spi_count: 988, its: false });
    let typer = machine.dist(4);
    assert_eq!(typer & 0x1f, 31);
    assert_eq!(typer >> 17 & 1, 0);
    assert_eq!(typer >> 19 & 0x1f, 9);
    assert_eq!(machine.redist_qw(0, 8) & 1, 0, "no physical LPIs");
    machine.set_redist(0, 0, 1);
    assert_eq!(machine.redist(0, 0), 0, "EnableLPIs is RES0");
    machine.set_dist(0x100 + 31 * 4, 0xffff_ffff);
    assert_eq!(machine.dist(0x100 + 31 * 4), 0x0fff_ffff, "INTIDs 1020 to 1023 are not interrupts");
}

#[test]
fn pidr2_says_gicv3_in_every_control_frame() {
    let machine = Machine::new(2);
    assert_eq!(machine.dist(0xffe8) >> 4 & 0xf, 3);
    assert_eq!(machine.redist(1, 0xffe8) >> 4 & 0xf, 3);
    assert_eq!(machine.gic.its_read(0xffe8, 4) >> 4 & 0xf, 3);
}

#[test]
fn set_and_clear_registers_change_named_bits_only() {
    let machine = Machine::new(1);
    for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
        machine.set_dist(set + 4, 0xf0);
        machine.set_dist(set + 4, 0x0f);
        assert_eq!(machine.dist(set + 4), 0xff, "set at {set:#x}");
        machine.set_dist(clear + 4, 0x3c);
        assert_eq!(machine.dist(set + 4), 0xc3, "clear at {clear:#x}");
        assert_eq!(machine.dist(clear + 4), 0xc3, "both read the same");
        assert_eq!(machine.dist(set + 8), 0, "the next word is not touched");
    }
}

#[test]
fn private_interrupts_and_absent_spis_read_zero_and_ignore_writes() {
    let machine = Machine::new(1);
    for offset in
        [0x80, 0x100, 0x200, 0x300, 0x400, 0x41c, 0xc00, 0xc04, 0x6000, 0x80 + 12, 0x100 + 12, 0x460]
    {
        machine.set_dist(offset, 0xffff_ffff);
        assert_eq!(machine.dist(offset), 0, "at {offset:#x}");
    }
}

#[test]
fn priority_keeps_five_bits_by_byte_and_by_word() {
    let machine = Machine::new(1);
    machine.set_dist(0x420, 0xff5f_a701);
    assert_eq!(machine.dist(0x420), 0xf858_a000);
    machine.gic.dist_write(0x421, 1, 0x13);
    assert_eq!(machine.dist(0x420), 0xf858_1000);
    assert_eq!(machine.gic.dist_read(0x423, 1), 0xf8);
}

#[test]
fn config_keeps_the_upper_bit_of_each_pair() {
    let machine = Machine::new(1);
    machine.set_dist(0xc08, 0xffff_ffff);
    assert_eq!(machine.dist(0xc08), 0xaaaa_aaaa);
    machine.set_dist(0xc0c, 0x8000_0002);
    assert_eq!(machine.dist(0xc0c), 0x8000_0002);
    assert_eq!(machine.dist(0xc08), 0xaaaa_aaaa);
}

#[test]
fn irouter_keeps_affinity_by_whole_and_by_halves() {
    let machine = Machine::new(1);
    machine.gic.dist_write(0x6100, 8, u64::MAX);
    assert_eq!(machine.gic.dist_read(0x6100, 8), 0x0000_00ff_00ff_ffff, "IRM is RES0");
    machine.set_dist(0x6108, 5);
    machine.set_dist(0x610c, 1);
    assert_eq!(machine.gic.dist_read(0x6108, 8), 0x1_0000_0005);
    assert_eq!(machine.dist(0x610c), 1);
}

#[test]
fn wrong_sizes_and_alignments_read_zero_and_change_nothing() {
    let machine = Machine::new(1);
    machine.gic.dist_write(0x104, 8, u64::MAX);
    machine.gic.dist_write(0x104, 1, 0xff);
    machine.gic.dist_write(0x106, 4, 0xffff_ffff);
    machine.gic.dist_write(0, 2, 3);
    assert_eq!(machine.dist(0x104), 0);
    assert_eq!(machine.dist(0), 0x50);
    assert_eq!(machine.gic.dist_read(4, 3), 0);
    assert_eq!(machine.gic.counters().refused_accesses, 5);
}

#[test]
fn level_spi_follows_its_wire() {
    let machine = Machine::booted(1);
    machine.enable_spi(33, false);
    machine.gic.set_level(33, true);
    assert!(machine.line(0));
    assert_eq!(machine.dist(0x204), 0b10);
    machine.gic.set_level(33, false);
    assert!(!machine.line(0));
    assert_eq!(machine.ack(0), SPURIOUS);
}

#[test]
fn level_spi_still_high_after_end_is_signalled_again() {
    let machine = Machine::booted(1);
    machine.enable_spi(33, false);
    machine.gic.set_level(33, true);
    assert_eq!(machine.ack(0), 33);
    assert!(!machine.line(0), "active, so not signalled");
    assert_eq!(machine.dist(0x204), 0b10, "active and pending");
    machine.eoi(0, 33);
    assert!(machine.line(0));
    assert_eq!(machine.ack(0), 33);
    machine.gic.set_level(33, false);
    machine.eoi(0, 33);
    assert!(!machine.line(0));
}

#[test]
fn resampled_spi_falls_with_its_end_and_only_it_is_told() {
    let (told, heard) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let mut machine = Machine::booted(1);
    let on_end = Box::new(move |intid| told.lock().unwrap().send(intid).unwrap());
    machine.gic = machine.gic.with_resampled(vec![33], on_end);
    machine.enable_spi(33, false);
    machine.enable_spi(34, false);
    for intid in [33, 34] {
        machine.gic.set_level(intid, true);
    }
    assert_eq!(machine.ack(0), 33);
    assert!(heard.try_recv().is_err(), "an acknowledge is no end");
    machine.eoi(0, 33);
    assert_eq!(heard.try_recv(), Ok(33));
    assert_eq!(machine.ack(0), 34, "the wire of the first has fallen");
    machine.eoi(0, 34);
    assert!(machine.line(0), "the other has not");
    assert!(heard.try_recv().is_err());
    // Split end: the deactivation is the end.
    machine.set_icc(0, CTLR, 1 << 1);
    machine.gic.set_level(34, false);
    machine.gic.set_level(33, true);
    assert_eq!(machine.ack(0), 33);
    machine.eoi(0, 33);
    assert!(heard.try_recv().is_err());
    machine.set_icc(0, DIR, 33);
    assert_eq!(heard.try_recv(), Ok(33));
    assert!(!machine.line(0));
}

#[test]
fn level_spi_is_not_cleared_by_icpendr_while_high() {
    let machine = Machine::booted(1);
    machine.enable_spi(33, false);
    machine.gic.set_level(33, true);
    machine.set_dist(0x284, 0b10);
    assert!(machine.line(0));
}

#[test]
fn level_spi_pended_by_software_stays_pending_without_the_wire() {
    let machine = Machine::booted(1);
    machine.enable_spi(33, false);
    machine.set_dist(0x204, 0b10);
    machine.gic.set_level(33, true);
    machine.gic.set_level(33, false);
    assert_eq!(machine.ack(0), 33);
    machine.eoi(0, 33);
    assert!(!machine.line(0));
}

#[test]
fn edge_spi_latches_once_for_each_rise() {
    let machine = Machine::booted(1);
    machine.enable_spi(34, true);
    machine.gic.set_level(34, true);
    machine.gic.set_level(34, false);
    assert_eq!(machine.drain(0, 9), [34]);
    machine.gic.set_level(34, true);
    machine.gic.set_level(34, true);
    assert_eq!(machine.drain(0, 9), [34], "a wire that stays high is one edge");
}

#[test]
fn edge_spi_that_arrives_while_active_is_signalled_after_its_end() {
    let machine = Machine::booted(1);
    machine.enable_spi(34, true);
    machine.gic.pulse(34);
    assert_eq!(machine.ack(0), 34);
    machine.gic.pulse(34);
    machine.gic.pulse(34);
    assert!(!machine.line(0));
    machine.eoi(0, 34);
    assert_eq!(machine.drain(0, 9), [34], "edges merge");
}

#[test]
fn pulse_leaves_no_trace_on_a_level_spi() {
    let machine = Machine::booted(1);
    machine.enable_spi(35, false);
    machine.gic.pulse(35);
    assert!(!machine.line(0));
    assert_eq!(machine.rises(0), 0);
}

#[test]
fn message_registers_raise_and_lower_level_and_latch_edge() {
    let machine = Machine::booted(1);
    machine.enable_spi(36, false);
    machine.set_dist(0x40, 36);
    assert!(machine.line(0));
    machine.set_dist(0x48, 36);
    assert!(!machine.line(0));
    machine.enable_spi(37, true);
    machine.gic.dist_write(0x40, 2, 37);
    assert_eq!(machine.drain(0, 9), [37]);
    machine.set_dist(0x40, 37);
    machine.set_dist(0x48, 37);
    assert!(!machine.line(0));
    machine.set_dist(0x40, 5);
    machine.set_dist(0x40, 1023);
    assert!(!machine.line(0), "only SPIs have messages");
}

#[test]
fn disabled_spi_waits_for_its_enable() {
    let machine = Machine::booted(1);
    machine.enable_spi(40, true);
    machine.set_dist(0x184, 1 << 8);
    machine.gic.pulse(40);
    assert!(!machine.line(0));
    machine.set_dist(0x104, 1 << 8);
    assert_eq!(machine.drain(0, 9), [40]);
}

#[test]
fn group_0_spi_is_never_signalled() {
    let machine = Machine::booted(1);
    machine.set_dist(0, 0b11);
    machine.enable_spi(41, true);
    machine.set_dist(0x84, !(1 << 9));
    machine.gic.pulse(41);
    assert!(!machine.line(0));
    assert_eq!(machine.icc(0, crate::machine::IAR0), SPURIOUS);
    machine.set_dist(0x84, 0xffff_ffff);
    assert_eq!(machine.drain(0, 9), [41], "it stayed pending");
}

#[test]
fn group_1_disabled_in_the_distributor_forwards_nothing() {
    let machine = Machine::booted(1);
    machine.enable_spi(42, true);
    machine.set_dist(0, 0);
    machine.gic.pulse(42);
    assert!(!machine.line(0));
    machine.set_dist(0, 0b10);
    assert!(machine.line(0));
}

#[test]
fn spi_goes_to_the_vcpu_its_route_names() {
    let machine = Machine::booted(20);
    machine.enable_spi(43, true);
    machine.gic.dist_write(0x6000 + 43 * 8, 8, 0x0102);
    machine.gic.pulse(43);
    let high: Vec<usize> = (0..20).filter(|vcpu| machine.line(*vcpu)).collect();
    assert_eq!(high, [18], "Aff1 = 1, Aff0 = 2");
    machine.gic.dist_write(0x6000 + 43 * 8, 8, 3);
    assert!(!machine.line(18));
    assert_eq!(machine.ack(3), 43, "a pending SPI moves with its route");
    machine.eoi(3, 43);
    machine.gic.dist_write(0x6000 + 43 * 8, 8, 0x0200);
    machine.gic.pulse(43);
    assert!((0..20).all(|vcpu| !machine.line(vcpu)), "nobody has that affinity");
}

#[test]
fn active_spi_is_not_signalled_to_its_new_vcpu() {
    let machine = Machine::booted(2);
    machine.enable_spi(44, true);
    machine.gic.pulse(44);
    assert_eq!(machine.ack(0), 44);
    machine.gic.dist_write(0x6000 + 44 * 8, 8, 1);
    machine.gic.pulse(44);
    assert!(!machine.line(1));
    machine.eoi(0, 44);
    assert_eq!(machine.ack(1), 44);
}

#[test]
fn wires_that_do_not_exist_are_ignored() {
    let machine = Machine::booted(1);
    for intid in [0, 16, 31, 96, 1019, 1020, 1023, 8192, u32::MAX] {
        machine.gic.set_level(intid, true);
        machine.gic.pulse(intid);
    }
    machine.gic.set_ppi_level(0, 15, true);
    machine.gic.set_ppi_level(0, 32, true);
    machine.gic.set_ppi_level(1, 27, true);
    assert!(!machine.line(0));
    assert!(!machine.line(7));
}
