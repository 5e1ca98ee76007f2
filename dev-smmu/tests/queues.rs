// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two queues at their edges: wrap, full, overflow, aborts, errors and their acknowledgement.

mod rig;

use dev_smmu::cmdq::Step;
use dev_smmu::effects::Interrupt;
use dev_smmu::eventq::Recorded;
use rig::{CMDQ, Rig, command, sync};
use smmu_arch::spec::commands::{ComplSignal, Opcode};
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::{CmdqCons, CommandError, EventqCons, EventqProd};

fn cons(rig: &Rig) -> CmdqCons {
    CmdqCons::from_bits(rig.r32(Register::CMDQ_CONS))
}

fn prod(rig: &Rig) -> EventqProd {
    EventqProd::from_bits(rig.r32(Register::EVENTQ_PROD))
}

#[test]
fn commands_wrap_around_the_queue() {
    let mut rig = Rig::enabled(2);
    for index in 0..4 {
        rig.put_command(index, command(Opcode::CfgiSte));
    }
    let mut written = 0;
    for _ in 0..7 {
        written = (written + 3) & 7;
        rig.w32(Register::CMDQ_PROD, written);
        assert_eq!(cons(&rig).rd(), written);
    }
    assert_eq!(rig.smmu.counters().commands, 21);
}

#[test]
fn a_full_command_queue_is_consumed() {
    let mut rig = Rig::enabled(2);
    (0..4).for_each(|index| rig.put_command(index, sync(ComplSignal::None)));
    rig.w32(Register::CMDQ_PROD, 4);
    assert_eq!(cons(&rig).rd(), 4);
}

#[test]
fn nothing_is_consumed_while_the_queue_is_disabled() {
    let mut rig = Rig::new();
    rig.w64(Register::CMDQ_BASE, CMDQ | 4);
    rig.put_command(0, sync(ComplSignal::None));
    rig.w32(Register::CMDQ_PROD, 1);
    assert_eq!(cons(&rig).rd(), 0);
    rig.w32(Register::CR0, 8);
    assert_eq!(cons(&rig).rd(), 1, "enabling a queue that is not empty starts it");
}

#[test]
fn a_step_stops_at_its_budget() {
    let mut rig = Rig::enabled(4);
    (0..10).for_each(|index| rig.put_command(index, command(Opcode::CfgiSte)));
    rig.smmu.write(Register::CMDQ_PROD.offset(), 4, 10, &mut rig.devices);
    assert_eq!(rig.step(4), Step::More);
    assert_eq!(cons(&rig).rd(), 4);
    assert_eq!(rig.step(6), Step::Idle);
    assert_eq!(cons(&rig).rd(), 10);
}

#[test]
fn a_failed_fetch_is_retried_after_the_acknowledgement() {
    let mut rig = Rig::new();
    // A queue where there is no memory.
    rig.w64(Register::CMDQ_BASE, 0x1000_0000 | 4);
    rig.w32(Register::CR0, 8);
    rig.w32(Register::CMDQ_PROD, 1);
    assert_eq!((cons(&rig).rd(), cons(&rig).err()), (0, CommandError::Abt));
    assert_eq!(rig.r32(Register::GERROR), 1);
    // Acknowledged, it is fetched again, fails again, and the error becomes active again.
    rig.w32(Register::GERRORN, 1);
    assert_eq!(rig.r32(Register::GERROR), 0);
    assert_eq!(rig.smmu.counters().command_errors, 2);
    assert!(rig.interrupts.is_empty(), "GERROR interrupts are disabled");
}

#[test]
fn an_unacknowledged_error_blocks_the_queue() {
    let mut rig = Rig::enabled(4);
    rig.put_command(0, command(Opcode(0)));
    rig.w32(Register::CMDQ_PROD, 1);
    assert_eq!(cons(&rig).err(), CommandError::Ill);
    rig.put_command(0, sync(ComplSignal::None));
    rig.put_command(1, sync(ComplSignal::None));
    rig.w32(Register::CMDQ_PROD, 2);
    assert_eq!(cons(&rig).rd(), 0, "more commands do not restart it");
    rig.w32(Register::GERRORN, 1);
    assert_eq!(cons(&rig).rd(), 2, "the repaired command was fetched again");
    assert_eq!(cons(&rig).err(), CommandError::Ill, "ERR is kept when CONS moves");
}

