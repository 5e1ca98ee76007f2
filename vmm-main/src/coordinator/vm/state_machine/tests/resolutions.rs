// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a guest of which it is not known where it runs: a person says it, and the other host is asked.

use super::migrations::{is_moved, leaving, migrate};
use super::world::World;
use crate::coordinator::vm::action::Success;
use crate::coordinator::vm::event::Command;
use crate::lifecycle::Phase;
use crate::migration::message::Message;
use crate::migration::source::Whereabouts;

/// A guest that the other host was told to let run, and that does not answer.
fn ambiguous() -> World {
    let (mut world, ticket) = leaving();
    world.until_said(|message| *message == Message::Commit);
    world.lose_link();
    world.settle();
    let why = world.answers[&ticket].as_ref().unwrap_err();
    assert!(why.advice.contains("--resolve"), "{why}");
    assert_eq!(world.machine.phase(), &Phase::Paused);
    world
}

#[test]
fn guest_that_may_run_there_stays_paused_until_somebody_says_where_it_is() {
    let mut world = ambiguous();
    for command in [Command::Resume, Command::SaveRestore, migrate()] {
        let ticket = world.command(command);
        assert!(world.answers[&ticket].as_ref().unwrap_err().what.contains("not known"));
    }
    // Nobody answers: that somebody has looked is to be said.
    for here in [true, false] {
        let ticket = world.resolve_migration(here, false);
        world.settle();
        assert!(world.answers[&ticket].as_ref().unwrap_err().advice.contains("--force"));
        assert!(world.machine.is_ambiguous());
    }
    let ticket = world.resolve_migration(true, true);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
    assert_eq!(world.machine.phase(), &Phase::Running);
}

#[test]
fn guest_that_is_said_to_run_there_ends_here() {
    let mut world = ambiguous();
    world.migration.place = Some(Whereabouts::There);
    let ticket = world.resolve_migration(false, false);
    world.settle();
    assert!(is_moved(&world));
    assert!(world.answers[&ticket].is_ok());
}

#[test]
fn guest_that_the_other_host_has_does_not_go_on_here_unless_it_is_forced() {
    let mut world = ambiguous();
    world.migration.place = Some(Whereabouts::There);
    for _ in 0..2 {
        let ticket = world.resolve_migration(true, false);
        world.settle();
        let why = world.answers[&ticket].as_ref().unwrap_err();
        assert!(why.what.contains("said so") && why.advice.contains("--resolve discard"), "{why}");
        assert_eq!(world.machine.phase(), &Phase::Paused);
        assert!(world.machine.is_ambiguous());
    }
    let ticket = world.resolve_migration(true, true);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
}

#[test]
fn guest_that_the_other_host_does_not_know_goes_on_or_ends_only_if_it_is_forced() {
    let mut world = ambiguous();
    world.migration.place = Some(Whereabouts::Unknown);
    for here in [true, false] {
        let ticket = world.resolve_migration(here, false);
        world.settle();
        let why = world.answers[&ticket].as_ref().unwrap_err();
        assert!(why.advice.contains("look at the other host"), "{why}");
        assert!(world.machine.is_ambiguous() && !is_moved(&world));
    }
    let ticket = world.resolve_migration(false, true);
    world.settle();
    assert!(is_moved(&world) && world.answers[&ticket].is_ok());
}
