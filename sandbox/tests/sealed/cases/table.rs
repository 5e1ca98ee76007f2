// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor table of a new process is exactly the one asked for, however sources and targets overlap.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use sandbox::{Inherited, Spawn};

use crate::harness::Case;
use crate::process::{Role, TABLE_NAME, own_program};

pub const CASES: &[Case] = &[("table_is_exact_whatever_overlaps", exact)];

/// Six pipes at six numbers in this process, and the numbers below them, in every rotation and some repetition.
fn exact() {
    let program = own_program();
    let (reader, writer) = std::io::pipe().unwrap();
    let pipes: Vec<OwnedFd> = (0..6).map(|_| std::io::pipe().unwrap().0.into()).collect();
    // Not close-on-exec in this process: it must not show in the other all the same.
    let stray = rustix::io::dup(&pipes[0]).unwrap();
    let (low, input, output) = (std::io::stderr(), std::io::stdin(), std::io::stdout());
    let mut sources: Vec<BorrowedFd<'_>> = vec![low.as_fd(), input.as_fd(), output.as_fd(), writer.as_fd()];
    sources.extend(pipes.iter().map(AsFd::as_fd));
    drop(reader);
    for rotation in 0..sources.len() {
        sources.rotate_left(1);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut fds: Vec<(i32, BorrowedFd<'_>)> =
            (0..).zip(sources.iter().copied()).map(|(target, source)| (target + 1, source)).collect();
        fds.push((0, writer.as_fd()));
        fds.push((11, sources[0]));
        fds.reverse();
        let profile = Role::Coordinator.profile();
        let spawn = Spawn {
            program: program.as_fd(),
            argv: &[TABLE_NAME],
            fds: &fds,
            profile: &profile,
            own_id: None,
            cgroup: None,
        };
        let child = spawn.spawn().unwrap_or_else(|error| panic!("{error}"));
        let expected = fds.iter().map(|(target, source)| (*target, identity(*source)));
        let mut expected: Vec<(i32, String)> = expected.collect();
        expected.sort();
        drop(writer);
        let mut answer = String::new();
        reader.read_to_string(&mut answer).unwrap();
        assert_eq!(child.wait().unwrap(), sandbox::spawn::Exit::Code(0));
        let found: Vec<(i32, String)> = (0..).zip(answer.lines().map(str::to_owned)).collect();
        assert_eq!(found, expected, "rotation {rotation}");
    }
    assert!(stray.as_raw_fd() > 2);
}

fn identity(fd: BorrowedFd<'_>) -> String {
    let stat = rustix::fs::fstat(fd).unwrap();
    format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The process's side: says what each descriptor is, as far as there is one.
pub fn tell() {
    // One more would be found as well: the log is the only one that is not owned.
    assert!(Inherited::take_all(13).is_err());
    let mut fds = Inherited::take_all(12).unwrap();
    let log = std::io::stderr();
    let fds: Vec<Option<OwnedFd>> = (0..12).map(|number| fds.take(number).ok()).collect();
    let text: String =
        fds.iter().map(|fd| identity(fd.as_ref().map_or(log.as_fd(), AsFd::as_fd)) + "\n").collect();
    // Nothing else is open: a new descriptor gets the next number.
    assert_eq!(rustix::io::dup(log.as_fd()).unwrap().as_raw_fd(), 12);
    rustix::io::write(fds[0].as_ref().unwrap(), text.as_bytes()).unwrap();
}
