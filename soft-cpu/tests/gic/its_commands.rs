// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ITS commands, the queue, and messages.

use soft_cpu::gic::{CommandError, GicConfig, TableMemory};

use crate::machine::{
    COLLECTION_TABLE, DEVICE_TABLE, ITTS, Machine, QUEUE, QUEUE_LEN, RAM_BASE, RAM_LEN, RPR,
};

/// Device 5 with 16 events, event 3 mapped to LPI 8200 at vCPU 0.
fn mapped(vcpu_count: usize) -> Machine {
    let machine = Machine::with_lpis(vcpu_count);
    machine.mapd(5, 4, ITTS);
    machine.mapti(5, 3, 8200, 0);
    assert_eq!(machine.command_errors(), 0);
    machine
}

#[test]
fn message_becomes_an_lpi_once() {
    let machine = mapped(2);
    assert!(machine.gic.signal_msi(5, 3));
    assert!(machine.gic.signal_msi(5, 3));
    assert_eq!((machine.line(0), machine.line(1)), (true, false));
    assert_eq!(machine.ack(0), 8200);
    assert_eq!(machine.icc(0, RPR), 0xa0);
    assert!(machine.gic.signal_msi(5, 3));
    assert!(!machine.line(0), "same priority does not preempt; an LPI has no active state");
    machine.eoi(0, 8200);
    assert_eq!(machine.drain(0, 9), [8200]);
}

#[test]
fn messages_that_nothing_maps_are_dropped_and_counted() {
    let machine = mapped(1);
    for (device, event) in [(5, 2), (5, 16), (5, u32::MAX), (4, 3), (8192, 3), (0x1_0005, 3), (u32::MAX, 3)] {
        assert!(!machine.gic.signal_msi(device, event), "{device:#x} {event:#x}");
    }
    assert!(!machine.line(0));
    assert_eq!(machine.gic.counters().its.unmapped_messages, 7);
}

#[test]
fn message_to_a_disabled_its_is_dropped() {
    let machine = mapped(1);
    machine.gic.its_write(0, 4, 0);
    assert!(!machine.gic.signal_msi(5, 3));
    machine.gic.its_write(0, 4, 1);
    assert!(machine.gic.signal_msi(5, 3), "mappings are in memory");
}

#[test]
fn lpi_priorities_come_from_the_table() {
    let machine = mapped(1);
    for (event, priority) in [(4, 0xe1), (5, 0x41), (6, 0x47)] {
        machine.mapti(5, event, 9000 + event, 0);
        machine.set_lpi_config(9000 + event, priority);
        machine.gic.signal_msi(5, event as u32);
    }
    machine.gic.signal_msi(5, 3);
    // 0x47 is priority 0x40 with five bits, so the lower INTID wins.
    assert_eq!(machine.drain(0, 9), [9005, 9006, 8200, 9004]);
}

#[test]
fn lpi_and_spi_compete_by_priority() {
    let machine = mapped(1);
    machine.enable_spi(40, true);
    machine.set_priority(40, 0xb0);
    machine.gic.pulse(40);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.ack(0), 8200);
    machine.eoi(0, 8200);
    machine.set_priority(40, 0x90);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.ack(0), 40);
}

#[test]
fn mapi_maps_the_event_number_itself() {
    let machine = Machine::with_lpis(1);
    machine.mapd(1, 16, ITTS);
    machine.command([1 << 32 | 0x0b, 8195, 0, 0]);
    assert!(machine.gic.signal_msi(1, 8195));
    assert_eq!(machine.ack(0), 8195);
}

#[test]
fn int_and_clear_set_and_end_pending() {
    let machine = mapped(1);
    machine.command([5 << 32 | 0x03, 3, 0, 0]);
    assert!(machine.line(0));
    machine.command([5 << 32 | 0x04, 3, 0, 0]);
    assert!(!machine.line(0));
}

