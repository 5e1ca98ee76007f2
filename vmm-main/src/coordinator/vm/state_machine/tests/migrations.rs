// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a guest that moves to another host, and comes from one: the whole way, and what becomes of it when
//! something dies, refuses, is cut or cancelled at each step.

use std::time::Duration;

use ipc::protocol::control::DirtyLogOp;

use super::world::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, World, problem};
use crate::coordinator::vm::action::{MigrationAction, RequestKind, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, MigrationEvent, Ticket, Timer};
use crate::lifecycle::{Phase, Why};
use crate::migration::convergence::{Limits, Otherwise};
use crate::migration::message::Message;
use crate::system::MOVER;

pub fn migrate() -> Command {
    let limits = Limits {
        downtime: Duration::from_millis(100),
        rounds_max: 3,
        otherwise: Otherwise::SwitchOver,
        throttle: false,
    };
    Command::Migrate("there".to_owned(), limits)
}

/// A guest that runs, and is to leave.
pub fn leaving() -> (World, Ticket) {
    let mut world = World::new(false);
    world.settle();
    let ticket = world.command(migrate());
    (world, ticket)
}

fn mover(world: &World) -> LifeId {
    *world.processes.keys().find(|life| life.instance == MOVER).expect("there is a mover")
}

pub fn is_moved(world: &World) -> bool {
    *world.machine.phase() == Phase::Stopped { why: Why::Moved { to: "there".to_owned() } }
}

#[test]
fn guest_that_moves_ends_here_when_it_runs_there() {
    let (mut world, ticket) = leaving();
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
    assert!(is_moved(&world) && world.processes.is_empty());
    assert!(matches!(
        &world.migration.said[..],
        [Message::Offer(_), Message::Last { .. }, Message::Commit, Message::Known]
    ));
}

#[test]
fn logs_are_rearmed_before_every_harvest_of_a_guest_that_goes_on_writing() {
    let (mut world, ticket) = leaving();
    world.migration.owed_len = 1 << 30;
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
    let rearm = RequestKind::DirtyLog(DirtyLogOp::Rearm);
    let rearms = world.requests.iter().filter(|(life, request)| life.instance == VCPU && *request == rearm);
    // Three rounds, and the last.
    assert_eq!((world.harvests, rearms.count()), (4, 4));
}

#[test]
fn guest_that_comes_is_started_when_its_offer_fits_and_runs_on_commit() {
    let mut world = World::receiving();
    world.settle();
    assert_eq!(world.processes.keys().map(|life| life.instance).collect::<Vec<_>>(), [MOVER]);
    world.hear(Message::Offer(vec![]));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Running);
    assert_eq!(world.migration.said, [Message::Accept, Message::Ready, Message::Running]);
    assert!(world.machine.is_idle() && world.processes.keys().all(|life| life.instance != MOVER));
    // From then on it is a VM like any other: it moves on.
    world.migration.said.clear();
    let ticket = world.command(migrate());
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
}

/// Its user asks the next host about it as soon as the one before answers.
#[test]
fn guest_is_said_to_run_elsewhere_once_it_is_there_running_or_paused() {
    for (runs, phase) in [(true, Phase::Running), (false, Phase::Paused)] {
        let mut world = World::receiving();
        world.settle();
        world.hear(Message::Offer(vec![]));
        world.migration.actions.clear();
        world.happen(Event::Migration(MigrationEvent::Compared(Ok((vec![], runs)))));
        world.until_said(|message| *message == Message::Running);
        assert_eq!(world.machine.phase(), &phase);
    }
}

/// A guest that was paused, up to the commit.
fn coming_paused() -> World {
    let mut world = World::receiving();
    world.settle();
    world.hear(Message::Offer(vec![]));
    world.migration.actions.clear();
    world.happen(Event::Migration(MigrationEvent::Compared(Ok((vec![], false)))));
    world
}

