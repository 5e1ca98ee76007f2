// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A function that moves from one life of its process to the next: with its server, or to another one.

use std::fs::File;
use std::io::Cursor;

use dev_vfio::saved::{DATA, FunctionV1, ServerV1};
use ipc::saved::stream::{UnitReader, UnitWriter};
use ipc::saved::{Reader, SavedState};
use ipc::shm::memory_file;
use ipc::vfio_user::feature::{FeatureHeader, FeatureOp, MigDeviceState, MigState};
use process::Source;
use rustix::fs::fstat;

use super::server::Device;
use super::*;

/// Bytes of state that a small server has behind its registers.
const BEHIND: u64 = 5000;

fn good(behind_len: u64) -> Server {
    Server::with_migration(behind_len, Box::new(|_, _| None))
}

/// A life whose server is another one in the next, or the same.
fn life(mut server: Server, keeps_server: bool) -> Vm {
    let client = server.client.take().unwrap();
    let mut vm = unloaded(server, client, keeps_server);
    vm.process.boot().unwrap();
    assert_eq!(vm.event(), Event::DeviceOpened);
    vm.smmu.hello(Role::Vfio, soon()).unwrap();
    vm.write(CONFIG_REGION, 4, 2, BUS_MASTER);
    vm
}

fn unloaded<S>(server: S, client: OwnedFd, keeps_server: bool) -> Vm<S> {
    let ram = Region::create("ram", RAM_LEN).unwrap();
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 }]).unwrap();
    Vm::configured(server, client, layout, ram, |config| config.keeps_server = keeps_server)
}

/// Holds still, and is saved.
fn save<S>(vm: &mut Vm<S>) -> Vec<u8> {
    assert!(vm.process.check_save().is_ok());
    let in_flight = vm.process.pause().unwrap();
    assert!(in_flight.is_quiet(), "{in_flight:?}");
    let mut stream = Vec::new();
    vm.process.save(&mut stream).unwrap();
    stream
}

/// The next life, armed, and what it says of its device.
fn armed<S>(server: S, client: OwnedFd, keeps_server: bool, stream: &[u8]) -> (Vm<S>, Event) {
    let mut vm = unloaded(server, client, keeps_server);
    vm.process.load(Source::Units(Box::new(Cursor::new(stream.to_vec())))).unwrap();
    vm.process.arm().unwrap();
    let event = vm.event();
    (vm, event)
}

/// The next life at another server.
fn elsewhere(mut server: Server, stream: &[u8]) -> (Vm, Event) {
    let client = server.client.take().unwrap();
    armed(server, client, false, stream)
}

/// Attached as it was, and let go.
fn go((mut vm, event): (Vm, Event)) -> Vm {
    assert_eq!(event, Event::DeviceOpened);
    vm.smmu.hello(Role::Vfio, soon()).unwrap();
    vm.attach(Attachment::Bypass);
    vm.process.replay().unwrap();
    vm.process.go().unwrap();
    vm
}

fn state_of(vm: &Vm) -> MigState {
    vm.server.device.migration.as_ref().unwrap().state()
}

/// The registers of BAR 0 that a guest has written, and MSI-X with vector 0 open and vector 1 masked.
fn set_up(vm: &mut Vm) {
    vm.attach(Attachment::Bypass);
    vm.enable_vector_0(DOORBELL.0, 33);
    vm.write(AREA32_REGION, TABLE + 16, 8, DOORBELL.0);
    vm.write(AREA32_REGION, TABLE + 24, 4, 44);
    vm.write(AREA32_REGION, 8, 4, 0x1234_5678);
    vm.write(CONFIG_REGION, 0x3c, 1, 77);
}

