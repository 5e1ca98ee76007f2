// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function as a guest meets it: registers, messages, DMA, and a pause.

use super::*;

#[test]
fn a_guest_finds_the_function_and_reaches_its_registers() {
    let vm = Vm::start(Server::good());
    assert_eq!(vm.read(CONFIG_REGION, 0, 4), 0x0001_f1b7);
    assert_eq!(vm.read(CONFIG_REGION, 0x10, 4), 0x1100_0004);
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 0xffff_ffff, "memory space is not enabled yet");
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.write(AREA32_REGION, 8, 4, 0x1234_5678);
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 0x1234_5678);
    assert_eq!(vm.server.device.registers.lock().unwrap()[8..12], [0x78, 0x56, 0x34, 0x12]);
    vm.ring.post(AREA32_REGION, 8, 4, 7, &Interrupt::new(), soon()).unwrap();
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 7, "a read behind a post sees its effect");
    assert_eq!(vm.read(AREA32_REGION, 0x5000, 4), 0xffff_ffff, "behind the BAR there is nothing");
    assert_eq!(vm.read(99, 0, 4), 0xffff_ffff);
}

#[test]
fn the_msix_table_is_ours_and_messages_are_translated() {
    let mut vm = Vm::start(Server::good());
    vm.enable_vector_0(DOORBELL.0, 33);
    assert_eq!(vm.read(AREA32_REGION, TABLE + 8, 8), 33);
    assert!(!vm.server.device.commands.lock().unwrap().contains(&Command::REGION_WRITE_MULTI));
    vm.server.signal(0);
    assert_eq!(vm.msis(A_MOMENT), [0; 0], "the stream is attached to abort");
    let faults = vm.attach(Attachment::Bypass);
    assert_eq!(faults, [Fault::Aborted { stream: STREAM }]);
    vm.server.signal(0);
    assert_eq!(vm.msis(LONG), [33]);
    // Masked, it is pending, and comes when it is unmasked.
    vm.write(AREA32_REGION, TABLE + 12, 4, 1);
    vm.server.signal(0);
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    assert_eq!(vm.read(AREA32_REGION, 0x3000, 4), 1);
    vm.write(AREA32_REGION, TABLE + 12, 4, 0);
    assert_eq!(vm.msis(LONG), [33]);
    // A message that is no interrupt is a write to memory, as on a bus.
    vm.enable_vector_0(RAM + 0x100, 0xabcd);
    vm.server.signal(0);
    let until = Instant::now() + LONG;
    while vm.dma_read(RAM + 0x100, 4).unwrap() != [0xcd, 0xab, 0, 0] && Instant::now() < until {}
    assert_eq!(vm.dma_read(RAM + 0x100, 4).unwrap(), [0xcd, 0xab, 0, 0]);
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
}

#[test]
fn dma_reaches_what_the_stream_is_attached_to_and_faults_are_told_before_the_answer() {
    let mut vm = Vm::start(Server::good());
    assert!(matches!(vm.dma_write(RAM, b"x"), Err(ConnectionError::Remote { errno: 14, .. })));
    assert_eq!(vm.attach(Attachment::Bypass), [Fault::Aborted { stream: STREAM }]);
    let data: Vec<u8> = (0..70_000u32).map(|n| n.to_le_bytes()[0]).collect();
    vm.dma_write(RAM + 5, &data).unwrap();
    assert_eq!(vm.dma_read(RAM + 5, data.len()).unwrap(), data);
    for iova in [0, RAM - 1, RAM + RAM_LEN - 3, 1 << 39] {
        assert!(vm.dma_read(iova, 8).is_err(), "{iova:#x}");
    }
    let (refused, faults) =
        vm.request(vec![Stage1Request::Invalidate([0x30, 0]), Stage1Request::Invalidate([0x46, 0])]);
    assert_eq!((refused, faults), (1, vec![]), "CMD_SYNC is not for devices");
}