#[test]
fn paused_guest_executes_nothing_where_it_arrives_before_it_is_resumed() {
    let mut world = coming_paused();
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Paused);
    assert!(world.machine.is_idle());
    let of_cpus = |world: &World, asked| {
        world.requests.iter().any(|(life, request)| life.instance == VCPU && *request == asked)
    };
    assert!(of_cpus(&world, RequestKind::Pause) && !of_cpus(&world, RequestKind::Go));
    // A VM like any other paused one: it moves on, or goes on.
    let ticket = world.command(Command::Resume);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
    assert!(world.processes.values().all(|process| process.may_run));
    let mut world = coming_paused();
    world.settle();
    world.migration.said.clear();
    let ticket = world.command(migrate());
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
}

#[test]
fn process_that_cannot_begin_paused_costs_what_it_costs_in_a_running_vm() {
    for (instance, ends) in [(VCPU, true), (VFIO1, false)] {
        let mut world = coming_paused();
        world.until(|world| {
            let asked = world.requests.last();
            asked
                .is_some_and(|(life, request)| life.instance == instance && *request == RequestKind::Pause)
                .then_some(())
        });
        let life = world.life(instance);
        world.refuse(life);
        world.settle();
        assert_eq!(matches!(world.machine.phase(), Phase::Stopped { .. }), ends, "{instance}");
        assert_eq!(world.machine.lost_devices().contains_key(&VFIO1), !ends, "{instance}");
    }
}

#[test]
fn guest_that_does_not_fit_is_refused_and_nothing_of_it_is_started() {
    let mut world = World::receiving();
    world.settle();
    world.hear(Message::Offer(vec![]));
    world.migration.actions.clear();
    let differs = vec!["memory: 1 at the source, 2 here".to_owned()];
    world.happen(Event::Migration(MigrationEvent::Compared(Ok((differs.clone(), true)))));
    assert_eq!(world.migration.said, [Message::Refuse(differs)]);
    world.settle();
    assert!(world.lives().all(|life| life.instance == MOVER));
    let Phase::Stopped { why: Why::Failed { problem, .. } } = world.machine.phase() else {
        panic!("{:?}", world.machine.phase())
    };
    assert!(problem.what.contains("memory: 1 at the source"), "{problem}");
}

#[test]
fn paused_guest_moves_without_a_log_and_without_a_round_while_it_runs() {
    let mut world = World::new(false);
    world.settle();
    world.command(Command::Pause);
    world.settle();
    let ticket = world.command(migrate());
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Migrated));
    assert_eq!((world.logs, world.harvests), (0, 0));
    assert!(!world.requests.iter().any(|(_, request)| matches!(request, RequestKind::DirtyLog(_))));
}

#[test]
fn device_that_dies_while_its_disk_may_be_another_hosts_comes_back_only_when_it_is_not() {
    for instance in [NVME0, VFIO0] {
        for here in [true, false] {
            let mut world = World::with_restarts();
            world.settle();
            world.command(migrate());
            world.until_said(|message| *message == Message::Commit);
            world.lose_link();
            world.depart(world.life(instance), true);
            world.settle();
            let ticket = world.command(Command::Resume);
            assert!(world.answers[&ticket].as_ref().unwrap_err().what.contains("not known"));
            let ticket = world.resolve_migration(here, true);
            world.settle();
            assert!(world.answers[&ticket].is_ok());
            let expected = if here { 5 } else { 0 };
            assert_eq!((world.processes.len(), is_moved(&world)), (expected, !here));
        }
        // Before the other host is told to let the guest run it has the disks already.
        let mut world = World::with_restarts();
        world.settle();
        let ticket = world.command(migrate());
        world.migration.is_deaf = true;
        world.until_said(|message| matches!(message, Message::Offer(_)));
        world.hear(Message::Accept);
        world.until_said(|message| matches!(message, Message::Last { .. }));
        world.depart(world.life(instance), true);
        world.settle();
        assert!(world.answers[&ticket].is_err());
        assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 5));
    }
}

