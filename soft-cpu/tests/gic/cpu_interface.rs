// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ICC registers: acknowledge and end, masking and preemption, SGIs between vCPUs.

use crate::machine::{
    AP0R0, AP1R0, AP1R1, BPR0, BPR1, CTLR, DIR, EOIR0, EOIR1, HPPIR0, HPPIR1, IAR0, IAR1, IGRPEN0, IGRPEN1,
    Machine, PMR, RPR, SGI0R, SGI1R, SPURIOUS, SRE,
};

#[test]
fn reset_values_mask_everything() {
    let machine = Machine::new(1);
    assert_eq!(machine.icc(0, PMR), 0);
    assert_eq!(machine.icc(0, IGRPEN1), 0);
    assert_eq!(machine.icc(0, RPR), 0xff);
    assert_eq!(machine.icc(0, AP1R0), 0);
    assert_eq!(machine.icc(0, BPR0), 2);
    assert_eq!(machine.icc(0, BPR1), 3);
    assert_eq!(machine.icc(0, SRE), 7);
    assert_eq!(machine.ack(0), SPURIOUS);
}

#[test]
fn ctlr_reports_five_priority_bits_and_keeps_two_modes() {
    let machine = Machine::new(1);
    assert_eq!(machine.icc(0, CTLR) >> 8 & 7, 4);
    assert_eq!(machine.icc(0, CTLR) >> 18 & 1, 0, "no range selector");
    machine.set_icc(0, CTLR, u64::MAX);
    assert_eq!(machine.icc(0, CTLR) & 0xff, 0b11);
}

#[test]
fn pmr_and_bpr_keep_what_five_bits_allow() {
    let machine = Machine::new(1);
    machine.set_icc(0, PMR, 0xff);
    assert_eq!(machine.icc(0, PMR), 0xf8);
    for register in [BPR0, BPR1] {
        machine.set_icc(0, register, 7);
        assert_eq!(machine.icc(0, register), 7);
    }
    machine.set_icc(0, BPR0, 0);
    machine.set_icc(0, BPR1, 0);
    assert_eq!((machine.icc(0, BPR0), machine.icc(0, BPR1)), (2, 3));
}

#[test]
fn common_binary_point_shows_bpr0_plus_one_and_ignores_writes_to_bpr1() {
    let machine = Machine::new(1);
    machine.set_icc(0, BPR1, 5);
    machine.set_icc(0, CTLR, 1);
    for (bpr0, shown) in [(2, 3), (4, 5), (6, 7), (7, 7)] {
        machine.set_icc(0, BPR0, bpr0);
        assert_eq!(machine.icc(0, BPR1), shown);
    }
    machine.set_icc(0, BPR1, 3);
    machine.set_icc(0, CTLR, 0);
    assert_eq!(machine.icc(0, BPR1), 5);
}

#[test]
fn registers_that_do_not_exist_are_undefined() {
    let machine = Machine::new(1);
    assert_eq!(machine.gic.icc_read(0, AP1R1), None);
    assert!(!machine.gic.icc_write(0, AP1R1, 0));
    assert_eq!(machine.gic.icc_read(0, EOIR1), None, "write only");
    assert!(!machine.gic.icc_write(0, IAR1, 0), "read only");
    assert!(!machine.gic.icc_write(0, RPR, 0), "read only");
    assert_eq!(machine.gic.icc_read(0, 0), None);
    assert_eq!(machine.gic.icc_read(1, PMR), None, "no such vCPU");
}

#[test]
fn group_0_registers_are_benign() {
    let machine = Machine::booted(1);
    machine.set_icc(0, IGRPEN0, 1);
    assert_eq!(machine.icc(0, IGRPEN0), 1);
    machine.set_icc(0, AP0R0, u64::MAX);
    assert_eq!(machine.icc(0, AP0R0), 0);
    assert_eq!(machine.icc(0, IAR0), SPURIOUS);
    assert_eq!(machine.icc(0, HPPIR0), SPURIOUS);
    machine.set_icc(0, EOIR0, 40);
    assert_eq!(machine.icc(0, RPR), 0xff);
}

#[test]
fn acknowledge_takes_the_highest_priority_then_the_lowest_intid() {
    let machine = Machine::booted(1);
    for (intid, priority) in [(40, 0x80), (41, 0x40), (42, 0x40), (43, 0xe0)] {
        machine.enable_spi(intid, true);
        machine.set_priority(intid, priority);
        machine.gic.pulse(intid as u32);
    }
    assert_eq!(machine.icc(0, HPPIR1), 41);
    assert_eq!(machine.drain(0, 9), [41, 42, 40, 43]);
    assert_eq!(machine.icc(0, HPPIR1), SPURIOUS);
}

