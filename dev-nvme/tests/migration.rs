// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migration in the middle of queued I/O: nothing lost, nothing done twice, bad states refused.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::collections::BTreeMap;

use dev_nvme::device::{Device, DeviceError};
use dev_nvme::saved::{NvmeV1, NvmeV2, ShadowV2};
use dev_nvme::spec::command::admin;
use host::local::{Local, image};
use host::{Driver, PAGE, Ram, Wire, blank, pattern, read, status, write};
use ipc::saved::{Reader, Writer};
use ipc::vfio_user::feature::MigState;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn saved(device: &Device) -> Vec<u8> {
    device.set_migration_state(MigState::StopCopy).unwrap();
    let mut data = Vec::new();
    loop {
        let piece = device.read_migration_data(100).unwrap();
        data.extend_from_slice(&piece);
        if piece.len() < 100 {
            return data;
        }
    }
}

fn resumed(device: &Device, data: &[u8]) -> Result<(), DeviceError> {
    device.set_migration_state(MigState::Resuming)?;
    for piece in data.chunks(77) {
        device.write_migration_data(piece)?;
    }
    device.set_migration_state(MigState::Stop)
}

/// Writes 64 blocks of 4 KiB through queues of depth 32, moving to another device after `turns[n]` steps each.
fn migrate_in_the_middle(turns: &[usize]) {
    let ram = Ram::new(8 << 20);
    let file = image(2 * MIB);
    let device = || Local::new(file.try_clone().unwrap(), 512, &ram);
    let mut driver = Driver::start(device(), ram.clone());
    // Completions find no room: they are part of the state.
    let mut queue = driver.create(1, 33);
    let mut small = driver.create(2, 5);
    driver.submit(&mut driver.admin.borrow_mut(), blank(admin::ASYNC_EVENT_REQUEST));
    let data = driver.pages(64);
    let mut expected = BTreeMap::new();
    let mut waiting = BTreeMap::new();
    for number in 0..32u64 {
        let bytes = pattern(number, 4096);
        driver.ram.put(data + number * PAGE, &bytes);
        let cid = driver.enqueue(&mut queue, write(number * 8, 8, data + number * PAGE, 0));
        waiting.insert((1, cid), number);
        expected.insert(number, bytes);
    }
    for number in 32..36u64 {
        let bytes = pattern(number, 4096);
        driver.ram.put(data + number * PAGE, &bytes);
        let cid = driver.enqueue(&mut small, write(number * 8, 8, data + number * PAGE, 0));
        waiting.insert((2, cid), number);
        expected.insert(number, bytes);
    }
    driver.ring(&queue);
    driver.ring(&small);
    for steps in turns {
        for _ in 0..*steps {
            driver.wire.step();
        }
        let state = saved(&driver.wire.device);
        let next = device();
        resumed(&next.device, &state).unwrap();
        // The same state again: nothing is lost by going through it.
        assert_eq!(saved(&next.device), state);
        next.device.set_migration_state(MigState::Running).unwrap();
        // The source may not run, whatever is rung.
        assert!(!driver.wire.step());
        driver = Driver::resume(next, ram.clone(), &driver);
    }
    while !waiting.is_empty() {
        while driver.wire.step() {}
        let mut taken = 0;
        for queue in [&mut queue, &mut small] {
            while let Some(completion) = driver.poll(queue, true) {
                assert_eq!(status(&completion), 0);
                let key = (queue.id(), completion.cid.get());
                assert!(waiting.remove(&key).is_some(), "{key:?} completed twice");
                taken += 1;
            }
        }
        assert!(taken > 0, "{} commands were lost", waiting.len());
    }
    let mut queue = driver.create(5, 8);
    let page = driver.pages(1);
    for (number, bytes) in expected {
        assert_eq!(status(&driver.run(&mut queue, read(number * 8, 8, page, 0))), 0);
        assert!(driver.ram.get(page, 4096) == bytes, "block {number}");
    }
    // The event that was asked for before all this.
    driver.wire.write(0x1000 + 9 * 8, 4, 1);
    while driver.wire.step() {}
    assert_eq!(driver.poll(&mut driver.admin.borrow_mut(), true).unwrap().dw0.get(), 0x0001_0000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn io_in_the_middle_survives_any_number_of_moves(turns in proptest::collection::vec(0usize..4, 1..4)) {
        migrate_in_the_middle(&turns);
    }
}

#[test]
fn completions_without_room_move_along() {
    migrate_in_the_middle(&[30, 0]);
}

#[test]
fn paused_device_takes_doorbells_and_does_nothing() {
    let ram = Ram::new(8 << 20);
    let local = Local::new(image(MIB), 512, &ram);
    let driver = Driver::start(local, ram);
    let mut queue = driver.create(1, 8);
    let page = driver.pages(1);
    driver.wire.device.set_migration_state(MigState::RunningP2p).unwrap();
    driver.submit(&mut queue, read(0, 8, page, 0));
    assert!(!driver.wire.step());
    driver.wire.device.set_migration_state(MigState::Running).unwrap();
    assert_eq!(status(&driver.wait(&mut queue)), 0);
    for state in
        [MigState::PreCopy, MigState::PreCopyP2p, MigState::PreCopy, MigState::Running, MigState::Stop]
    {
        driver.wire.device.set_migration_state(state).unwrap();
        assert_eq!(driver.wire.device.migration_state(), state);
        assert!(!driver.wire.step());
    }
    assert!(driver.wire.device.read_migration_data(10).is_err());
}

#[test]
fn restored_device_repeats_the_interrupts_that_may_be_lost() {
    let ram = Ram::new(8 << 20);
    let file = image(MIB);
    let driver = Driver::start(Local::new(file.try_clone().unwrap(), 512, &ram), ram.clone());
    let mut queue = driver.create(3, 8);
    let page = driver.pages(1);
    driver.submit(&mut queue, read(0, 8, page, 0));
    while driver.wire.step() {}
    let state = saved(&driver.wire.device);
    let next = Local::new(file, 512, &ram);
    resumed(&next.device, &state).unwrap();
    let raised = next.raised.take();
    // The admin queue's entries were all looked at.
    assert_eq!((raised[0], raised[3]), (0, 1));
}

fn changed_as_a_whole(data: &[u8], change: impl Fn(&mut NvmeV2)) -> Vec<u8> {
    let mut reader = Reader::new(data).unwrap();
    let mut state: NvmeV2 = reader.take().unwrap();
    change(&mut state);
    let mut writer = Writer::new();
    writer.append(&state).unwrap();
    writer.finish()
}

fn changed(data: &[u8], change: impl Fn(&mut NvmeV1)) -> Vec<u8> {
    changed_as_a_whole(data, |state| change(&mut state.v1))
}

fn with_shadow(data: &[u8], doorbells: u64, event_indices: u64) -> Vec<u8> {
    changed_as_a_whole(data, |state| state.shadow = Some(ShadowV2 { doorbells, event_indices }))
}

#[test]
fn states_that_cannot_be_are_refused_and_a_reset_helps() {
    let ram = Ram::new(8 << 20);
    let file = image(MIB);
    let driver = Driver::start(Local::new(file.try_clone().unwrap(), 512, &ram), ram.clone());
    driver.create(1, 8);
    let good = saved(&driver.wire.device);
    let bad: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 100],
        good[..good.len() - 1].to_vec(),
        [good.clone(), good.clone()].concat(),
        changed(&good, |state| state.namespace.blocks += 1),
        changed(&good, |state| state.namespace.serial = "OTHER".to_owned()),
        changed(&good, |state| state.submission[1].size = 1),
        changed(&good, |state| state.submission[1].size = 5000),
        changed(&good, |state| state.submission[1].id = 17),
        changed(&good, |state| state.submission[1].head = 8),
        changed(&good, |state| state.submission[1].cqid = 9),
        changed(&good, |state| state.submission[1].cqid = 0),
        changed(&good, |state| state.completion[1].tail = 8),
        changed(&good, |state| state.completion[1].base = 8),
        changed(&good, |state| state.completion[1].vector = Some(17)),
        changed(&good, |state| state.completion.clear()),
        changed(&good, |state| state.event_requests = vec![1; 5]),
        changed(&good, |state| state.errors = vec![vec![0; 63]]),
        with_shadow(&good, 0, 0x1000),
        with_shadow(&good, 0x1000, 0x1800),
    ];
    let target = Local::new(file, 512, &ram);
    for (number, data) in bad.iter().enumerate() {
        assert!(resumed(&target.device, data).is_err(), "{number}");
        assert_eq!(target.device.migration_state(), MigState::Error);
        assert!(target.device.set_migration_state(MigState::Running).is_err());
        target.device.reset().unwrap();
        assert_eq!(target.device.migration_state(), MigState::Running);
    }
    resumed(&target.device, &good).unwrap();
    assert!(target.device.write_migration_data(&[0]).is_err());
}

#[test]
fn too_much_state_is_refused() {
    let ram = Ram::new(1 << 20);
    let target = Local::new(image(MIB), 512, &ram);
    target.device.set_migration_state(MigState::Resuming).unwrap();
    let piece = vec![0; 1 << 20];
    let refused = (0..10).find_map(|_| target.device.write_migration_data(&piece).err());
    assert!(matches!(refused, Some(DeviceError::DataLong)));
}