/// A guest notices nothing: its registers, its table, what was pending, what comes now.
fn check(vm: &Vm, pending: u64) {
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 0x1234_5678);
    assert_eq!(vm.read(CONFIG_REGION, 0x3c, 1), 77);
    assert_eq!(vm.read(CONFIG_REGION, 4, 2), 0b110);
    assert_eq!(vm.read(CONFIG_REGION, 0x42, 2), 0x8001);
    assert_eq!(vm.read(AREA32_REGION, TABLE, 8), DOORBELL.0);
    assert_eq!(vm.read(AREA32_REGION, TABLE + 24, 8), 1 << 32 | 44, "masked");
    assert_eq!(vm.read(AREA32_REGION, 0x3000, 8), pending);
    vm.server.signal(0);
    assert_eq!(vm.msis(LONG), [33]);
    if pending != 0 {
        vm.write(AREA32_REGION, TABLE + 28, 4, 0);
        assert_eq!(vm.msis(LONG), [44], "what was pending comes when it is unmasked");
        vm.write(AREA32_REGION, TABLE + 28, 4, 1);
    }
    assert_eq!(vm.msis(A_MOMENT), [0; 0], "once");
    vm.dma_write(RAM + 0x100, b"DMA").unwrap();
    assert_eq!(vm.dma_read(RAM + 0x100, 3).unwrap(), b"DMA");
}

#[test]
fn a_device_goes_to_another_server_with_all_that_it_has() {
    let mut old = life(good(BEHIND), false);
    set_up(&mut old);
    old.server.signal(1);
    let until = Instant::now() + LONG;
    while old.read(AREA32_REGION, 0x3000, 8) != 2 && Instant::now() < until {}
    let stream = save(&mut old);
    assert_eq!(state_of(&old), MigState::Stop);
    let new = go(elsewhere(good(BEHIND), &stream));
    assert_eq!(state_of(&new), MigState::Running);
    check(&new, 2);
    // The first is as it was, too: a move that fails has changed nothing.
    old.process.resume().unwrap();
    check(&old, 2);
}

#[test]
fn a_signal_that_nobody_has_taken_is_in_the_state_or_sent_before_the_pause_is_answered() {
    let mut old = life(good(0), false);
    set_up(&mut old);
    for _ in 0..20 {
        old.server.signal(0);
        old.server.signal(1);
        let stream = save(&mut old);
        assert_eq!(old.msis(Duration::ZERO), [33], "it was sent");
        let mut units = UnitReader::new(&stream[..]);
        let function: FunctionV1 = units.next_of().unwrap();
        let pending: Vec<_> = function.msix.unwrap().vectors.iter().map(|vector| vector.pending).collect();
        assert_eq!(pending, [false, true]);
        old.process.resume().unwrap();
        old.write(AREA32_REGION, TABLE + 28, 4, 0);
        assert_eq!(old.msis(LONG), [44]);
        old.write(AREA32_REGION, TABLE + 28, 4, 1);
    }
}

#[test]
fn a_device_stays_in_a_server_whose_connection_is_taken_over() {
    let server = good(BEHIND);
    let client = server.client.as_ref().unwrap().try_clone().unwrap();
    let mut old = life(server, true);
    set_up(&mut old);
    for turn in 1..4 {
        let stream = save(&mut old);
        let Vm { server, .. } = old;
        let new = go(armed(server, client.try_clone().unwrap(), true, &stream));
        let count = |wanted: Command| {
            new.server.device.commands.lock().unwrap().iter().filter(|command| **command == wanted).count()
        };
        assert_eq!(count(Command::VERSION), 1, "turn {turn}: the session goes on");
        assert_eq!(count(Command::DEVICE_RESET), 1, "turn {turn}: the device has not lost its state");
        assert_eq!(count(Command::MIG_DATA_READ), 0);
        check(&new, 0);
        assert_eq!(new.windows(), [(0, 1 << 48, false)]);
        old = new;
    }
}

