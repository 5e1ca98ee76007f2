// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of a few instructions and a PCI function whose vfio-user server is this test: real processes between them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[path = "../../dev-vfio/tests/server/mod.rs"]
mod server;
mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ipc::shm::memory_file;
use ipc::vfio_user::header::Command;
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use server::{BAR_LEN, Device, Server};
use support::{Lab, Vm, guest, signal};

/// A socket that `bulkhead run` connects to.
struct Listening {
    socket: UnixListener,
    path: PathBuf,
}

impl Listening {
    fn new(lab: &Lab) -> Listening {
        let path = lab.path("device.sock");
        Listening { socket: UnixListener::bind(&path).unwrap(), path }
    }

    fn words(&self) -> [&str; 2] {
        ["--vfio-user", self.path.to_str().unwrap()]
    }

    fn serve(&self, device: Device) -> Server {
        let (connection, _) = self.socket.accept().unwrap();
        Server::on(connection.into(), device, Box::new(|_, _| None))
    }
}

fn memory(seals: SealFlags) -> OwnedFd {
    let memory = memory_file::create("bar0").unwrap();
    ftruncate(&memory, BAR_LEN).unwrap();
    fcntl_add_seals(&memory, seals).unwrap();
    rustix::io::pwrite(&memory, b"M", 8).unwrap();
    memory
}

/// A counter of a process, as `inspect` has it.
fn counter(vm: &Vm<'_>, process: &str, name: &str) -> u64 {
    let output = vm.lab.bulkhead(&["inspect", "--json"]);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = all.as_array().unwrap().iter().find(|row| row["process"] == process);
    row.and_then(|row| row["values"][name].as_u64()).unwrap_or_else(|| panic!("no {name} in {all:#}"))
}

#[test]
fn guest_reaches_the_memory_of_a_device_without_asking_and_only_while_it_is_enabled() {
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let memory = memory(SealFlags::SHRINK);
    let seen = memory.as_fd().try_clone_to_owned().unwrap();
    let kernel = lab.file("Image", &guest::drives_bar_0());
    let vm = lab.start(&kernel, &listening.words());
    let server = listening.serve(Device { memory: Some(memory), ..Device::default() });
    assert_eq!(vm.output_of(2), [b'M', 0xff]);
    let mut byte = [0];
    rustix::io::pread(&seen, &mut byte, 0).unwrap();
    assert_eq!(byte, *b"G", "the guest's store is in the server's memory");
    assert!(server.device.registers.lock().unwrap().is_empty(), "no message was asked for it");
    assert!(counter(&vm, "vcpu", "vfio0.direct") >= 3);
    assert_eq!(counter(&vm, "vcpu", "vfio0.windows"), 1);
    rustix::io::pwrite(&seen, b"Z", 16).unwrap();
    let (status, rest, log) = vm.end();
    assert!(status.success(), "{log}");
    assert_eq!(rest, b"Z");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn vsmmu_is_told_when_the_dma_of_a_killed_device_process_has_ended_and_the_guest_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let kernel = lab.file("Image", &guest::spins());
    let [flag, path] = listening.words();
    let mut vm = lab.start(&kernel, &[flag, path, "--device-restart", "never"]);
    let _server = listening.serve(Device::default());
    vm.await_running();
    let told = |vm: &Vm<'_>| counter(vm, "smmu0", "vfio0.dma_ended");
    assert_eq!(told(&vm), 0);
    assert_eq!(
        counter(&vm, "smmu0", "vfio0.requests_answered"),
        1,
        "its stream was attached before the guest ran"
    );
    signal(vm.pid("vfio0"), "KILL");
    let until = Instant::now() + Duration::from_secs(60);
    while told(&vm) == 0 {
        assert!(Instant::now() < until, "a CMD_SYNC of the guest's would wait for ever");
    }
    assert_eq!(counter(&vm, "smmu0", "in_flight.stage1_requests"), 0);
    assert!(lab.bulkhead(&["stop"]).status.success());
    let (status, _, log) = vm.end();
    assert!(status.success() && log.contains("vfio0 is lost"), "{log}");
}

#[test]
fn memory_that_could_shrink_is_not_mapped_and_the_guest_goes_on_by_message() {
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let memory = memory(SealFlags::empty());
    let own = memory.as_fd().try_clone_to_owned().unwrap();
    let kernel = lab.file("Image", &guest::drives_bar_0());
    let mut vm = lab.start(&kernel, &listening.words());
    let mut registers = vec![0; 64];
    registers[8] = b'R';
    let device = Device { memory: Some(memory), registers: Mutex::new(registers), ..Device::default() };
    let server = listening.serve(device);
    vm.await_log("not sealed against shrinking");
    assert_eq!(vm.output_of(2), [b'R', 0xff], "the registers answer, not the memory");
    ftruncate(&own, 0).unwrap();
    assert_eq!(server.device.registers.lock().unwrap()[0], b'G');
    assert_eq!(counter(&vm, "vcpu", "vfio0.direct"), 0);
    server.device.registers.lock().unwrap()[16] = b'Z';
    let (status, rest, log) = vm.end();
    assert!(status.success(), "{log}");
    assert_eq!(rest, b"Z");
}