#[test]
fn discard_unmaps_and_ends_pending() {
    let machine = mapped(1);
    machine.gic.signal_msi(5, 3);
    machine.command([5 << 32 | 0x0f, 3, 0, 0]);
    assert!(!machine.line(0));
    assert!(!machine.gic.signal_msi(5, 3));
    machine.command([5 << 32 | 0x0f, 3, 0, 0]);
    assert_eq!(machine.gic.counters().its.last_command_error, Some(CommandError::EventUnmapped));
}

#[test]
fn discard_works_after_the_collection_is_gone() {
    let machine = mapped(1);
    machine.command([0x09, 0, 0, 0]);
    machine.command([5 << 32 | 0x0f, 3, 0, 0]);
    assert_eq!(machine.command_errors(), 0);
    machine.mapc(0, 0);
    assert!(!machine.gic.signal_msi(5, 3));
}

#[test]
fn movi_takes_pending_along() {
    let machine = mapped(2);
    machine.gic.signal_msi(5, 3);
    machine.movi(5, 3, 1);
    assert_eq!((machine.line(0), machine.line(1)), (false, true));
    assert_eq!(machine.drain(1, 9), [8200]);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.drain(1, 9), [8200], "later messages too");
}

#[test]
fn movall_moves_everything_pending_but_no_mapping() {
    let machine = mapped(2);
    machine.mapti(5, 4, 20000, 0);
    machine.gic.signal_msi(5, 3);
    machine.gic.signal_msi(5, 4);
    machine.command([0x0e, 0, 0, 1 << 16]);
    assert_eq!(machine.drain(0, 9), [] as [u64; 0]);
    assert_eq!(machine.drain(1, 9), [8200, 20000]);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.drain(0, 9), [8200]);
}

#[test]
fn mapc_changes_where_later_messages_go() {
    let machine = mapped(2);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.drain(0, 9), [8200], "and the translation is cached now");
    machine.mapc(0, 1);
    machine.gic.signal_msi(5, 3);
    assert_eq!(machine.drain(1, 9), [8200]);
    machine.command([0x09, 0, 0, 0]);
    assert!(!machine.gic.signal_msi(5, 3));
}

#[test]
fn mapd_again_forgets_the_old_events() {
    let machine = mapped(1);
    assert!(machine.gic.signal_msi(5, 3));
    machine.mapd(5, 4, ITTS + 0x1000);
    assert!(!machine.gic.signal_msi(5, 3));
    machine.command([5 << 32 | 0x08, 0, 0, 0]);
    machine.command([5 << 32 | 0x0a, 8200 << 32, 0, 0]);
    assert_eq!(machine.gic.counters().its.last_command_error, Some(CommandError::DeviceUnmapped));
}

#[test]
fn inv_and_invall_read_the_configuration_again() {
    let machine = mapped(1);
    machine.set_lpi_config(8200, 0xa0);
    machine.gic.signal_msi(5, 3);
    assert!(!machine.line(0), "disabled");
    machine.set_lpi_config(8200, 0xa1);
    machine.inv(5, 3);
    assert!(machine.line(0));
    machine.set_lpi_config(8200, 0xa0);
    machine.command([0x0d, 0, 0, 0]);
    assert!(!machine.line(0));
    machine.set_lpi_config(8200, 0x61);
    machine.command([0x0d, 0, 0, 0]);
    assert_eq!(machine.ack(0), 8200);
    assert_eq!(machine.icc(0, RPR), 0x60);
}

#[test]
fn indirect_device_table_reaches_devices_whose_page_exists() {
    // One page of level-one entries, each for as many devices as a page has room for.
    for (page_size, page_len) in [(0, 0x1000), (1, 0x4000), (2, 0x1_0000)] {
        let machine = Machine::with_lpis(1);
        machine.gic.its_write(0, 4, 0);
        let table = DEVICE_TABLE & !(page_len - 1);
        machine.gic.its_write(0x100, 8, 1 << 63 | 1 << 62 | table | page_size << 8);
        machine.gic.its_write(0, 4, 1);
        let (devices, page) = (page_len / 8, table + page_len);
        assert!(machine.ram.write(table + 4 * 8, &(1 << 63 | page).to_le_bytes()));
        let device = 4 * devices + 7;
        machine.mapd(device, 4, ITTS);
        machine.mapti(device, 0, 8192, 0);
        assert!(machine.gic.signal_msi(device as u32, 0), "pages of {page_len:#x}");
        assert_ne!(machine.ram.word(page + 7 * 8), 0);
        machine.mapd(devices, 4, ITTS);
        assert_eq!(machine.gic.counters().its.last_command_error, Some(CommandError::DeviceOutOfRange));
    }
}

