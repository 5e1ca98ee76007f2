// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program as its user meets it: what it refuses, what it says, and what it leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use host::local::Local;
use host::program::{MIB, Program};
use host::{Driver, PAGE, Queue, Ram, block_command, pattern, read, status, write};
use ipc::vfio_user::connection::ConnectionError;
use rustix::process::Signal;
use sandbox::signals;
use zerocopy::IntoBytes;

fn run(options: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
    let Output { status, stderr, .. } = command.args(options).output().unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A driver with a queue over memory of its own.
fn driver(program: &Program) -> (Driver<host::client::Client>, Queue) {
    let ram = Ram::new(4 << 20);
    let client = program.client();
    client.map(&ram, true);
    let driver = Driver::start(client, ram);
    let queue = driver.create(1, 64);
    (driver, queue)
}

#[test]
fn file_that_is_no_socket_is_kept_whatever_the_command_line_says() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, precious) = (folder.path().join("disk.img"), folder.path().join("precious.img"));
    for path in [&disk, &precious] {
        fs::write(path, vec![b'D'; 1 << 20]).unwrap();
    }
    for socket in [&precious, &disk] {
        let (done, said) = run(&["--image", text(&disk), "--socket-path", text(socket)]);
        assert!(!done && said.contains("is a regular file"), "{said}");
        assert_eq!(fs::read(socket).unwrap(), vec![b'D'; 1 << 20]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn socket_goes_with_the_program_when_a_signal_ends_it() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut program = Program::start(&[]);
        let client = program.client();
        program.signal(signal);
        assert!(program.ended().success(), "{signal:?}");
        assert!(!program.socket().exists(), "{signal:?}");
        let gone = client.connection.receive(host::client::soon());
        assert!(matches!(gone, Err(ConnectionError::Closed)), "{signal:?}");
    }
}

#[test]
fn signal_that_the_parent_ignores_ends_nothing() {
    // As nohup does it.
    let folder = tempfile::tempdir().unwrap();
    File::create(folder.path().join("disk.img")).unwrap().set_len(16 * MIB).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" --image disk.img --socket-path socket"]);
    command.arg(env!("CARGO_BIN_EXE_bulkhead-nvme")).current_dir(folder.path());
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    assert!(!signals::is_ignored(Signal::TERM));
    let mut program = Program::run(folder, command);
    program.signal(Signal::HUP);
    program.client().connection.close();
    program.signal(Signal::TERM);
    assert!(program.ended().success());
}

#[test]
fn socket_of_a_killed_program_is_replaced_and_a_newer_one_left_alone() {
    let mut first = Program::start(&[]);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(first.socket().exists());
    // The dead one's sealed process may need a moment to let go of socket and image.
    while UnixStream::connect(first.socket()).is_ok() {
        std::thread::yield_now();
    }
    let mut second = Program::command(first.path());
    second.arg("--shared-image");
    let folder = std::mem::replace(&mut first.folder, tempfile::tempdir().unwrap());
    let mut second = Program::run(folder, second);
    // Somebody else's by now.
    fs::remove_file(second.socket()).unwrap();
    let _newer = std::os::unix::net::UnixListener::bind(second.socket()).unwrap();
    second.signal(Signal::TERM);
    assert!(second.ended().success(), "{:?}", second.said());
    UnixStream::connect(second.socket()).unwrap();
}

#[test]
fn second_user_of_an_image_is_refused_unless_told() {
    let program = Program::start(&[]);
    let image = program.path().join("disk.img");
    let refused = run(&["--image", text(&image), "--socket-path", "/nonexistent/socket"]);
    assert!(!refused.0 && refused.1.contains("is in use (see --shared-image)"), "{}", refused.1);
    // Further than that: only the socket cannot be.
    let shared = run(&["--shared-image", "--image", text(&image), "--socket-path", "/nonexistent/socket"]);
    assert!(!shared.0 && shared.1.contains("\"/nonexistent/socket\" cannot be made"), "{}", shared.1);
}