#[test]
fn a_connection_is_taken_back_when_the_next_life_does_not_come_to_be() {
    let server = good(BEHIND);
    let client = server.client.as_ref().unwrap().try_clone().unwrap();
    let mut old = life(server, true);
    set_up(&mut old);
    for _ in 0..3 {
        let stream = save(&mut old);
        let (mut new, event) = armed((), client.try_clone().unwrap(), true, &stream);
        assert_eq!(event, Event::DeviceOpened);
        // Its end: from here on nothing of it reads the connection.
        let _ = save(&mut new);
        old.process.resume().unwrap();
        check(&old, 0);
        assert_eq!(state_of(&old), MigState::Running);
        assert_eq!(old.failure(), None);
    }
}

#[test]
fn an_asserted_pin_is_asserted_after_it_too() {
    for keeps_server in [false, true] {
        let migration = || Some(server::migration::Migration::new(0));
        let with_pin = || {
            let device = Device {
                registers: Mutex::new(vec![0; 64]),
                intx: Some(Mutex::default()),
                migration: migration(),
                ..Device::default()
            };
            Server::of(device, Box::new(|_, _| None))
        };
        let server = with_pin();
        let client = server.client.as_ref().unwrap().try_clone().unwrap();
        let mut old = life(server, keeps_server);
        old.attach(Attachment::Bypass);
        old.server.device.set_intx(true);
        assert!(old.intx_within(LONG));
        // Ended, and the device wants more: whoever hears of it, before the move or behind it, the pin is asserted
        // again.
        old.end_intx();
        let stream = save(&mut old);
        let new = if keeps_server {
            let Vm { server, .. } = old;
            go(armed(server, client, true, &stream))
        } else {
            // What its device wants is in the state of a real one.
            let there = with_pin();
            there.device.set_intx(true);
            go(elsewhere(there, &stream))
        };
        assert!(new.intx_within(LONG), "{keeps_server}");
        // A server that is connected anew may say again what it wants.
        while new.intx_within(A_MOMENT) {}
        assert_eq!(new.interrupt_status(), 1);
        new.server.device.set_intx(false);
        new.end_intx();
        new.await_interrupt_status(0);
        assert!(!new.intx_within(A_MOMENT));
        new.server.device.set_intx(true);
        assert!(new.intx_within(LONG));
    }
}

#[test]
fn a_device_that_cannot_be_stopped_is_not_saved_and_says_why() {
    let mut vm = life(Server::good(), true);
    let refused = vm.process.check_save().unwrap_err();
    assert!(refused.why.contains("no migration states"), "{refused:?}");
    assert_eq!(vm.failure(), None);
    vm.process.pause().unwrap();
    assert!(vm.process.save(&mut Vec::new()).is_err());
    vm.process.resume().unwrap();
}

/// Bends the state that is asked for, and the data.
fn bent_at(wanted: MigState, answer: fn() -> Option<Result<Vec<u8>, Errno>>) -> Bend {
    Box::new(move |command, body| {
        if command != Command::DEVICE_FEATURE {
            return None;
        }
        let (_, _, op, data) = FeatureHeader::decode(body).unwrap();
        let hit = op == FeatureOp::Set && MigDeviceState::decode(data) == Ok(wanted);
        hit.then(answer).flatten()
    })
}

fn refuses() -> Option<Result<Vec<u8>, Errno>> {
    Some(Err(Errno::IO))
}

#[test]
fn a_server_that_refuses_a_step_of_saving_costs_the_move_and_nothing_else() {
    // Stopping it: the pause is refused, and the device runs on.
    let mut vm = life(Server::with_migration(0, bent_at(MigState::Stop, refuses)), false);
    let refused = vm.process.pause().unwrap_err();
    assert!(refused.why.contains("MIG_DEVICE_STATE STOP"), "{refused:?}");
    vm.process.resume().unwrap();
    assert_eq!(vm.failure(), None);
    set_up(&mut vm);
    check(&vm, 0);
    let garbage: Bend =
        Box::new(|command, _| (command == Command::MIG_DATA_READ).then_some(Err(Errno::INVAL)));
    for (step, bend) in [("STOP_COPY", bent_at(MigState::StopCopy, refuses)), ("MIG_DATA_READ", garbage)] {
        let mut vm = life(Server::with_migration(0, bend), false);
        set_up(&mut vm);
        vm.process.pause().unwrap();
        let refused = vm.process.save(&mut Vec::new()).unwrap_err();
        assert!(refused.why.contains(step), "{refused:?}");
        assert!(refused.why.contains("its server"), "{refused:?}");
        vm.process.resume().unwrap();
        check(&vm, 0);
    }
}