#[test]
fn invalid_commands_are_counted_named_and_skipped() {
    let machine = mapped(1);
    let cases: [([u64; 4], CommandError); 13] = [
        ([0x00, 0, 0, 0], CommandError::Unknown(0)),
        ([0x2e, 0, 0, 0], CommandError::Unknown(0x2e)),
        ([8192 << 32 | 0x08, 3, 1 << 63, 0], CommandError::DeviceOutOfRange),
        ([5 << 32 | 0x08, 16, 1 << 63 | ITTS, 0], CommandError::EventBitsOutOfRange),
        ([5 << 32 | 0x0a, 8192 << 32 | 16, 0, 0], CommandError::EventOutOfRange),
        ([5 << 32 | 0x0a, 8191 << 32, 0, 0], CommandError::IntidOutOfRange),
        ([5 << 32 | 0x0a, 0x1_0000 << 32, 0, 0], CommandError::IntidOutOfRange),
        ([5 << 32 | 0x0a, 8192 << 32, 512, 0], CommandError::CollectionOutOfRange),
        ([0x09, 0, 1 << 63 | 1 << 16, 0], CommandError::RedistributorOutOfRange),
        ([0x0e, 0, 0, 1 << 16], CommandError::RedistributorOutOfRange),
        ([5 << 32 | 0x03, 9, 0, 0], CommandError::EventUnmapped),
        ([0x0d, 0, 7, 0], CommandError::CollectionUnmapped),
        ([5 << 32 | 0x01, 3, 7, 0], CommandError::CollectionUnmapped),
    ];
    for (index, (qw, error)) in cases.into_iter().enumerate() {
        machine.command(qw);
        let counters = machine.gic.counters().its;
        assert_eq!(counters.last_command_error, Some(error), "{qw:x?}");
        assert_eq!(counters.command_errors, index as u64 + 1);
    }
    assert!(machine.gic.signal_msi(5, 3), "and nothing else changed");
}

#[test]
fn corrupted_tables_are_checked_at_use() {
    let machine = mapped(1);
    // A collection at a vCPU that does not exist, then an event at an LPI that does not exist.
    assert!(machine.ram.write(COLLECTION_TABLE, &(1u64 << 63 | 9).to_le_bytes()));
    assert!(!machine.gic.signal_msi(5, 3));
    assert!(machine.ram.write(COLLECTION_TABLE, &(1u64 << 63).to_le_bytes()));
    assert!(machine.ram.write(ITTS + 3 * 8, &(1u64 << 63 | 40).to_le_bytes()));
    assert!(!machine.gic.signal_msi(5, 3));
    // A device whose ITT is outside memory.
    assert!(machine.ram.write(DEVICE_TABLE + 5 * 8, &u64::MAX.to_le_bytes()));
    assert!(!machine.gic.signal_msi(5, 3));
    assert!(!machine.line(0));
}

#[test]
fn queue_wraps() {
    let machine = Machine::with_lpis(1);
    let slots = QUEUE_LEN / 32;
    for _ in 0..slots + 3 {
        machine.command([0x05, 0, 0, 0]);
    }
    assert_eq!(machine.gic.counters().its.commands, 1 + slots + 3);
    assert_eq!(machine.gic.its_read(0x90, 8), 4 * 32);
}