#[test]
fn image_that_cannot_be_a_disk_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("odd.img");
    File::create(&image).unwrap().set_len(1000).unwrap();
    let refuse = |image: &str| {
        let (done, said) = run(&["--image", image, "--socket-path", text(&folder.path().join("s"))]);
        assert!(!done && said.contains(image), "{said}");
        said
    };
    assert!(refuse(text(&image)).contains("not a whole number of blocks"));
    assert!(refuse("/dev/null").contains("neither a regular file nor a block device"));
    assert!(refuse(text(folder.path())).contains("cannot be opened"));
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    assert!(refuse(text(&folder.path().join("fifo"))).contains("neither a regular file"));
}

#[test]
fn help_into_an_output_that_takes_nothing_does_not_panic() {
    let help = |to: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
        let output = command.arg("--help").stdout(to).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(help(Stdio::piped()).0.contains("--socket-path <PATH>"));
    let (nobody, closed) = std::io::pipe().unwrap();
    drop(nobody);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for to in [Stdio::from(closed), Stdio::from(full)] {
        let (_, said) = help(to);
        assert!(!said.contains("panicked"), "{said}");
    }
    // Nor does anything else that it has to say.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
    let code =
        command.args(["--image", "/dev/null", "--socket-path=s"]).stderr(full).status().unwrap().code();
    assert_eq!(code, Some(1));
}

#[test]
fn write_beyond_the_limit_on_file_sizes_is_told_to_guest_and_host() {
    let folder = tempfile::tempdir().unwrap();
    File::create(folder.path().join("disk.img")).unwrap().set_len(16 * MIB).unwrap();
    let mut command = Command::new("bash");
    // In units of 1024 bytes: half of the image.
    command.args(["-c", "ulimit -f 8192; exec \"$0\" --image=disk.img --socket-path=socket"]);
    command.arg(env!("CARGO_BIN_EXE_bulkhead-nvme")).current_dir(folder.path());
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let program = Program::run(folder, command);
    let (driver, mut queue) = driver(&program);
    let page = driver.pages(1);
    let at = 12 * MIB / 512;
    assert_eq!(status(&driver.run(&mut queue, write(0, 8, page, 0))), 0);
    assert_ne!(status(&driver.run(&mut queue, write(at, 8, page, 0))), 0);
    let line = program.says("disk.img");
    for part in ["image", "write of 4096 bytes at offset 12582912", "File too large", "ulimit -f"] {
        assert!(line.contains(part), "{line}");
    }
    // Who fails again and again is not told of each.
    for _ in 0..1000 {
        assert_ne!(status(&driver.run(&mut queue, write(at, 8, page, 0))), 0);
    }
    assert_eq!(status(&driver.run(&mut queue, read(at, 8, page, 0))), 0);
    let lines = program.said().iter().filter(|line| line.contains("write of")).count();
    assert!(lines < 8, "{lines} lines");
}

#[test]
fn image_that_is_cut_short_is_told_to_guest_and_host() {
    let program = Program::start(&[]);
    let (driver, mut queue) = driver(&program);
    let page = driver.pages(1);
    assert_eq!(status(&driver.run(&mut queue, read(16384, 8, page, 0))), 0);
    program.image().set_len(4 * MIB).unwrap();
    assert_ne!(status(&driver.run(&mut queue, read(16384, 8, page, 0))), 0);
    let line = program.says("disk.img");
    assert!(line.contains("read of 4096 bytes at offset 8388608") && line.contains("shorter"), "{line}");
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
}

#[test]
fn image_that_is_only_read_is_a_write_protected_disk() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    fs::write(&image, pattern(1, 1 << 20)).unwrap();
    let mut command = Program::command(folder.path());
    command.arg("--readonly");
    let program = Program::run(folder, command);
    let (driver, mut queue) = driver(&program);
    let page = driver.pages(1);
    assert_eq!(driver.identify(0, 1).unwrap()[99], 1, "NSATTR");
    const PROTECTED: u16 = 0x20;
    for command in [write(0, 8, page, 0), block_command(8, 0, 8, 0, 0), discard(&driver, 1)] {
        assert_eq!(status(&driver.run(&mut queue, command)) & 0xff, PROTECTED, "{:#x}", command.opcode);
    }
    let mut flush = host::blank(0);
    flush.nsid = 1.into();
    assert_eq!(status(&driver.run(&mut queue, flush)), 0);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    assert!(driver.ram.get(page, 4096) == pattern(1, 1 << 20)[..4096]);
    assert!(fs::read(&image).unwrap() == pattern(1, 1 << 20));
}

