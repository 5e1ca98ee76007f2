// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers that are slow or silent: they hold up their device, and no request of the coordinator's.

use std::sync::mpsc::Sender;
use std::thread::sleep;

use dev_vfio::vfio_user::client::Client;
use ipc::protocol::inspect::Inspect;

use super::*;

/// A server that answers everything up to the first of these commands, and that one only when it is released.
fn holds_back(at: Command) -> (Bend, Sender<()>) {
    let (release, released) = queue::<()>();
    let bend: Bend = Box::new(move |command, _| {
        if command == at {
            // Released, or the test is over.
            let _ = released.recv_timeout(LONG);
        }
        None
    });
    (bend, release)
}

fn state(inspect: &Inspect) -> &str {
    match inspect.get("state") {
        Some(Value::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_server_holds_up_no_request_and_its_device_is_told_lost() {
    let (bend, release) = holds_back(Command::VERSION);
    let mut vm = Vm::begin(Server::start(bend), false);
    // Nothing has been answered yet.
    assert_eq!(state(&vm.process.inspect()), "opening");
    assert!(vm.process.pause().unwrap_err().why.contains("being opened"));
    vm.process.dirty_log(DirtyLogOp::Enable { epoch: 1 }).unwrap();
    let Event::DeviceFailed(reason) = vm.event() else { panic!("the device is open") };
    assert!(reason.contains("deadline passed"), "{reason}");
    vm.smmu.hello(Role::Vfio, soon()).unwrap();
    vm.assert_failed("deadline passed");
    drop(release);
    assert!(vm.events.try_recv().is_err(), "told once");
}

#[test]
fn a_server_that_is_slow_at_every_answer_is_waited_for() {
    // All of it takes longer than any single answer may.
    let slow: Bend = Box::new(|_, _| {
        sleep(Duration::from_millis(300));
        None
    });
    let vm = Vm::begin(Server::start(slow), false);
    assert_eq!(state(&vm.process.inspect()), "opening");
    assert_eq!(vm.events.recv_timeout(2 * LONG), Ok(Event::DeviceOpened));
    assert_eq!(state(&vm.process.inspect()), "works");
    assert_eq!(vm.read(CONFIG_REGION, 0, 2), 0xf1b7);
}

#[test]
fn a_server_that_makes_slow_progress_has_one_deadline_for_all_of_it() {
    let slow: Bend = Box::new(|_, _| {
        sleep(Duration::from_millis(100));
        None
    });
    let mut server = Server::start(slow);
    let opened = Client::open(server.client.take().unwrap(), Deadline::after(Duration::from_millis(450)));
    assert!(opened.unwrap_err().to_string().contains("deadline passed"));
    let asked = server.device.commands.lock().unwrap().len();
    assert!((2..8).contains(&asked), "{asked} requests were answered, each in its own time");
}

#[test]
fn a_server_that_fails_later_is_told_once_with_the_reason() {
    let mut vm = Vm::begin(Server::good(), false);
    assert_eq!(vm.event(), Event::DeviceOpened);
    vm.smmu.hello(Role::Vfio, soon()).unwrap();
    vm.server.connection.close();
    let Event::DeviceFailed(reason) = vm.event() else { panic!("the device works") };
    assert!(reason.contains("closed"), "{reason}");
    vm.assert_failed("closed");
    assert!(vm.events.try_recv().is_err(), "told once");
}

#[test]
fn a_server_that_is_slow_with_its_memory_holds_up_neither_inspection_nor_the_dirty_log() {
    let (bend, release) = holds_back(Command::DMA_UNMAP);
    let mut vm = Vm::start_with(Server::start(bend), true);
    vm.process.dirty_log(DirtyLogOp::Enable { epoch: 1 }).unwrap();
    vm.sequence += 1;
    let requests = vec![Stage1Request::Attach { stream: STREAM, to: Attachment::Bypass }];
    let notice = Notice::Requests { sequence: vm.sequence, requests };
    vm.smmu.event::<OwnedFd>(&notice, &[], soon()).unwrap();
    let until = Instant::now() + LONG;
    let is_asked = |vm: &Vm| vm.server.device.commands.lock().unwrap().contains(&Command::DMA_UNMAP);
    while !is_asked(&vm) && Instant::now() < until {
        sleep(Duration::from_millis(2));
    }
    // The server is being asked, and does not answer.
    let inspect = vm.process.inspect();
    assert_eq!(state(&inspect), "works");
    assert_eq!(inspect.get("dma.direct"), Some(&Value::Text("guest RAM is mapped at the server".into())));
    let state = vm.process.dirty_log(DirtyLogOp::Rearm).unwrap();
    assert_eq!(state.exact, Exactness::Unseen, "the server may have RAM by now");
    assert_eq!(vm.failure(), None, "nobody has waited for its deadline");
    release.send(()).unwrap();
}