#[test]
fn long_queue_runs_a_bounded_part_at_once_and_the_rest_when_polled() {
    let machine = Machine::with_lpis(1);
    let start = machine.gic.its_read(0x88, 8);
    let mut next = start;
    for _ in 0..500 {
        next = machine.enqueue(next, [0x05, 0, 0, 0]);
    }
    let before = machine.gic.counters().its.commands;
    machine.gic.its_write(0x88, 8, next);
    let at_once = machine.gic.counters().its.commands - before;
    assert!(at_once > 0 && at_once < 500, "{at_once}");
    let polls = (0..500).take_while(|_| machine.gic.its_read(0x90, 8) != next).count();
    assert!(polls < 20, "{polls}");
}

#[test]
fn step_finishes_a_queue_that_nobody_polls() {
    let machine = mapped(1);
    let mut next = machine.gic.its_read(0x88, 8);
    for _ in 0..200 {
        next = machine.enqueue(next, [0x05, 0, 0, 0]);
    }
    next = machine.enqueue(next, [5 << 32 | 0x03, 3, 0, 0]);
    machine.gic.its_write(0x88, 8, next);
    assert!(!machine.line(0));
    assert!(machine.gic.its_step(1), "some are left");
    assert!(!machine.gic.its_step(1000));
    assert!(machine.line(0));
}

#[test]
fn commands_over_all_lpis_cost_more_of_the_budget() {
    let machine = Machine::with_lpis(1);
    let mut next = machine.gic.its_read(0x88, 8);
    for _ in 0..100 {
        next = machine.enqueue(next, [0x0d, 0, 0, 0]);
    }
    let before = machine.gic.counters().its.commands;
    machine.gic.its_write(0x88, 8, next);
    assert!(machine.gic.counters().its.commands - before <= 8);
}

#[test]
fn unreadable_queue_stalls_until_retry() {
    let machine = Machine::booted(1);
    let edge_of_ram = RAM_BASE + RAM_LEN as u64 - 0x1000;
    // Two pages, of which only the first is memory.
    machine.gic.its_write(0x80, 8, 1 << 63 | edge_of_ram | 1);
    machine.gic.its_write(0, 4, 1);
    machine.gic.its_write(0x88, 8, 0x1040);
    machine.gic.its_step(1000);
    assert_eq!(machine.gic.its_read(0x90, 8), 0x1001, "Stalled, at the first slot outside memory");
    assert_eq!(machine.gic.counters().its.stalls, 1);
    machine.gic.its_write(0x88, 8, 0x1080);
    assert_eq!(machine.gic.counters().its.stalls, 1, "a stalled queue does not move");
    machine.gic.its_write(0x88, 8, 0x1081);
    assert_eq!(machine.gic.counters().its.stalls, 2, "Retry tried again");
    machine.gic.its_write(0, 4, 0);
    machine.gic.its_write(0x80, 8, 1 << 63 | QUEUE);
    assert_eq!(machine.gic.its_read(0x90, 8), 0, "a new queue is not stalled");
}

#[test]
fn queue_that_is_not_valid_runs_nothing() {
    let machine = Machine::booted(1);
    machine.gic.its_write(0x80, 8, QUEUE);
    machine.gic.its_write(0, 4, 1);
    machine.gic.its_write(0x88, 8, 0x40);
    assert!(!machine.gic.its_step(10));
    assert_eq!(machine.gic.its_read(0x90, 8), 0);
}

#[test]
fn commands_queued_while_disabled_run_when_enabled() {
    let machine = mapped(1);
    machine.gic.its_write(0, 4, 0);
    let next = machine.enqueue(machine.gic.its_read(0x88, 8), [5 << 32 | 0x03, 3, 0, 0]);
    machine.gic.its_write(0x88, 8, next);
    assert!(!machine.line(0));
    machine.gic.its_write(0, 4, 1);
    assert!(machine.line(0));
}

#[test]
fn shapes_that_no_machine_has_are_refused() {
    let new = |vcpu_count, spi_count| {
        let config = GicConfig { vcpu_count, spi_count, its: true };
        soft_cpu::gic::Gic::new(config, crate::machine::Ram::new(), Box::new(|_| ())).err()
    };
    assert!(new(0, 32).is_some());
    assert!(new(65, 32).is_some());
    assert!(new(1, 989).is_some());
    assert_eq!(new(64, 988), None);
    assert_eq!(new(1, 0), None);
}