#[test]
fn disk_has_names_of_its_own_unless_it_is_given_some() {
    let serial = |program: &Program| {
        let (driver, _) = driver(program);
        let page = driver.identify(1, 0).unwrap();
        String::from_utf8(page[4..24].to_vec()).unwrap().trim_end().to_owned()
    };
    let (one, other) = (Program::start(&[]), Program::start(&[]));
    let first = serial(&one);
    assert!(first.starts_with("BH") && first != serial(&other), "{first}");
    assert_eq!(serial(&one), first);
    assert_eq!(serial(&Program::start(&["--serial=MINE"])), "MINE");
}

#[test]
fn image_of_another_format_is_served_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let image = File::create(folder.path().join("disk.img")).unwrap();
    image.set_len(MIB).unwrap();
    image.write_all_at(b"QFI\xfb\0\0\0\x03", 0).unwrap();
    let command = Program::command(folder.path());
    let program = Program::run(folder, command);
    let line = program.says("qcow2");
    assert!(line.contains("raw blocks") && line.contains("disk.img"), "{line}");
}

#[test]
fn clients_that_come_and_go_do_not_fill_the_log() {
    let program = Program::start(&[]);
    for _ in 0..500 {
        // No version first: refused, and gone again.
        let stream = UnixStream::connect(program.socket()).unwrap();
        rustix::net::send(&stream, &[0xee; 64], rustix::net::SendFlags::NOSIGNAL).unwrap();
    }
    let client = program.client();
    assert!(client.ask(ipc::vfio_user::header::Command(77), &[]).is_err());
    client.connection.close();
    drop(program.client());
    let said = program.said();
    assert!(said.len() < 40, "{} lines: {:?}", said.len(), said.last());
}

/// Dataset Management with 256 ranges, each of which is the whole disk of that many MiB.
fn discard<W: host::Wire>(driver: &Driver<W>, mib: u64) -> dev_nvme::spec::command::Command {
    let list = driver.pages(1);
    let range = dev_nvme::spec::command::DatasetRange {
        attributes: 0.into(),
        block_count: ((mib * MIB / 512) as u32).into(),
        slba: 0.into(),
    };
    driver.ram.put(list, &range.as_bytes().repeat((PAGE / 16) as usize));
    let mut command = host::blank(9);
    command.nsid = 1.into();
    command.prp1 = list.into();
    command.cdw10 = 255.into();
    command.cdw11 = 4.into();
    command
}

#[test]
fn deallocation_that_the_file_system_cannot_do_writes_nothing() {
    // A file system without holes, in a mount namespace of its own, and this very program there.
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t ramfs ram . && cd \"$PWD\" && \
                  exec \"$0\" --ignored --exact deallocation_without_holes --nocapture";
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let possible = Command::new("unshare").args(namespaces).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no mount namespace for a file system without holes");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["sh", "-c", script]).arg(std::env::current_exe().unwrap());
    let Output { status, stdout, .. } = command.current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "started by the test above, in a folder on a file system without holes"]
fn deallocation_without_holes() {
    let image = File::options().read(true).write(true).create_new(true).open("disk.img").unwrap();
    image.write_all_at(&b"y\n".repeat(8 << 20), 0).unwrap();
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let refused = rustix::fs::fallocate(&image, hole, 0, PAGE);
    assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP), "this file system has holes");
    let ram = Ram::new(4 << 20);
    let driver = Driver::start(Local::new(image, 512, &ram), ram);
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    assert_eq!(status(&driver.run(&mut queue, discard(&driver, 16))), 0);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    assert!(driver.ram.get(page, 4096) == b"y\n".repeat(2048), "a hint is not followed by writing");
    // Zeros that were ordered are written.
    assert_eq!(status(&driver.run(&mut queue, block_command(8, 0, 8, 0, 0))), 0);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    assert!(driver.ram.get(page, 4096) == [0; 4096]);
}