#[test]
fn a_device_that_is_no_bus_master_reaches_nothing_and_its_messages_wait() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    vm.enable_vector_0(DOORBELL.0, 5);
    vm.dma_write(RAM, b"before").unwrap();
    vm.write(CONFIG_REGION, 4, 2, 0b010);
    assert!(matches!(vm.dma_write(RAM, b"meanwhile"), Err(ConnectionError::Remote { errno: 14, .. })));
    assert!(vm.dma_read(RAM, 6).is_err());
    vm.server.signal(0);
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    assert_eq!(vm.read(AREA32_REGION, 0x3000, 4), 1, "it is pending");
    assert_eq!(vm.attach(Attachment::Bypass), [], "nothing was translated, so nothing has faulted");
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(vm.msis(LONG), [5]);
    assert_eq!(vm.dma_read(RAM, 6).unwrap(), b"before");
}

#[test]
fn a_paused_device_changes_nothing_of_the_guest() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    vm.enable_vector_0(DOORBELL.0, 5);
    vm.process.pause().unwrap();
    vm.server.signal(0);
    let connection = std::sync::Arc::clone(&vm.server.connection);
    let writer = std::thread::spawn(move || {
        let access = DmaAccess::new(RAM, 4);
        let parts = [access.as_bytes(), &[1, 2, 3, 4]];
        connection.request(Command::DMA_WRITE, &parts, &[], soon()).is_ok()
    });
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    assert!(!writer.is_finished());
    // Its vSMMU is answered all the same.
    vm.attach(Attachment::Bypass);
    vm.process.resume().unwrap();
    assert_eq!(vm.msis(LONG), [5]);
    assert!(writer.join().unwrap());
}

#[test]
fn a_device_with_states_is_stopped_while_the_guest_is_paused() {
    let has_states: Bend = Box::new(|command, body| {
        let get = body.get(..8).is_some_and(|head| head[6] & 1 != 0);
        let flags: &[u8] = if get { &[3, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
        (command == Command::DEVICE_FEATURE).then(|| Ok([&body[..8], flags].concat()))
    });
    let mut vm = Vm::start(Server::start(has_states));
    let features = |vm: &Vm| {
        let commands = vm.server.device.commands.lock().unwrap();
        commands.iter().filter(|command| **command == Command::DEVICE_FEATURE).count()
    };
    assert_eq!(features(&vm), 1, "asked once");
    vm.process.pause().unwrap();
    assert_eq!(features(&vm), 2, "stopped");
    vm.process.resume().unwrap();
    assert_eq!((features(&vm), vm.failure()), (3, None));
}

#[test]
fn garbage_in_the_msix_table_is_at_most_a_write_that_meets_nothing() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.write(CONFIG_REGION, 0x42, 2, 0xffff);
    for offset in (0..0x40).step_by(4) {
        vm.write(AREA32_REGION, TABLE + offset, 4, 0xffff_ffff);
        // Not whole words, and across the end of the table: nothing.
        vm.write(AREA32_REGION, TABLE + offset + 1, 2, 0);
    }
    assert_eq!(vm.read(AREA32_REGION, TABLE, 8), 0xffff_ffff_ffff_fffc);
    assert_eq!(vm.read(AREA32_REGION, TABLE + 12, 4), 1, "one bit of vector control is there");
    // Neither addresses without memory nor events that no interrupt controller has do anything.
    for (address, data) in
        [(u64::MAX, 1), (1 << 47, 1), (0, 1), (RAM + RAM_LEN - 2, 1), (DOORBELL.0, 0xffff_ffff)]
    {
        vm.enable_vector_0(address, data);
        vm.server.signal(0);
        assert_eq!(vm.msis(Duration::from_millis(20)).len(), 0, "{address:#x}");
    }
    vm.enable_vector_0(DOORBELL.0, 12);
    vm.server.signal(0);
    assert_eq!((vm.msis(LONG), vm.failure()), (vec![12], None));
}

#[test]
fn a_server_of_protocol_0_0_is_not_asked_for_what_came_later() {
    for (minor, expected) in [(0, 0), (1, 1), (2, 1)] {
        let old: Bend = Box::new(move |command, body| {
            let version = Version::decode(body).and_then(|proposal| proposal.agree());
            (command == Command::VERSION).then(|| Ok(Version { minor, ..version.unwrap() }.encode()))
        });
        let mut vm = Vm::start(Server::start(old));
        vm.process.pause().unwrap();
        vm.process.resume().unwrap();
        assert_eq!(vm.failure(), None);
        let commands = vm.server.device.commands.lock().unwrap();
        let features = commands.iter().filter(|command| **command == Command::DEVICE_FEATURE).count();
        assert_eq!(features, expected, "minor version {minor}");
    }
}
