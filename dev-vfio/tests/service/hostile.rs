// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers that go away, lie, or ask for nonsense: their device fails, or they are refused, and nothing else stops.

use super::*;

#[test]
fn a_server_that_goes_away_or_breaks_the_protocol_fails_its_device_only() {
    let mut vm = Vm::start(Server::good());
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.server.connection.close();
    vm.assert_failed("closed");

    let reply_too_long: Bend = Box::new(|command, body| {
        let config = body.get(8..12) == Some(&[7, 0, 0, 0]);
        (command == Command::REGION_READ && !config).then(|| Ok([body, &[0; 64]].concat()))
    });
    let mut vm = Vm::start(Server::start(reply_too_long));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(vm.read(AREA32_REGION, 0, 4), 0xffff_ffff);
    vm.assert_failed("protocol");

    // A refusal is an answer like any other.
    let refuses: Bend = Box::new(|command, body| {
        let config = body.get(8..12) == Some(&[7, 0, 0, 0]);
        (command == Command::REGION_READ && !config).then_some(Err(Errno::IO))
    });
    let vm = Vm::start(Server::start(refuses));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(vm.read(AREA32_REGION, 0, 4), 0xffff_ffff);
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_server_with_a_bad_opening_leaves_an_empty_slot() {
    let bent = |at: Command, answer: Result<Vec<u8>, Errno>| -> Bend {
        Box::new(move |command, _| (command == at).then(|| answer.clone()))
    };
    let bridge = |command: Command, body: &[u8]| -> Option<Result<Vec<u8>, Errno>> {
        let mut image = server::config_space();
        image[0x0e] = 1;
        (command == Command::REGION_READ).then(|| Ok([body, &image].concat()))
    };
    let cases: Vec<(&str, Bend)> = vec![
        ("JSON", bent(Command::VERSION, Ok(b"\0\0\x01\0{\0".to_vec()))),
        ("major version", bent(Command::VERSION, Ok(b"\x09\0\0\0{}\0".to_vec()))),
        ("minor version", bent(Command::VERSION, Ok(b"\0\0\x09\0{}\0".to_vec()))),
        ("shorter", bent(Command::DEVICE_GET_INFO, Ok(vec![0; 3]))),
        ("not a PCI device", bent(Command::DEVICE_GET_INFO, Ok(vec![0; 16]))),
        ("error number 5", bent(Command::DEVICE_GET_REGION_INFO, Err(Errno::IO))),
        ("GET_REGION_INFO reply", bent(Command::DEVICE_GET_REGION_INFO, Ok(vec![0xff; 32]))),
        ("GET_IRQ_INFO reply", bent(Command::DEVICE_GET_IRQ_INFO, Ok(vec![0xff; 16]))),
        ("REGION_READ reply", bent(Command::REGION_READ, Ok(vec![0xee; 300]))),
        ("error number 12", bent(Command::DMA_MAP, Err(Errno::NOMEM))),
        ("its interrupts", bent(Command::DEVICE_SET_IRQS, Err(Errno::INVAL))),
        ("DEVICE_FEATURE", bent(Command::DEVICE_FEATURE, Ok(vec![0; 7]))),
        ("header type", Box::new(bridge)),
    ];
    for (reason, bend) in cases {
        Vm::start(Server::start(bend)).assert_failed(reason);
    }
}

#[test]
fn requests_of_the_server_that_make_no_sense_are_refused_and_hurt_nothing() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    let ask = |command, body: &[u8]| vm.server.connection.request(command, &[body], &[], soon());
    let access = |address: u64, count: u64| [address.to_le_bytes(), count.to_le_bytes()].concat();
    for (command, body) in [
        (Command::DMA_READ, access(RAM, 0)),
        (Command::DMA_READ, access(RAM, u64::MAX)),
        (Command::DMA_READ, access(u64::MAX, 2)),
        (Command::DMA_READ, access(RAM, (1 << 20) + 1)),
        (Command::DMA_READ, vec![0; 3]),
        (Command::DMA_WRITE, access(RAM, 8)),
        (Command::DMA_WRITE, vec![]),
        (Command::REGION_READ, vec![0; 16]),
        (Command::DEVICE_RESET, vec![]),
        (Command(0xffff), vec![0; 100]),
    ] {
        let answer = ask(command, &body);
        assert!(matches!(answer, Err(ConnectionError::Remote { .. })), "{command:?}: {answer:?}");
    }
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_server_that_breaks_the_framing_fails_its_device_only() {
    let message = |id, kind, body: &[u8]| {
        let header = Header { id, command: Command::DMA_WRITE, kind, body_len: body.len() };
        [&header.encode().unwrap()[..], body].concat()
    };
    let transfer = [DmaAccess::new(RAM, 8).as_bytes(), &[7; 8]].concat();
    let whole = message(9, Kind::Command, &transfer);
    let mut too_long = whole.clone();
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_type = whole.clone();
    no_type[8] = 7;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("the request was never made", message(0x7777, Kind::Reply, &transfer)),
        ("the request was never made", message(0x7777, Kind::Failure(5), &[])),
        ("the message size is out of range", too_long),
        ("the message type does not exist", no_type),
        // The stream ends in the middle of a message: of its header, and of its body.
        ("closed", whole[..9].to_vec()),
        ("closed", whole[..30].to_vec()),
    ];
    for (reason, bytes) in cases {
        let mut vm = Vm::start(Server::good());
        vm.attach(Attachment::Bypass);
        vm.write(CONFIG_REGION, 4, 2, 0b110);
        (&vm.server.raw).write_all(&bytes).unwrap();
        if reason == "closed" {
            vm.server.raw.shutdown(std::net::Shutdown::Both).unwrap();
        }
        vm.assert_failed(reason);
    }
}