#[test]
fn sync_is_not_consumed_before_the_devices_answered() {
    let mut rig = Rig::enabled(4);
    rig.devices.busy = true;
    rig.put_command(0, command(Opcode::TlbiNhAll));
    rig.put_command(1, sync(ComplSignal::Irq));
    rig.put_command(2, command(Opcode::TlbiNhAll));
    rig.w32(Register::CMDQ_PROD, 3);
    assert_eq!(cons(&rig).rd(), 1);
    assert_eq!(rig.step(8), Step::AwaitSync);
    assert_eq!(rig.devices.invalidated.len(), 1, "commands after the CMD_SYNC have not begun");
    assert!(rig.interrupts.is_empty());
    rig.devices.busy = false;
    assert_eq!(rig.step(8), Step::Idle);
    assert_eq!(cons(&rig).rd(), 3);
    assert_eq!(rig.interrupts, [Interrupt::CommandSync]);
}

#[test]
fn queue_size_is_capped_at_what_is_advertised() {
    let mut rig = Rig::new();
    rig.w64(Register::CMDQ_BASE, CMDQ | 31);
    assert_eq!(rig.r32(Register::CMDQ_BASE) & 31, 31, "reads back as written");
    assert_eq!(rig.smmu.registers().command_queue().0.capacity(), 1 << 12);
}

#[test]
fn events_fill_the_queue_then_overflow_once() {
    let mut rig = Rig::enabled(2);
    for stream in 0..4 {
        assert_eq!(rig.record(stream), Recorded::Written);
    }
    assert_eq!((prod(&rig).wr(), prod(&rig).ovflg()), (4, false), "full is not yet overflow");
    assert_eq!(rig.record(4), Recorded::Overflow);
    assert!(prod(&rig).ovflg());
    assert_eq!(rig.record(5), Recorded::Overflow);
    assert!(prod(&rig).ovflg(), "not toggled again before it is acknowledged");
    assert_eq!(rig.r32(Register::GERROR), 0, "an overflow is no global error");

    // Consumed without acknowledging: events are recorded again all the same.
    rig.w32(Register::EVENTQ_CONS, EventqCons::new().with_rd(2).into_bits());
    assert_eq!(rig.record(6), Recorded::Written);
    assert_eq!(rig.event(0).qw0.stream_id(), 6);
    // Acknowledged: the next overflow toggles back.
    rig.w32(Register::EVENTQ_CONS, EventqCons::new().with_rd(2).with_ovackflg(true).into_bits());
    rig.record(7);
    assert_eq!(rig.record(8), Recorded::Overflow);
    assert!(!prod(&rig).ovflg());
    assert_eq!(rig.smmu.counters().events_overflowed, 3);
}

#[test]
fn an_aborted_event_write_is_a_global_error_and_blocks_the_queue() {
    let mut rig = Rig::new();
    rig.w64(Register::EVENTQ_BASE, 0x1000_0000 | 4);
    rig.w32(Register::IRQ_CTRL, 0b101);
    rig.w32(Register::CR0, 4);
    assert_eq!(rig.record(1), Recorded::Aborted);
    assert_eq!(rig.r32(Register::GERROR), 4);
    assert_eq!((prod(&rig).wr(), prod(&rig).ovflg()), (0, false));
    assert_eq!(rig.interrupts, [Interrupt::GlobalError]);
    assert_eq!(rig.record(2), Recorded::NotWritable);
    rig.w32(Register::GERRORN, 4);
    assert_eq!(rig.record(3), Recorded::Aborted);
    assert_eq!(rig.r32(Register::GERROR), 0);
}

#[test]
fn events_are_discarded_while_the_queue_is_disabled() {
    let mut rig = Rig::new();
    assert_eq!(rig.record(1), Recorded::NotWritable);
    assert_eq!(prod(&rig).into_bits(), 0);
    assert_eq!(rig.smmu.counters().events_discarded, 1);
}

/// DEVIATION of §3.18.2: every record is announced, not only the one that ends emptiness.
#[test]
fn every_record_is_announced() {
    let mut rig = Rig::enabled(4);
    rig.record(1);
    rig.record(2);
    assert_eq!(rig.interrupts, [Interrupt::EventQueue, Interrupt::EventQueue]);
    rig.w32(Register::IRQ_CTRL, 0);
    rig.record(3);
    assert_eq!(rig.interrupts.len(), 2, "disabled interrupts are not raised, now or later");
    rig.w32(Register::IRQ_CTRL, 0b101);
    assert_eq!(rig.interrupts.len(), 2);
}

#[test]
fn nonsense_pointers_neither_loop_nor_leave_the_queues() {
    let mut rig = Rig::enabled(2);
    (0..4).for_each(|index| rig.put_command(index, sync(ComplSignal::None)));
    // Claims 6 commands in a queue of 4: consumed slot by slot until the pointers meet.
    rig.w32(Register::CMDQ_PROD, 6);
    assert_eq!(cons(&rig).rd(), 6);
    // Claims to have consumed what was never produced: no room.
    rig.w32(Register::EVENTQ_CONS, 3);
    assert_eq!(rig.record(1), Recorded::Overflow);
}
