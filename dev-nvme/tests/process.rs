// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program itself: launched, sealed, used over its socket, looked at from outside, killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use dev_nvme::service::launch::CLIENT_MEMORY_LEN;
use host::client::Client;
use host::program::Program;
use host::{Driver, PAGE, Ram, pattern, read, status, write};
use sandbox::profiles;

fn exercise(client: &Client, ram: &Ram, program: &Program) {
    let driver = Driver::start(client.clone(), ram.clone());
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    let blocks = if driver.identify(0, 1).unwrap()[130] == 12 { 1 } else { 8 };
    for number in 0..64u64 {
        let data = pattern(number, 4096);
        ram.put(page, &data);
        let slba = number * u64::from(blocks);
        assert_eq!(status(&driver.run(&mut queue, write(slba, blocks, page, 0))), 0);
        ram.put(page, &[0; 4096]);
        assert_eq!(status(&driver.run(&mut queue, read(slba, blocks, page, 0))), 0);
        assert!(ram.get(page, 4096) == data);
        // Seen from outside too.
        let mut held = vec![0; 4096];
        program.image().read_exact_at(&mut held, number * PAGE).unwrap();
        assert!(held == data, "block {number}");
    }
    let mut zero = host::block_command(8, 0, blocks, 0, 0);
    for release in [0, 1 << 25] {
        zero.cdw12 = ((blocks - 1) | release).into();
        assert_eq!(status(&driver.run(&mut queue, zero)), 0);
    }
    let mut flush = host::blank(0);
    flush.nsid = 1.into();
    assert_eq!(status(&driver.run(&mut queue, flush)), 0);
}

#[test]
fn sealed_process_serves_mapped_memory_and_messages() {
    let program = Program::start(&[]);
    for by_fd in [true, false] {
        let ram = Ram::new(2 << 20);
        let client = program.client();
        client.map(&ram, by_fd);
        client.eventfds(17);
        exercise(&client, &ram, &program);
        client.connection.close();
    }
}

#[test]
fn block_length_and_serial_number_are_the_users() {
    let program = Program::start(&["--block-size", "4096", "--serial", "MINE"]);
    let ram = Ram::new(2 << 20);
    let client = program.client();
    client.map(&ram, true);
    exercise(&client, &ram, &program);
    let driver = Driver::start(client, ram);
    assert_eq!(&driver.identify(1, 0).unwrap()[4..9], b"MINE ");
}

#[test]
fn process_is_what_its_profile_says_while_it_serves() {
    let program = Program::start(&[]);
    let ram = Ram::new(2 << 20);
    let client = program.client();
    client.map(&ram, true);
    exercise(&client, &ram, &program);
    let observed = sandbox::audit::observe(program.sealed());
    let image_len = program.image().metadata().unwrap().len();
    let profile = profiles::nvme_standalone().sized(CLIENT_MEMORY_LEN, image_len);
    let drifts = sandbox::audit::compare(&observed, &profile);
    let (unread, drifts): (Vec<_>, Vec<_>) = drifts.into_iter().partition(|drift| drift.unread);
    assert!(drifts.is_empty(), "{drifts:?}");
    for fact in unread {
        println!("not known here: {fact}");
    }
    // By root the descriptors can be listed: the image is the only file among them.
    match &observed.descriptors {
        Ok(descriptors) => {
            let files = descriptors
                .iter()
                .filter(|fd| fd.target.starts_with('/') && !fd.target.starts_with("/memfd:"));
            let names: Vec<_> = files.map(|fd| fd.target.as_str()).collect();
            assert_eq!(names.len(), 1, "{names:?}");
            assert!(names[0].ends_with("disk.img"), "{names:?}");
        }
        Err(why) => println!("not known here: {why}"),
    }
}

#[test]
fn end_of_either_process_is_the_end_of_both() {
    // The sealed one: the launcher says how, and takes the socket away.
    let mut program = Program::start(&[]);
    // An answer: by now it serves.
    drop(program.client());
    let sealed = program.sealed();
    let killed = rustix::process::Pid::from_raw(sealed).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    assert!(!program.ended().success());
    program.says("the sealed process ended: Signal(9)");
    assert!(!program.socket().exists());
    // The launcher: the kernel ends the sealed one, and a client sees it.
    let mut program = Program::start(&[]);
    let client = program.client();
    let sealed = program.sealed();
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    let gone = client.connection.receive(host::client::soon());
    assert!(matches!(gone, Err(ipc::vfio_user::connection::ConnectionError::Closed)));
    let since = Instant::now();
    while fs::exists(format!("/proc/{sealed}")).unwrap() {
        assert!(since.elapsed() < Duration::from_secs(10), "the sealed process lives on");
        thread::sleep(Duration::from_millis(5));
    }
}