#[test]
fn priority_mask_is_strict() {
    let machine = Machine::booted(1);
    machine.enable_spi(40, true);
    machine.set_priority(40, 0x80);
    machine.gic.pulse(40);
    machine.set_icc(0, PMR, 0x80);
    assert!(!machine.line(0), "equal to the mask is masked");
    assert_eq!(machine.ack(0), SPURIOUS);
    assert_eq!(machine.icc(0, HPPIR1), 40, "the mask does not hide it from HPPIR");
    machine.set_icc(0, PMR, 0x88);
    assert!(machine.line(0));
}

#[test]
fn higher_priority_preempts_and_equal_does_not() {
    let machine = Machine::booted(1);
    for (intid, priority) in [(40, 0x80), (41, 0x80), (42, 0x40)] {
        machine.enable_spi(intid, true);
        machine.set_priority(intid, priority);
    }
    machine.gic.pulse(40);
    assert_eq!(machine.ack(0), 40);
    assert_eq!(machine.icc(0, RPR), 0x80);
    machine.gic.pulse(41);
    assert!(!machine.line(0));
    machine.gic.pulse(42);
    assert_eq!(machine.ack(0), 42);
    assert_eq!(machine.icc(0, RPR), 0x40);
    assert_eq!(machine.icc(0, AP1R0), 1 << (0x80 / 8) | 1 << (0x40 / 8));
    machine.eoi(0, 42);
    assert_eq!(machine.icc(0, RPR), 0x80);
    assert!(!machine.line(0));
    machine.eoi(0, 40);
    assert_eq!(machine.ack(0), 41);
}

#[test]
fn binary_point_makes_a_group_of_priorities_that_do_not_preempt_each_other() {
    let machine = Machine::booted(1);
    machine.set_icc(0, BPR1, 6);
    for (intid, priority) in [(40, 0xb8), (41, 0x80), (42, 0x78)] {
        machine.enable_spi(intid, true);
        machine.set_priority(intid, priority);
    }
    machine.gic.pulse(40);
    assert_eq!(machine.ack(0), 40);
    assert_eq!(machine.icc(0, RPR), 0x80, "the group priority");
    machine.gic.pulse(41);
    assert!(!machine.line(0), "same group");
    machine.gic.pulse(42);
    assert_eq!(machine.ack(0), 42, "the group above");
}

#[test]
fn eoi_mode_splits_priority_drop_and_deactivation() {
    let machine = Machine::booted(1);
    machine.set_icc(0, CTLR, 0b10);
    machine.enable_spi(40, false);
    machine.gic.set_level(40, true);
    assert_eq!(machine.ack(0), 40);
    machine.eoi(0, 40);
    assert_eq!(machine.icc(0, RPR), 0xff);
    assert_eq!(machine.dist(0x304), 1 << 8, "still active");
    assert!(!machine.line(0));
    machine.set_icc(0, DIR, 40);
    assert_eq!(machine.dist(0x304), 0);
    assert!(machine.line(0));
}

#[test]
fn dir_without_eoi_mode_does_nothing() {
    let machine = Machine::booted(1);
    machine.enable_spi(40, true);
    machine.gic.pulse(40);
    assert_eq!(machine.ack(0), 40);
    machine.set_icc(0, DIR, 40);
    assert_eq!(machine.dist(0x304), 1 << 8);
}

#[test]
fn end_of_special_or_idle_interrupts_is_harmless() {
    let machine = Machine::booted(1);
    machine.enable_spi(40, true);
    machine.gic.pulse(40);
    assert_eq!(machine.ack(0), 40);
    for intid in 1020..1024 {
        machine.eoi(0, intid);
    }
    assert_eq!(machine.icc(0, RPR), 0xa0, "special INTIDs end nothing");
    machine.eoi(0, 40);
    for intid in [40, 1019, 5000, 8192, 0xff_ffff, u64::MAX] {
        machine.eoi(0, intid);
    }
    assert_eq!(machine.icc(0, RPR), 0xff);
    machine.gic.pulse(40);
    assert_eq!(machine.ack(0), 40);
}

#[test]
fn group_enable_of_the_interface_hides_everything() {
    let machine = Machine::booted(1);
    machine.enable_spi(40, true);
    machine.gic.pulse(40);
    machine.set_icc(0, IGRPEN1, 0);
    assert!(!machine.line(0));
    assert_eq!(machine.icc(0, HPPIR1), SPURIOUS);
    machine.set_icc(0, IGRPEN1, 1);
    assert!(machine.line(0));
}