#[test]
fn a_server_that_dies_or_lies_while_it_is_saved_costs_the_move_and_its_device() {
    let too_much: Bend = Box::new(|command, _| {
        (command == Command::MIG_DATA_READ)
            .then(|| Ok([&[8, 1, 16, 0, 0, 1, 16, 0][..], &[7; (1 << 20) + 256]].concat()))
    });
    for (step, bend) in [
        ("more than was asked for", too_much),
        (
            "MIG_DATA_READ",
            Box::new(|command: Command, _: &[u8]| {
                (command == Command::MIG_DATA_READ).then(|| Ok(vec![1; 3]))
            }),
        ),
    ] {
        let mut vm = life(Server::with_migration(0, bend), false);
        vm.process.pause().unwrap();
        let refused = vm.process.save(&mut Vec::new()).unwrap_err();
        assert!(refused.why.contains(step), "{refused:?}");
        vm.process.resume().unwrap();
        vm.assert_failed("protocol");
    }
    let socket = Arc::new(std::sync::OnceLock::<std::os::unix::net::UnixStream>::new());
    let theirs = Arc::clone(&socket);
    let dies = bent_at(MigState::StopCopy, || Some(Err(Errno::IO)));
    let server = Server::with_migration(
        0,
        Box::new(move |command, body| {
            dies(command, body).inspect(|_| theirs.get().unwrap().shutdown(std::net::Shutdown::Both).unwrap())
        }),
    );
    socket.set(server.raw.try_clone().unwrap()).unwrap();
    let mut vm = life(server, false);
    vm.process.pause().unwrap();
    let refused = vm.process.save(&mut Vec::new()).unwrap_err();
    assert!(refused.why.contains("STOP_COPY") && refused.why.contains("closed"), "{refused:?}");
    vm.process.resume().unwrap();
    vm.assert_failed("closed");
}

#[test]
fn a_server_that_does_not_take_a_state_is_named_with_the_step() {
    let mut old = life(good(BEHIND), false);
    set_up(&mut old);
    let stream = save(&mut old);
    let dies: fn() -> Bend =
        || Box::new(|command, _| (command == Command::MIG_DATA_WRITE).then_some(Err(Errno::NOSPC)));
    // The server of another device says so when it has seen all of it: STOP behind RESUMING.
    for (step, server) in [
        ("RESUMING", Server::with_migration(BEHIND, bent_at(MigState::Resuming, refuses))),
        ("MIG_DATA_WRITE", Server::with_migration(BEHIND, dies())),
        ("MIG_DEVICE_STATE STOP", good(BEHIND + 1)),
        ("MIG_DEVICE_STATE STOP", good(BEHIND - 1)),
        ("no migration states", Server::good()),
    ] {
        let (mut new, event) = elsewhere(server, &stream);
        let Event::DeviceFailed(why) = event else { panic!("{step}: {event:?}") };
        assert!(why.contains("its server") && why.contains(step), "{step}: {why}");
        new.process.inspect();
        let _ = new.process.replay();
    }
    old.process.resume().unwrap();
    check(&old, 0);
}

/// The stream with one unit's body changed, and sealed anew.
fn changed(stream: &[u8], change: impl Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = UnitWriter::new(&mut bytes);
    for (index, unit) in Reader::new(stream).unwrap().units().iter().enumerate() {
        let mut body = unit.body().to_vec();
        change(index, &mut body);
        writer.append_bytes(unit.kind, unit.version, &body).unwrap();
    }
    bytes
}

