// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sample servers of the reference library itself, built elsewhere: `BULKHEAD_SERVERS` names their folder
//! (`cargo xtask interop --servers`). What they limit is held by [`super::reference`] where they are not.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::SystemTime;

use dev_vfio::vfio_user::client::Client;
use ipc::protocol::vfio::IO_REGION;
use rustix::fd::OwnedFd;

use super::*;

const SERVERS: &str = "BULKHEAD_SERVERS";

/// A sample, running.
struct Sample {
    child: Child,
    folder: tempfile::TempDir,
}

impl Sample {
    /// Starts one; or nothing, after saying why.
    fn start(name: &str) -> Option<Sample> {
        let program = std::env::var_os(SERVERS).map(|folder| Path::new(&folder).join(name));
        let Some(program) = program.filter(|program| program.is_file()) else {
            println!("SKIPPED: {SERVERS} names no folder with libvfio-user's sample `{name}`");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Process::new(program);
        command.arg("-v").arg(folder.path().join("socket")).stdout(Stdio::null()).stderr(log);
        Some(Sample { child: command.spawn().unwrap(), folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn connect(&self) -> OwnedFd {
        let until = Instant::now() + LONG;
        loop {
            match std::os::unix::net::UnixStream::connect(self.socket()) {
                Ok(stream) => return stream.into(),
                Err(error) => assert!(Instant::now() < until, "{error}: {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn await_exit(&mut self) -> std::process::ExitStatus {
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // It may have ended: nothing else can fail here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn gpio_sample_counts_what_is_written_and_takes_a_second_client() {
    const BAR: u32 = 2;
    let Some(sample) = Sample::start("gpio-pci-idio-16") else { return };
    let (client, opened) = Client::open(sample.connect(), soon()).unwrap();
    assert_eq!(opened.config[..4], [0x4f, 0x49, 0xc8, 0x0d]);
    assert_eq!((opened.bar_lens, opened.vectors), ([0, 0, 0x100, 0, 0, 0], 0));
    assert_eq!(opened.intx.map(|pin| pin.automasked), Some(false));
    let inputs = |client: &Client| client.read(BAR, 1, 1).unwrap().unwrap();
    assert_eq!(inputs(&client), 0xff, "no pin was driven yet");
    client.write(BAR, 0, 1, 0b0011).unwrap();
    client.post(&[client.posted(BAR, 0, 1, 0b0001).unwrap()]).unwrap();
    assert_eq!(inputs(&client), 0xfc, "twice and once");
    client.write(BAR, 0, 1, 0b0001).unwrap();
    assert_eq!(inputs(&client), 0xfd, "every third time");
    client.reset().unwrap();
    client.set_running(false).unwrap();
    client.set_running(true).unwrap();
    client.close();

    let (client, _) = Client::open(sample.connect(), soon()).unwrap();
    assert_eq!(inputs(&client), 0xfd, "it is the same device");
    client.close();
    let log = sample.log();
    assert_eq!(log.matches("device reset by client").count(), 3, "{log}");
    println!("SEEN: opened twice, accesses answered and posted, stopped and started, 3 resets");
}

#[test]
fn server_sample_does_its_dma_by_message_and_in_memory_and_interrupts() {
    const LEN: u64 = 0x10_0000;
    let Some(mut sample) = Sample::start("server") else { return };
    // It takes its first window by message and its second by address, whatever they are: both are to be RAM.
    let [first, second] = [0, 1].map(|at| RamRegion { gpa: Gpa(at * LEN), len: LEN, file_offset: at * LEN });
    let layout = RamLayout::new(vec![first, second]).unwrap();
    let client = sample.connect();
    let mut vm = Vm::open_with((), client, true, layout, 2 * LEN);
    assert_eq!(vm.failure(), None, "{}", sample.log());
    assert_eq!(vm.read(CONFIG_REGION, 0, 4), 0xbeef_dead);
    // BAR 0, of 8 bytes, behind BAR 1. As it is delivered both are I/O.
    let bars = [0x10, 0x14].map(|at| vm.read(CONFIG_REGION, at, 4));
    let region = match bars {
        [0xc001, 0x8001] => IO_REGION,
        [0x1100_4000, 0x1100_0000] => AREA32_REGION,
        _ => panic!("{bars:#x?}"),
    };
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    vm.write(region, 0, 4, 0x1234_5678);
    assert_eq!(vm.read(region, 0, 4), 0x1234_5678);
    // BAR 0 takes 8 bytes at a time.
    assert_eq!(vm.read(region, 0x4000, 4), 0xffff_ffff);
    vm.attach(Attachment::Bypass);
    assert_eq!(vm.failure(), None, "{}", sample.log());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    vm.write(region, 0x4000, 8, now + 2);
    assert!(vm.intx_within(LONG), "{}", sample.log());
    vm.end_intx();
    let pattern: Vec<u8> = [b'A', b'B', b'C', b'D'].into_iter().flat_map(|byte| [byte; 1024]).collect();
    let until = Instant::now() + LONG;
    while !sample.log().contains("MESSAGE success") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let log = sample.log();
    assert!(log.contains("DIRECT success") && log.contains("MESSAGE success"), "{log}");
    assert!(!log.contains("without the twin_socket"), "{log}");
    for at in [0, LEN] {
        let mut bytes = vec![0; pattern.len()];
        rustix::io::pread(&vm.ram, &mut bytes, at).unwrap();
        assert_eq!(bytes, pattern, "at {at:#x}");
    }
    // Leaving bypass takes the memory back.
    vm.attach(Attachment::Abort);
    assert_eq!(vm.failure(), None, "{}", sample.log());
    sample.child.kill().unwrap();
    sample.await_exit();
    vm.assert_failed("closed");
    let space = if region == IO_REGION { "I/O" } else { "memory" };
    println!("SEEN: 4 KiB by message and 4 KiB in memory read back, INTx, {space} BARs");
}

#[test]
fn server_sample_ends_when_its_client_does() {
    let Some(mut sample) = Sample::start("server") else { return };
    let (client, opened) = Client::open(sample.connect(), soon()).unwrap();
    assert_eq!(opened.bar_lens[0], 8);
    assert_eq!(client.read(1, 0, 4).unwrap(), Some(0));
    client.close();
    assert!(sample.await_exit().success(), "{}", sample.log());
    println!("SEEN: ends with success");
}