#[test]
fn guest_reaches_an_io_bar_by_message_and_waits_for_its_writes() {
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let kernel = lab.file("Image", &guest::drives_io_bar_0());
    let vm = lab.start(&kernel, &listening.words());
    let mut registers = vec![0; 64];
    registers[8] = b'R';
    let server = listening.serve(Device { io: true, registers: Mutex::new(registers), ..Device::default() });
    assert_eq!(vm.output_of(2), [b'R', 0xff], "nothing answers while I/O space is disabled");
    assert_eq!(server.device.registers.lock().unwrap()[0], b'G');
    assert_eq!(counter(&vm, "vcpu", "vfio0.posts"), 0, "a write to I/O space is done when it is answered");
    server.device.registers.lock().unwrap()[16] = b'Z';
    let (status, rest, log) = vm.end();
    assert!(status.success(), "{log}");
    assert_eq!(rest, b"Z");
}

/// A device with a pin, perhaps with migration states, and a guest that is ready for its interrupts.
fn with_pin(lab: &Lab, migration: Option<server::migration::Migration>) -> (Listening, Vm<'_>, Server) {
    let listening = Listening::new(lab);
    let kernel = lab.file("Image", &guest::takes_intx());
    let mut vm = lab.start(&kernel, &listening.words());
    let (registers, intx) = (Mutex::new(vec![0; 64]), Some(Mutex::default()));
    let server = listening.serve(Device { registers, intx, migration, ..Device::default() });
    vm.await_running();
    assert_eq!(vm.output_of(1), b"r");
    (listening, vm, server)
}