#[test]
fn states_of_another_device_or_of_none_are_refused() {
    let mut old = life(good(BEHIND), false);
    set_up(&mut old);
    let stream = save(&mut old);
    let load = |bytes: &[u8], keeps_server| {
        let server = good(BEHIND);
        let client = server.client.as_ref().unwrap().try_clone().unwrap();
        let mut vm = unloaded(server, client, keeps_server);
        vm.process.load(Source::Units(Box::new(Cursor::new(bytes.to_vec())))).map(|()| {
            vm.process.arm().unwrap();
            vm.event()
        })
    };
    assert_eq!(load(&stream, false).unwrap(), Event::DeviceOpened);
    assert!(load(&stream, true).unwrap_err().why.contains("out of reset"));
    assert!(load(&[], false).is_err());
    // Cut between two units, and in one.
    let units = Reader::new(&stream).unwrap();
    let lens: Vec<usize> = units.units().iter().map(|unit| 36 + unit.body().len()).collect();
    assert_eq!(units.units()[2].kind, DATA);
    let mut end = 0;
    for len in &lens[..lens.len() - 1] {
        end += len;
        for cut in [end, end - 1] {
            let event = load(&stream[..cut], false);
            assert!(!matches!(event, Ok(Event::DeviceOpened)), "cut at {cut}: {event:?}");
        }
    }
    let twice = [&stream[..], &stream].concat();
    assert!(!matches!(load(&twice, false), Ok(Event::DeviceOpened)));
    // The function of a device with another identity; data that the server does not know as its own; a byte too many.
    let other = changed(&stream, |index, body| {
        if index == 0 {
            body[3] ^= 1
        }
    });
    let Ok(Event::DeviceFailed(why)) = load(&other, false) else { panic!() };
    assert!(why.contains("another device"), "{why}");
    let garbage = changed(&stream, |index, body| {
        if index == 2 {
            body[100] ^= 1
        }
    });
    let Ok(Event::DeviceFailed(why)) = load(&garbage, false) else { panic!() };
    assert!(why.contains("MIG_DEVICE_STATE STOP"), "{why}");
    let longer = changed(&stream, |index, body| {
        if index == 2 {
            body.push(1)
        }
    });
    assert!(matches!(load(&longer, false), Ok(Event::DeviceFailed(_))));
    old.process.resume().unwrap();
    check(&old, 0);
}

/// The largest that this process has ever been, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_state_of_any_size_is_in_private_memory_a_piece_at_a_time() {
    const LEN: u64 = 300 << 20;
    let mut old = life(good(LEN), false);
    set_up(&mut old);
    old.process.pause().unwrap();
    let before = peak();
    let mut file = File::from(memory_file::create("state").unwrap());
    old.process.save(&mut file).unwrap();
    assert!(u64::try_from(fstat(&file).unwrap().st_size).unwrap() > LEN);
    std::io::Seek::rewind(&mut file).unwrap();
    let mut server = good(LEN);
    let client = server.client.take().unwrap();
    let mut new = unloaded(server, client, false);
    new.process.load(Source::Units(Box::new(file))).unwrap();
    new.process.arm().unwrap();
    let event = new.events.recv_timeout(Duration::from_secs(120)).unwrap();
    let grown = peak().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown:#x} bytes more for {LEN:#x} bytes of state");
    check(&go((new, event)), 0);
}

#[test]
fn what_is_saved_is_the_same_when_it_is_saved_again() {
    let mut old = life(good(BEHIND), false);
    set_up(&mut old);
    let stream = save(&mut old);
    let mut again = Vec::new();
    old.process.save(&mut again).unwrap();
    assert_eq!(again, stream);
    let (mut new, event) = elsewhere(good(BEHIND), &stream);
    assert_eq!(event, Event::DeviceOpened);
    assert_eq!(save(&mut new), stream);
    let server: ServerV1 = Reader::new(&stream).unwrap().take().unwrap();
    assert_eq!((server, ServerV1::VERSION), (ServerV1::Anew, 1));
}