/// One step after the other, until the guest is committed: whatever `breaks` does then leaves a guest that runs on
/// here, and a second attempt succeeds.
fn at_every_step(breaks: impl Fn(&mut World) -> bool) {
    for steps in 0.. {
        let (mut world, ticket) = leaving();
        for _ in 0..steps {
            world.turn();
        }
        if world.migration.is_elsewhere {
            assert!(steps > 30, "there are more steps than {steps}");
            return;
        }
        if !breaks(&mut world) {
            continue;
        }
        world.settle();
        assert!(world.answers[&ticket].is_err(), "{steps} steps");
        assert_eq!(world.machine.phase(), &Phase::Running, "{steps} steps");
        assert!(world.machine.is_idle() && !world.migration.disks_are_released);
        world.migration = Default::default();
        let again = world.command(migrate());
        world.settle();
        assert_eq!(world.answers[&again], Ok(Success::Migrated), "{steps} steps");
    }
}

#[test]
fn guest_stays_if_it_is_cancelled_at_any_step() {
    at_every_step(|world| {
        let ticket = world.cancel_migration();
        assert_eq!(world.answers[&ticket], Ok(Success::In(world.machine.phase().clone())));
        true
    });
}

#[test]
fn guest_stays_if_the_mover_dies_at_any_step() {
    at_every_step(|world| {
        let found = world.processes.keys().find(|life| life.instance == MOVER).copied();
        found.into_iter().for_each(|life| world.depart(life, true));
        found.is_some()
    });
}

#[test]
fn guest_stays_if_the_link_is_cut_at_any_step() {
    at_every_step(|world| {
        let has_mover = world.processes.keys().any(|life| life.instance == MOVER);
        if has_mover {
            world.happen(Event::Migration(MigrationEvent::LinkLost("cut".to_owned())));
        }
        has_mover
    });
}

#[test]
fn guest_stays_if_the_other_host_fails_or_refuses_at_any_step() {
    at_every_step(|world| {
        let spoke = !world.migration.said.is_empty();
        if spoke {
            world.hear(Message::Failed("no".to_owned()));
        }
        spoke
    });
}

#[test]
fn guest_stays_if_a_process_refuses_its_part() {
    let requests = [RequestKind::CheckSave, RequestKind::Pause, RequestKind::Save];
    for request in requests {
        let (mut world, ticket) = leaving();
        let life = world.until_open(request);
        world.refuse(life);
        world.settle();
        let why = world.answers[&ticket].as_ref().unwrap_err();
        assert!(why.what.contains("refused"), "{why}");
        assert_eq!(world.machine.phase(), &Phase::Running, "{request:?}");
    }
}

#[test]
fn guest_without_a_device_stays_if_the_device_is_lost_on_the_way() {
    let (mut world, ticket) = leaving();
    world.until_open(RequestKind::Save);
    let life = world.life(VFIO1);
    world.depart(life, true);
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_eq!(world.machine.phase(), &Phase::Running);
    assert!(world.machine.lost_devices().contains_key(&VFIO1));
}

#[test]
fn guest_whose_disks_another_host_keeps_stays_paused_with_the_reason() {
    let (mut world, ticket) = leaving();
    world.until_said(|message| matches!(message, Message::Last { .. }));
    world.migration.actions.clear();
    world.hear(Message::Failed("no".to_owned()));
    assert!(matches!(
        world.migration.actions.front(),
        Some(MigrationAction::LockDisks | MigrationAction::Say(_))
    ));
    world.migration.actions.clear();
    world.happen(Event::Migration(MigrationEvent::DisksLocked(Err(problem("it is in use")))));
    world.settle();
    let why = world.answers[&ticket].as_ref().unwrap_err();
    assert!(why.what.contains("it is in use") && why.advice.contains("paused"), "{why}");
    assert_eq!(world.machine.phase(), &Phase::Paused);
}