#[test]
fn callback_comes_once_for_each_rise() {
    let machine = Machine::booted(2);
    machine.enable_spi(40, true);
    machine.enable_spi(41, true);
    machine.gic.pulse(40);
    machine.gic.pulse(41);
    assert_eq!((machine.rises(0), machine.rises(1)), (1, 0), "it was high already");
    assert_eq!(machine.drain(0, 9).len(), 2);
    machine.gic.pulse(41);
    // The line fell for each acknowledge, and rose again when the first interrupt ended.
    assert_eq!(machine.rises(0), 3);
}

#[test]
fn callback_may_call_the_gic() {
    use std::sync::{Arc, OnceLock, Weak};
    let slot: Arc<OnceLock<Weak<soft_cpu::gic::Gic>>> = Arc::default();
    let inner = Arc::clone(&slot);
    let on_irq = Box::new(move |vcpu| {
        let gic = inner.get().and_then(Weak::upgrade).unwrap();
        assert_eq!(gic.icc_read(vcpu, IAR1), Some(3));
    });
    let gic = Arc::new(
        soft_cpu::gic::Gic::new(crate::machine::config(1), crate::machine::Ram::new(), on_irq).unwrap(),
    );
    slot.set(Arc::downgrade(&gic)).unwrap();
    gic.dist_write(0, 4, 2);
    gic.redist_write(0x14, 4, 0);
    gic.redist_write(0x1_0080, 4, 0xffff_ffff);
    gic.redist_write(0x1_0100, 4, 1 << 3);
    gic.icc_write(0, PMR, 0xf0);
    gic.icc_write(0, IGRPEN1, 1);
    gic.icc_write(0, SGI1R, 3 << 24 | 1);
    assert_eq!(gic.icc_read(0, RPR), Some(0));
}

fn sgi(intid: u64, aff1: u64, targets: u64) -> u64 {
    intid << 24 | aff1 << 16 | targets
}

fn sgi_receivers(machine: &Machine, intid: u64) -> Vec<usize> {
    (0..machine.vcpu_count()).filter(|vcpu| machine.redist(*vcpu, 0x1_0200) & 1 << intid != 0).collect()
}

#[test]
fn sgi_reaches_the_vcpus_on_its_list() {
    let machine = Machine::booted(20);
    machine.set_icc(0, SGI1R, sgi(5, 0, 0b1010));
    assert_eq!(sgi_receivers(&machine, 5), [1, 3]);
    machine.set_icc(0, SGI1R, sgi(6, 1, 0b1001));
    assert_eq!(sgi_receivers(&machine, 6), [16, 19]);
    machine.set_icc(0, SGI1R, sgi(7, 2, 0xffff) | 1 << 44);
    assert_eq!(sgi_receivers(&machine, 7), Vec::<usize>::new());
    machine.set_icc(0, SGI1R, sgi(7, 0, 0xffff) | 1 << 48);
    assert_eq!(sgi_receivers(&machine, 7), Vec::<usize>::new(), "Aff3 = 1");
}

#[test]
fn sgi_to_all_others_leaves_the_sender_out() {
    let machine = Machine::booted(4);
    machine.set_icc(2, SGI1R, sgi(1, 9, 0) | 1 << 40);
    assert_eq!(sgi_receivers(&machine, 1), [0, 1, 3]);
}

#[test]
fn sgi_is_signalled_and_taken_by_each_vcpu_for_itself() {
    let machine = Machine::booted(16);
    for vcpu in 0..16 {
        machine.enable_private(vcpu, 2);
    }
    machine.set_icc(7, SGI1R, sgi(2, 0, 0xffff));
    for vcpu in 0..16 {
        assert_eq!(machine.rises(vcpu), 1);
        assert_eq!(machine.drain(vcpu, 9), [2]);
    }
}

#[test]
fn group_0_request_reaches_group_0_sgis_only() {
    let machine = Machine::booted(2);
    machine.set_redist(1, 0x1_0080, !(1 << 4));
    machine.set_icc(0, SGI0R, sgi(4, 0, 0b11));
    assert_eq!(sgi_receivers(&machine, 4), [1]);
    assert!(!machine.line(1));
}

#[test]
fn reset_of_the_interface_keeps_the_redistributor() {
    let machine = Machine::booted(1);
    machine.enable_private(0, 27);
    machine.gic.set_ppi_level(0, 27, true);
    assert!(machine.line(0));
    machine.gic.reset_cpu_interface(0);
    assert!(!machine.line(0));
    assert_eq!(machine.icc(0, PMR), 0);
    assert_eq!(machine.redist(0, 0x1_0100), 1 << 27);
    machine.set_icc(0, PMR, 0xf0);
    machine.set_icc(0, IGRPEN1, 1);
    assert_eq!(machine.ack(0), 27);
}
