// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a guest between the order to let it run elsewhere and the word that it does.

use super::migrations::{is_moved, leaving, migrate};
use super::world::{NVME0, SMMU0, VCPU, World};
use crate::coordinator::vm::action::Success;
use crate::coordinator::vm::event::{Ticket, Timer};
use crate::lifecycle::{Phase, Why};
use crate::migration::message::Message;
use crate::system::MOVER;

/// A guest that the other host was told to let run, which has not answered; the process of its CPUs has died here.
fn without_cpus() -> (World, Ticket) {
    let (mut world, ticket) = leaving();
    world.migration.is_deaf = true;
    for (said, answer) in [(0, Message::Accept), (1, Message::Ready)] {
        world.until(|world| (world.migration.said.len() > said).then_some(()));
        world.hear(answer);
    }
    world.until_said(|message| *message == Message::Commit);
    world.depart(world.life(VCPU), true);
    world.settle();
    assert!(world.processes.keys().any(|life| life.instance == MOVER), "the order goes with the mover");
    (world, ticket)
}

fn failed(world: &World) -> String {
    match world.machine.phase() {
        Phase::Stopped { why: Why::Failed { problem, .. } } => format!("{problem}"),
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn guest_that_is_handed_over_runs_there_though_its_processes_die_here() {
    let (mut world, ticket) = without_cpus();
    world.hear(Message::Running);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
    assert!(is_moved(&world) && world.processes.is_empty());
}

#[test]
fn vm_that_fails_behind_the_commit_ends_when_the_other_host_does_not_take_the_guest_or_says_nothing() {
    let (mut world, ticket) = without_cpus();
    world.hear(Message::Failed("no".to_owned()));
    world.settle();
    assert!(world.answers[&ticket].is_err() && !failed(&world).contains("look there"));
    let (mut world, ticket) = without_cpus();
    world.lose_link();
    world.settle();
    assert!(world.answers[&ticket].is_err() && failed(&world).contains("look there"), "{}", failed(&world));
}

#[test]
fn process_that_only_a_person_starts_holds_no_guest_that_is_handed_over() {
    let dies = || {
        let mut world = World::that_asks();
        world.settle();
        let ticket = world.command(migrate());
        world.until_said(|message| matches!(message, Message::Last { .. }));
        world.migration.is_deaf = true;
        world.hear(Message::Ready);
        world.depart(world.life(NVME0), true);
        world.settle();
        assert!(!world.answers.contains_key(&ticket), "nobody knows yet: {:?}", world.answers[&ticket]);
        (world, ticket)
    };
    let (mut world, ticket) = dies();
    world.hear(Message::Running);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
    // It stays, and is held then.
    let (mut world, ticket) = dies();
    world.hear(Message::Failed("no".to_owned()));
    world.settle();
    let why = world.answers[&ticket].as_ref().unwrap_err();
    assert!(why.what.starts_with("the guest is held: it died"), "{why}");
    assert_eq!(world.machine.phase(), &Phase::Held);
}

/// A guest that has come, and whose source has not answered.
fn arrived() -> World {
    let mut world = World::receiving();
    world.settle();
    world.hear(Message::Offer(vec![]));
    world.until_said(|message| *message == Message::Ready);
    world.migration.is_deaf = true;
    world.hear(Message::Commit);
    world.until_said(|message| *message == Message::Running);
    world
}

#[test]
fn destination_can_be_asked_until_the_source_has_said_that_it_knows() {
    let mut world = arrived();
    assert!(!world.machine.answers_commands(), "it is refused for the moment that this takes");
    world.hear(Message::Known);
    world.settle();
    assert!(world.machine.is_idle() && world.migration.is_settled);
    // The guest's SMMU dies meanwhile, and is followed.
    let mut world = arrived();
    world.depart(world.life(SMMU0), true);
    world.settle();
    assert!(world.processes.keys().any(|life| life.instance == MOVER), "what was said goes with the mover");
    world.hear(Message::Known);
    world.settle();
    assert!(world.machine.is_idle() && world.migration.is_settled);
    // Nobody knows whether it has heard, or it says nothing.
    let mut world = arrived();
    world.lose_link();
    world.settle();
    assert!(world.machine.is_idle() && !world.migration.is_settled);
    let mut world = arrived();
    world.settle();
    let timer = world.timers.keys().copied().filter(|timer| matches!(timer, Timer::Migration(..))).max();
    world.run_out(timer.unwrap());
    world.settle();
    assert!(world.machine.is_idle() && !world.migration.is_settled);
}
