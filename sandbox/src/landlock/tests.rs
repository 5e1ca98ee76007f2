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
use crate::profile::Rule;
use crate::profiles;

/// Runs `body` in a thread that denies itself everything but `programs`.
fn confined(programs: &[BorrowedFd<'_>], body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let in_force = deny_all(&profiles::smmu(), programs).unwrap();
            assert_eq!(in_force.enforced, in_force.kernel.min(ABI_MAX));
            body();
        });
        thread.join().unwrap();
    });
}

/// Whether this kernel's Landlock cannot deny what came with `abi`.
fn not_offered(abi: u32) -> bool {
    let kernel = crate::sys::landlock_abi().unwrap();
    if kernel < abi {
        println!("SKIPPED: the kernel's Landlock ABI is {kernel}, and {abi} is needed");
    }
    kernel < abi
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
    if not_offered(4) {
        return;
    }
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
    if not_offered(6) {
        return;
    }
    let address = SocketAddr::from_abstract_name(format!("bulkhead-{}", std::process::id())).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    confined(&[], || refused(UnixStream::connect_addr(&address)));
}

#[test]
fn signals_to_others_are_denied() {
    if not_offered(6) {
        return;
    }
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
    let profile = Profile { landlock_abi_min: 99, ..profiles::smmu() };
    assert!(matches!(deny_all(&profile, &[]), Err(LandlockError::TooOld { required: 99, .. })));
    // Nothing was denied on the way.
    assert!(File::open("/").is_ok());
}

#[test]
fn all_of_the_kernels_abi_is_enforced_up_to_the_newest_known() {
    let min = profiles::smmu().landlock_abi_min;
    for kernel in min..=ABI_MAX {
        assert_eq!(to_enforce(kernel, min).unwrap().0, kernel);
    }
    assert_eq!(to_enforce(ABI_MAX + 2, min).unwrap(), (ABI_MAX, ABI::V7));
    for (kernel, abi) in [(2, ABI::V2), (3, ABI::V3), (4, ABI::V4), (5, ABI::V5), (6, ABI::V6), (7, ABI::V7)]
    {
        assert_eq!(to_enforce(kernel, min).unwrap().1, abi);
    }
    for kernel in 0..min {
        assert!(matches!(to_enforce(kernel, min), Err(LandlockError::TooOld { .. })));
    }
    assert!(matches!(to_enforce(1, 0), Err(LandlockError::UnknownAbi(1))));
}

#[test]
fn gap_that_a_profile_leaves_open_is_found() {
    let with = |rule: Rule| {
        let mut profile = profiles::smmu();
        profile.rules.push(rule);
        gaps(2).filter_map(|gap| gap.open_call(&profile)).collect::<Vec<_>>()
    };
    assert_eq!(with(Rule::any("brk")), [""; 0]);
    assert_eq!(with(Rule::any("kill")), ["kill"]);
    assert_eq!(with(Rule::any("socket")), ["socket", "socket"]);
    assert_eq!(with(Rule::any("ioctl")), ["ioctl"]);
    assert_eq!(with(Rule::one_of("ioctl", 1, &[0x5421], "")), [""; 0]);
    // What Landlock itself denies needs no other wall.
    assert_eq!(gaps(2).map(|gap| gap.abi).collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert_eq!(gaps(5).map(|gap| gap.abi).collect::<Vec<_>>(), [6]);
    assert_eq!(gaps(6).count(), 0);
}