#[test]
fn guest_whose_disks_another_host_keeps_goes_on_when_they_can_be_had() {
    let (mut world, _) = leaving();
    world.until_said(|message| matches!(message, Message::Last { .. }));
    world.migration.keeps_disks = true;
    world.hear(Message::Failed("no".to_owned()));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Paused);
    let ticket = world.command(Command::Resume);
    world.settle();
    let why = world.answers[&ticket].as_ref().unwrap_err();
    assert!(why.what.contains("it is in use"), "{why}");
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Paused, true));
    world.migration.keeps_disks = false;
    let ticket = world.command(Command::Resume);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
}

#[test]
fn mover_that_dies_behind_the_commit_leaves_the_guest_paused() {
    let (mut world, ticket) = leaving();
    world.until_said(|message| *message == Message::Commit);
    world.migration.is_deaf = true;
    let life = mover(&world);
    world.depart(life, true);
    world.settle();
    assert!(world.answers[&ticket].as_ref().unwrap_err().advice.contains("--resolve"));
    assert_eq!(world.machine.phase(), &Phase::Paused);
}

#[test]
fn cancelling_behind_the_commit_is_refused() {
    let (mut world, _) = leaving();
    world.until_said(|message| *message == Message::Commit);
    let cancelled = world.cancel_migration();
    assert!(world.answers[&cancelled].is_err());
    world.settle();
    assert!(is_moved(&world));
}

#[test]
fn other_host_that_never_answers_is_given_up_in_time() {
    let (mut world, ticket) = leaving();
    world.migration.is_deaf = true;
    world.until_said(|message| matches!(message, Message::Offer(_)));
    world.settle();
    let waits: Vec<Timer> =
        world.timers.keys().copied().filter(|timer| matches!(timer, Timer::Migration(..))).collect();
    waits.into_iter().for_each(|timer| world.run_out(timer));
    world.settle();
    assert!(world.answers[&ticket].as_ref().unwrap_err().what.contains("in time"));
    assert_eq!(world.machine.phase(), &Phase::Running);
}

#[test]
fn guest_that_switches_itself_off_on_the_way_is_off() {
    use crate::coordinator::vm::event::ProcessEvent;
    use ipc::protocol::control::Event as Report;
    let (mut world, ticket) = leaving();
    world.until_said(|message| matches!(message, Message::Offer(_)));
    let life = world.life(VCPU);
    world.process(life, ProcessEvent::Reported(Report::GuestPoweredOff));
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_eq!(world.machine.phase(), &Phase::Stopped { why: Why::GuestPoweredOff });
}

#[test]
fn guest_that_comes_is_ended_whatever_breaks_before_the_commit() {
    for steps in 0.. {
        for breaks in [0, 1, 2] {
            let mut world = World::receiving();
            world.settle();
            world.hear(Message::Offer(vec![]));
            for _ in 0..steps {
                world.turn();
            }
            if !world.migration.is_elsewhere {
                assert!(steps > 20, "there are more steps than {steps}");
                return;
            }
            match breaks {
                0 => world.lose_link(),
                1 => world.depart(mover(&world), true),
                _ => {
                    world.hear(Message::Abort("no".to_owned()));
                    world.migration.is_deaf = true;
                }
            }
            world.migration.is_deaf = true;
            world.settle();
            assert!(
                matches!(world.machine.phase(), Phase::Stopped { why: Why::Failed { .. } }),
                "{steps} steps"
            );
            assert!(world.processes.is_empty());
        }
    }
}

#[test]
fn guest_that_comes_without_one_of_its_processes_does_not_come() {
    for victim in [VCPU, VFIO1, SMMU0] {
        let mut world = World::receiving();
        world.settle();
        world.hear(Message::Offer(vec![]));
        world.until_open(RequestKind::Arm);
        let life = world.life(victim);
        world.depart(life, true);
        world.settle();
        assert!(world.migration.said.iter().any(|message| matches!(message, Message::Failed(_))));
        assert!(matches!(world.machine.phase(), Phase::Stopped { why: Why::Failed { .. } }), "{victim}");
    }
}
