// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock alone, without the seccomp filter that would refuse first: one thread of the test is confined.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use super::*;

/// Runs `body` in a thread that denies itself everything but `programs`.
fn confined(programs: &[BorrowedFd<'_>], body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            assert!(deny_all(6, programs).unwrap() >= 6);
            body();
        });
        thread.join().unwrap();
    });
}

fn refused<T>(result: std::io::Result<T>) {
    let kind = result.map(drop).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::PermissionDenied);
}

#[test]
fn paths_are_denied() {
    assert!(File::open("/").is_ok());
    let name = std::env::temp_dir().join(format!("landlock-{}", std::process::id()));
    confined(&[], || {
        refused(File::open("/"));
        refused(File::open("/proc/self/status"));
        refused(std::fs::read_dir("/"));
        refused(File::create(&name));
        refused(std::fs::create_dir(&name));
    });
    assert!(!name.exists());
}

#[test]
fn ports_are_denied() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(TcpStream::connect(address).is_ok());
    confined(&[], || {
        refused(TcpStream::connect(address));
        refused(TcpListener::bind("127.0.0.1:0"));
    });
}

#[test]
fn abstract_sockets_of_others_are_denied() {
    let address = SocketAddr::from_abstract_name(format!("bulkhead-{}", std::process::id())).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    confined(&[], || refused(UnixStream::connect_addr(&address)));
}

#[test]
fn signals_to_others_are_denied() {
    let mut other = Command::new("/proc/self/exe")
        .arg("--list")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    confined(&[], || refused(other.kill()));
    // The same call from outside of the confinement does its work, or finds the process ended already.
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn given_program_and_no_other_can_be_executed() {
    let program = File::open("/proc/self/exe").unwrap();
    let own = std::env::current_exe().unwrap();
    let run = |path: &std::path::Path| Command::new(path).arg("--list").output();
    confined(&[program.as_fd()], || {
        // Not to be listed, but to be executed.
        let mut command = Command::new(&own);
        command.arg("--list").stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        assert!(command.spawn().unwrap().wait().unwrap().success());
        refused(run("/bin/sh".as_ref()));
    });
    assert!(run(&own).unwrap().status.success());
}

#[test]
fn abi_that_cannot_be_had_is_refused() {
    assert!(matches!(deny_all(99, &[]), Err(LandlockError::TooOld { required: 99, .. })));
    assert!(matches!(deny_all(5, &[]), Err(LandlockError::UnknownAbi(5))));
    // Nothing was denied on the way.
    assert!(File::open("/").is_ok());
}
