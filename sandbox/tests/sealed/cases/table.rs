// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor table of a new process is exactly the one asked for, however sources and targets overlap.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use sandbox::{Inherited, InheritedError, Spawn};

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
        let all = [writer.as_fd()].into_iter().chain(sources.iter().copied()).chain([sources[0]]);
        let name = |number: usize| if number == 2 { "log".to_owned() } else { format!("number:{number}") };
        let fds: Vec<(String, BorrowedFd<'_>)> = (0..).map(name).zip(all).collect();
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
        let expected: Vec<String> =
            fds.iter().map(|(name, source)| format!("{name} {}", identity(*source))).collect();
        drop(writer);
        let mut answer = String::new();
        reader.read_to_string(&mut answer).unwrap();
        assert_eq!(child.wait().unwrap(), sandbox::spawn::Exit::Code(0));
        let found: Vec<&str> = answer.lines().collect();
        assert_eq!(found, expected, "rotation {rotation}");
    }
    assert!(stray.as_raw_fd() > 2);
}

fn identity(fd: BorrowedFd<'_>) -> String {
    let stat = rustix::fs::fstat(fd).unwrap();
    format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The process's side: says what each descriptor is, by its name.
pub fn tell() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    // One more would be found as well: the log is the only one that is not owned.
    let one_more = names.iter().cloned().chain(["one-more".to_owned()]);
    let error = Inherited::take_all(one_more).unwrap_err();
    assert_eq!(error, InheritedError::NotOpen { name: "one-more".to_owned(), number: 12 });
    let mut fds = Inherited::take_all(names.iter().cloned()).unwrap();
    let log = std::io::stderr();
    let fds: Vec<Option<OwnedFd>> = names.iter().map(|name| fds.take(name).ok()).collect();
    let identities = fds.iter().map(|fd| identity(fd.as_ref().map_or(log.as_fd(), AsFd::as_fd)));
    let text: String = names.iter().zip(identities).map(|(name, what)| format!("{name} {what}\n")).collect();
    // Nothing else is open: a new descriptor gets the next number.
    assert_eq!(rustix::io::dup(log.as_fd()).unwrap().as_raw_fd(), 12);
    rustix::io::write(fds[0].as_ref().unwrap(), text.as_bytes()).unwrap();
}
