// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A terminal of the test's own: raw and back, on ways that are planned and ways that are not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::LocalModes;

use super::*;

/// The user's end of a new terminal, and the program's.
pub fn pty() -> (File, File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let path = ptsname(&user, Vec::new()).unwrap();
    let program =
        rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (user.into(), program.into())
}

fn modes(file: &File) -> Modes {
    Modes::of(&tcgetattr(file).unwrap())
}

#[test]
fn terminal_left_and_entered_again_gets_back_what_it_was_first() {
    let (_user, program) = pty();
    let before = modes(&program);
    let terminal = Terminal::new(program.try_clone().unwrap());
    // It is not this process's terminal: there are no other jobs on it.
    assert_eq!(terminal.place(), Place::Foreground);
    terminal.enter().unwrap();
    let raw = modes(&program);
    assert!(!tcgetattr(&program).unwrap().local_modes.contains(LocalModes::ICANON));
    // Twice is once.
    terminal.enter().unwrap();
    terminal.leave();
    assert_eq!(modes(&program), before);
    terminal.enter_in_foreground();
    assert_eq!(modes(&program), raw);
    // Somebody who stopped the launcher without its knowledge has made it as they want it.
    let mut changed = tcgetattr(&program).unwrap();
    changed.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(&program, OptionalActions::Now, &changed).unwrap();
    let theirs = modes(&program);
    terminal.enter_in_foreground();
    terminal.close();
    assert_eq!(modes(&program), theirs);
    // Given back for good: nothing makes it raw again.
    terminal.enter().unwrap();
    assert_eq!(modes(&program), theirs);
    assert_eq!(terminal.await_foreground(Duration::ZERO), Place::Gone);
}

#[test]
fn terminal_is_given_back_by_a_panic() {
    let (_user, program) = pty();
    let before = modes(&program);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let terminal = GivenBack(Terminal::new(program.try_clone().unwrap()));
        terminal.0.enter().unwrap();
        assert_eq!(modes(&program), before, "it is raw now");
    }));
    assert!(panicked.is_err());
    assert_eq!(modes(&program), before);
}

#[test]
fn terminal_that_has_hung_up_is_gone() {
    let (user, program) = pty();
    let terminal = Terminal::new(program);
    terminal.enter().unwrap();
    drop(user);
    assert_eq!(terminal.await_foreground(Duration::ZERO), Place::Gone);
    assert!(terminal.enter().is_err());
    terminal.close();
}