#[test]
fn guest_takes_the_pin_of_a_device_as_often_as_it_is_asserted() {
    let Some(lab) = Lab::new() else { return };
    let (_listening, vm, server) = with_pin(&lab, None);
    server.device.set_intx(true);
    // The first time the guest does nothing about it: it comes again.
    assert_eq!(vm.output_of(2), b"II");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(vm.drain(), b"", "the device wants nothing any more");
    server.device.set_intx(true);
    assert_eq!(vm.output_of(1), b"I");
    // Nothing is lost over a pause.
    assert!(lab.bulkhead(&["pause"]).status.success());
    server.device.set_intx(true);
    assert!(lab.bulkhead(&["resume"]).status.success());
    assert_eq!(vm.output_of(1), b"I");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn killed_device_process_comes_back_in_front_of_a_server_that_hears_of_its_interrupts_alone() {
    let Some(lab) = Lab::new() else { return };
    let (_listening, vm, server) = with_pin(&lab, None);
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let until = Instant::now() + support::PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let deaths = || {
        let status = lab.bulkhead(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["deaths"]["vfio0"]["count"].as_u64().unwrap_or(0)
    };
    for round in 1..=4 {
        server.device.commands.lock().unwrap().clear();
        signal(vm.pid("vfio0"), "KILL");
        if round % 2 == 0 {
            // Perhaps to the dead life's eventfd.
            server.device.set_intx(true);
        }
        wait("its death is counted", &|| deaths() == round);
        wait("its next life connects the pin", &|| {
            server.device.commands.lock().unwrap().contains(&Command::DEVICE_SET_IRQS)
        });
        if round % 2 == 1 {
            server.device.set_intx(true);
        }
        // The guest answers it at the device.
        wait("the interrupt reaches the guest", &|| {
            !server.device.intx.as_ref().unwrap().lock().unwrap().asserted
        });
        let heard = server.device.commands.lock().unwrap().clone();
        let of_a_guest = [Command::DEVICE_SET_IRQS, Command::REGION_WRITE, Command::REGION_READ];
        assert!(heard.iter().all(|command| of_a_guest.contains(command)), "{heard:?}");
        assert!(vm.drain().iter().all(|byte| *byte == b'I'));
    }
    assert!(!server.is_over());
    assert!(lab.bulkhead(&["stop"]).status.success());
    let (status, _, log) = vm.end();
    assert!(status.success() && !log.contains("is lost"), "{log}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

/// Registers in which the guest finds `first`, and a byte to end with.
fn registers(first: u8) -> Device {
    let mut registers = vec![0; 64];
    registers[8] = first;
    registers[16] = b'.';
    Device { registers: Mutex::new(registers), ..Device::default() }
}

#[test]
fn guest_that_was_reset_meets_its_device_over_a_new_connection_or_finds_it_failed() {
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let kernel = lab.file("Image", &guest::drives_bar_0_and_resets());
    let mut vm = lab.start(&kernel, &listening.words());
    for life in [b'1', b'2', b'3'] {
        let server = listening.serve(registers(life));
        assert_eq!(vm.output_of(3), [life, 0xff, b'.']);
        let until = std::time::Instant::now() + support::PATIENCE;
        while !server.is_over() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(server.is_over(), "the old connection is closed");
    }
    let server = listening.serve(registers(b'4'));
    let Listening { socket, path } = listening;
    drop(socket);
    std::fs::remove_file(path).unwrap();
    assert_eq!(vm.output_of(3), [b'4', 0xff, b'.']);
    let told = vm.await_log("vfio0 is lost: its server takes no new connection");
    assert!(told.contains("WARN") && told.contains("the guest goes on without it"), "{told}");
    // All ones, and so on from reset to reset.
    assert_eq!(vm.output_of(3), [0xff; 3]);
    assert!(server.is_over());
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn direct_dma_gives_the_server_guest_ram_and_is_seen_from_outside() {
    const RAM: u64 = 0x4000_0000;
    let Some(lab) = Lab::new() else { return };
    let listening = Listening::new(&lab);
    let kernel = lab.file("Image", &guest::spins());
    let config = lab.file("vm.toml", b"[[device]]\nvfio-user = \"device.sock\"\ndirect-dma = true\n");
    let mut vm = lab.start(&kernel, &["--config", config.to_str().unwrap()]);
    let server = listening.serve(registers(0));
    vm.await_running();
    // Out of reset the SMMU is off, and every stream in bypass.
    let until = std::time::Instant::now() + support::PATIENCE;
    while !server.device.windows.lock().unwrap().contains_key(&RAM) && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    {
        let windows = server.device.windows.lock().unwrap();
        let (file, offset) = windows[&RAM].memory.as_ref().unwrap();
        let mut found = vec![0; usize::try_from(windows[&RAM].len).unwrap()];
        rustix::io::pread(file, &mut found, *offset).unwrap();
        assert!(found.windows(4).any(|word| word == b"ARM\x64"), "the guest's kernel is in it");
    }
    let output = lab.bulkhead(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["direct_dma"], serde_json::json!(["vfio0"]));
    let said = String::from_utf8(lab.bulkhead(&["status"]).stdout).unwrap();
    assert!(said.contains("vfio0: direct-dma"), "{said}");
    let said = String::from_utf8(lab.bulkhead(&["inspect"]).stdout).unwrap();
    assert!(said.contains("guest RAM is mapped at the server"), "{said}");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}

#[test]
fn device_stays_in_its_server_while_its_guest_is_saved_and_restored() {
    let Some(lab) = Lab::new() else { return };
    let (_listening, vm, server) = with_pin(&lab, Some(server::migration::Migration::new(0)));
    server.device.set_intx(true);
    // The first time the guest does nothing about it: it comes again.
    assert_eq!(vm.output_of(2), b"II");
    for _ in 0..5 {
        let moved = lab.bulkhead(&["save-restore"]);
        assert!(moved.status.success(), "{moved:?}");
        server.device.set_intx(true);
        assert_eq!(vm.output_of(1), b"I");
    }
    // Asserted before the move, taken behind it.
    assert!(lab.bulkhead(&["pause"]).status.success());
    server.device.set_intx(true);
    assert!(lab.bulkhead(&["resume"]).status.success());
    assert!(lab.bulkhead(&["save-restore"]).status.success());
    assert_eq!(vm.output_of(1), b"I");
    let count = |wanted| server.device.commands.lock().unwrap().iter().filter(|one| **one == wanted).count();
    assert_eq!([count(Command::VERSION), count(Command::DEVICE_RESET)], [1, 1], "one session, one reset");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn device_that_cannot_be_stopped_is_named_before_anything_is_touched() {
    let Some(lab) = Lab::new() else { return };
    let (_listening, vm, server) = with_pin(&lab, None);
    let before = server.device.commands.lock().unwrap().len();
    let refused = lab.bulkhead(&["save-restore"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(why.contains("vfio0") && why.contains("no migration states"), "{why}");
    assert_eq!(server.device.commands.lock().unwrap().len(), before, "the server was asked nothing");
    server.device.set_intx(true);
    assert_eq!(vm.output_of(2), b"II", "the guest runs on");
    assert!(lab.bulkhead(&["stop"]).status.success());
    assert_eq!(vm.end().0.code(), Some(0));
}
