// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a process that is started anew by order only: the guest is held, users are told why, and an order brings
//! it back.

use std::time::Duration;

use ipc::protocol::control::{DirtyLogOp, Event as Report};
use ipc::protocol::lifecycle::State;
use proptest::prelude::*;

use super::deaths::{any_command, assert_whole, turn_of};
use super::migrations::migrate;
use super::stories::asked;
use super::world::{DEATHS_MAX, NVME0, SMMU0, VCPU, VFIO0, VFIO1, World, problem};
use crate::coordinator::vm::action::{LoadSource, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Ticket, Timer};
use crate::lifecycle::{Phase, Why};
use crate::system::MOVER;

/// The guest runs, on processes that come back.
fn running() -> World {
    let mut world = World::with_restarts();
    world.settle();
    world.requests.clear();
    world
}

/// What makes an order fail, by this next life of the process.
type Fail = fn(&mut World, LifeId);

/// It has died once more than it is started anew.
fn held(process: ipc::instance::InstanceId) -> World {
    let mut world = running();
    for _ in 0..=DEATHS_MAX {
        world.depart(world.life(process), true);
        world.settle();
    }
    assert_eq!(world.machine.phase(), &Phase::Held);
    world.requests.clear();
    world
}

fn order(world: &mut World, name: &str) -> Ticket {
    world.command(Command::Restart(name.to_owned()))
}

fn why_not(world: &World, ticket: Ticket) -> String {
    world.answers[&ticket].as_ref().unwrap_err().what.clone()
}

#[test]
fn process_that_keeps_dying_has_the_guest_held_and_an_order_brings_it_back_with_a_new_count() {
    for (process, group) in [(SMMU0, 1), (NVME0, 2), (VFIO0, 2)] {
        let mut world = held(process);
        assert_eq!(world.processes.len(), 5 - group, "no next life is started");
        assert!(world.processes[&world.life(VCPU)].is_held);
        let why = world.machine.standstill().unwrap();
        assert_eq!(why.sentence(), "it died; it has died 4 times within 60 s");
        assert_eq!((why.process, world.machine.missing().count()), (process, group));
        let told = Notice::Held(why.clone());
        assert_eq!(world.notices.iter().filter(|notice| **notice == told).count(), 1);
        // As often as before without an order, from then on.
        for _ in 0..2 {
            let ticket = order(&mut world, &process.to_string());
            world.settle();
            assert_eq!(world.answers[&ticket], Ok(Success::Revived(world.life(process))));
            assert_whole(&world, &Phase::Running);
            for _ in 0..DEATHS_MAX {
                world.depart(world.life(process), true);
                world.settle();
                assert_whole(&world, &Phase::Running);
            }
            world.depart(world.life(process), true);
            world.settle();
            assert_eq!(world.machine.phase(), &Phase::Held);
        }
        assert_eq!(world.machine.deaths()[&process].count, 3 * (DEATHS_MAX + 1));
    }
}

#[test]
fn cpus_are_held_before_an_order_is_waited_for_and_go_on_behind_the_last_new_channel() {
    let mut world = running();
    for _ in 0..DEATHS_MAX {
        world.depart(world.life(NVME0), true);
        world.settle();
    }
    world.requests.clear();
    world.depart(world.life(NVME0), true);
    world.depart(world.life(VFIO0), true);
    assert_eq!(world.processes[&world.life(VCPU)].open, Some(RequestKind::HoldCpus(true)));
    let ticket = order(&mut world, "vfio0");
    assert!(!world.answers.contains_key(&ticket), "it waits for that");
    world.settle();
    assert_whole(&world, &Phase::Running);
    let of_cpus: Vec<_> =
        world.requests.iter().filter(|(life, _)| life.instance == VCPU).map(|it| it.1).collect();
    let rewire = RequestKind::Rewire(world.life(VFIO0));
    assert_eq!(of_cpus, [RequestKind::HoldCpus(true), rewire, RequestKind::HoldCpus(false)]);
}

#[test]
fn process_that_asks_has_the_guest_held_at_its_first_death() {
    let mut world = World::that_asks();
    world.settle();
    for (process, name) in [(SMMU0, "smmu0"), (NVME0, "nvme0"), (NVME0, "vfio0")] {
        world.depart(world.life(process), true);
        world.settle();
        assert_eq!(world.machine.phase(), &Phase::Held);
        let why = world.machine.standstill().unwrap().sentence();
        assert_eq!(why, "it died; it is started anew by order only (`restart = \"ask\"`)");
        let ticket = order(&mut world, name);
        world.settle();
        assert!(world.answers[&ticket].is_ok(), "{:?}", world.answers[&ticket]);
        assert_whole(&world, &Phase::Running);
    }
}

#[test]
fn held_guest_takes_no_command_but_the_order_and_says_why_and_what_to_do() {
    let mut world = held(NVME0);
    let refused = [
        Command::Pause,
        Command::Resume,
        Command::SaveRestore,
        Command::DirtyRate(Duration::from_secs(1)),
        migrate(),
        Command::Restart("smmu0".to_owned()),
        Command::Restart("nobody".to_owned()),
    ];
    for command in refused {
        let ticket = world.command(command.clone());
        let problem = world.answers[&ticket].as_ref().unwrap_err();
        assert_eq!(
            problem.what, "the guest is held: it died; it has died 4 times within 60 s",
            "{command:?}"
        );
        assert!(problem.advice.starts_with("`bulkhead restart nvme0 NAME` starts it from its checkpoint"));
    }
    assert!(world.machine.check_restart("smmu0").is_err() && world.machine.check_restart("nvme0").is_ok());
    let first = order(&mut world, "vfio0");
    assert!(world.machine.check_restart("nvme0").is_err());
    let second = order(&mut world, "nvme0");
    assert_eq!(why_not(&world, second), "vfio0 is being started anew by another command");
    world.settle();
    assert_eq!(world.answers[&first], Ok(Success::Revived(world.life(VFIO0))));
    assert_whole(&world, &Phase::Running);
}

#[test]
fn held_vm_stops_whether_its_process_is_being_started_or_not() {
    for orders in [false, true] {
        let mut world = held(SMMU0);
        let ticket = orders.then(|| order(&mut world, "smmu0"));
        world.happen(Event::Stop(Why::Asked));
        assert_eq!(world.machine.phase(), &Phase::Stopping);
        assert!(ticket.is_none_or(|ticket| world.answers[&ticket].is_err()));
        world.settle();
        assert_eq!(world.machine.phase(), &Phase::Stopped { why: Why::Asked });
    }
    let mut world = held(SMMU0);
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestPoweredOff));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Stopped { why: Why::GuestPoweredOff });
}

#[test]
fn what_was_under_way_is_answered_at_once_and_taken_back_when_the_guest_goes_on() {
    let commands = [
        (Command::Pause, RequestKind::Pause),
        (Command::SaveRestore, RequestKind::Save),
        (Command::Restart("smmu0".to_owned()), RequestKind::Save),
        // What goes on over the death of a process that comes back.
        (migrate(), RequestKind::Pause),
        (Command::DirtyRate(Duration::from_secs(1)), RequestKind::DirtyLog(DirtyLogOp::Enable { epoch: 1 })),
    ];
    for (command, open) in commands {
        let mut world = World::that_asks();
        world.settle();
        let ticket = world.command(command.clone());
        world.until_open(open);
        world.depart(world.life(NVME0), true);
        assert!(why_not(&world, ticket).starts_with("the guest is held: it died"), "{command:?}");
        assert_eq!(world.machine.phase(), &Phase::Held);
        world.settle();
        let guests = world.processes.keys().filter(|life| life.instance != MOVER);
        assert_eq!(guests.count(), 3, "the set of the move is ended: {command:?}");
        order(&mut world, "nvme0");
        world.settle();
        assert_whole(&world, &Phase::Running);
    }
    // A guest that was paused is paused again, whatever it was asked for.
    let mut world = World::that_asks();
    world.settle();
    world.command(Command::Pause);
    world.settle();
    let ticket = world.command(Command::Resume);
    world.until_open(RequestKind::Resume);
    world.depart(world.life(NVME0), true);
    assert!(world.answers[&ticket].is_err());
    world.settle();
    order(&mut world, "nvme0");
    world.settle();
    assert_whole(&world, &Phase::Paused);
}

#[test]
fn cpus_that_cannot_pause_for_the_missing_process_are_held_when_they_have_said_so() {
    let mut world = World::that_asks();
    world.settle();
    world.command(Command::Pause);
    world.depart(world.life(NVME0), true);
    for _ in 0..20 {
        let others = world.processes.keys().copied().filter(|life| life.instance != VCPU).collect::<Vec<_>>();
        others.into_iter().for_each(|life| match world.processes[&life].ending.is_some() {
            true => world.depart(life, true),
            false => world.fulfil(life),
        });
    }
    assert_eq!(world.processes[&world.life(VCPU)].open, Some(RequestKind::Pause));
    world.refuse(world.life(VCPU));
    assert_eq!(world.processes[&world.life(VCPU)].open, Some(RequestKind::HoldCpus(true)));
    world.settle();
    order(&mut world, "nvme0");
    world.settle();
    assert_whole(&world, &Phase::Running);
}

#[test]
fn paused_cpus_are_not_held_and_stay_paused_behind_the_order() {
    let mut world = World::that_asks();
    world.settle();
    world.command(Command::Pause);
    world.settle();
    world.requests.clear();
    world.depart(world.life(SMMU0), true);
    world.settle();
    assert_eq!((world.machine.phase(), asked(&world, RequestKind::HoldCpus(true)).len()), (&Phase::Held, 0));
    order(&mut world, "smmu0");
    world.settle();
    assert_whole(&world, &Phase::Paused);
    assert!(asked(&world, RequestKind::HoldCpus(false)).is_empty());
}

#[test]
fn order_that_fails_is_answered_with_the_reason_and_the_guest_is_held_as_before() {
    let next = |world: &World, instance| {
        world.processes.keys().copied().filter(|life| life.instance == instance).max()
    };
    let fails: [(&str, Fail); 4] = [
        ("it died", |world, life| world.depart(life, true)),
        ("refused", |world, life| world.refuse(life)),
        ("its device does not come along: test", |world, life| {
            let vfio0 = LifeId { instance: VFIO0, ..life };
            world.until(|world| (world.processes[&vfio0].state == State::Armed).then_some(()));
            world.process(vfio0, ProcessEvent::Reported(Report::DeviceFailed("test".to_owned())));
        }),
        ("no process to be had", |world, life| {
            // A second order: its next life is not even started.
            world.depart(life, true);
            world.settle();
            let again = order(world, "nvme0");
            world.until(|world| world.processes.keys().find(|it| it.instance == NVME0).map(drop));
            let life = *world.processes.keys().find(|it| it.instance == NVME0).unwrap();
            world.processes.remove(&life);
            world.process(life, ProcessEvent::NotStarted(problem("no process to be had")));
            assert_eq!(why_not(world, again), "no process to be had");
        }),
    ];
    for (reason, fail) in fails {
        let first = if reason.starts_with("no process") { "it died" } else { reason };
        let mut world = held(NVME0);
        let ticket = order(&mut world, "nvme0");
        world.until_open(RequestKind::Load(LoadSource::Checkpoint));
        let life = next(&world, NVME0).unwrap();
        fail(&mut world, life);
        assert_eq!(why_not(&world, ticket), first);
        world.settle();
        assert_eq!(world.machine.standstill().unwrap().last, reason);
        assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Held, 3), "{reason}");
        assert!(world.machine.lost_devices().is_empty());
        let ticket = order(&mut world, "nvme0");
        world.settle();
        assert!(world.answers[&ticket].is_ok());
        assert_whole(&world, &Phase::Running);
    }
    // A peer that does not take the new channel.
    let mut world = held(VFIO0);
    let ticket = order(&mut world, "vfio0");
    let life = world.until(|world| next(world, VFIO0));
    world.until(|world| {
        (world.processes[&world.life(VCPU)].open == Some(RequestKind::Rewire(life))).then_some(())
    });
    world.refuse(world.life(VCPU));
    world.settle();
    assert_eq!((why_not(&world, ticket).as_str(), world.machine.phase()), ("refused", &Phase::Held));
}

#[test]
fn another_process_that_dies_meanwhile_comes_back_with_the_same_order() {
    for (first, then) in [(SMMU0, NVME0), (NVME0, SMMU0), (VFIO0, SMMU0)] {
        let mut world = held(first);
        world.depart(world.life(then), true);
        world.settle();
        assert_eq!(
            (world.machine.phase(), world.machine.standstill().unwrap().process),
            (&Phase::Held, first)
        );
        assert_eq!(world.processes.len(), 2, "{:?}", world.processes);
        let ticket = order(&mut world, &then.to_string());
        world.settle();
        assert!(world.answers[&ticket].is_ok(), "{:?}", world.answers[&ticket]);
        assert_whole(&world, &Phase::Running);
    }
}

#[test]
fn held_guest_goes_on_without_a_device_that_is_lost_meanwhile() {
    let mut world = held(SMMU0);
    world.depart(world.life(VFIO1), true);
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Held);
    let ticket = order(&mut world, "smmu0");
    world.settle();
    assert!(world.answers[&ticket].is_ok());
    assert_eq!((world.machine.phase(), world.machine.lost_devices().len()), (&Phase::Running, 1));
    assert!(!world.processes[&world.life(VCPU)].is_held);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Whatever is under way when it comes to a standstill, and whatever dies meanwhile: each command is answered, and
    /// orders bring the guest back whole.
    #[test]
    fn guest_that_is_held_at_any_moment_is_brought_back_whole(
        command in 0..6_usize,
        deaths in prop::collection::vec((0..50_usize, prop::sample::select(vec![NVME0, VFIO0, SMMU0])), 1..=4),
        picks in prop::collection::vec(0..16_usize, 200),
    ) {
        let mut world = World::that_asks();
        world.settle();
        let ticket = any_command(command).map(|command| world.command(command));
        let mut picks = picks.into_iter().cycle();
        for (moments, victim) in deaths {
            picks.by_ref().take(moments).for_each(|pick| turn_of(&mut world, pick));
            let life = world.life(victim);
            let has_begun = world.processes.get(&life).is_some_and(|it| {
                matches!(it.state, State::Running | State::Paused) && it.ending.is_none()
            });
            if has_begun && !world.machine.is_past_commit() {
                world.depart(life, true);
            }
            let missing = world.machine.missing().next();
            missing.into_iter().for_each(|missing| _ = order(&mut world, &missing.to_string()));
        }
        world.settle();
        loop {
            let Some(missing) = world.machine.missing().next() else { break };
            let ticket = order(&mut world, &missing.to_string());
            world.settle();
            prop_assert!(world.answers[&ticket].is_ok(), "{:?}", world.answers[&ticket]);
        }
        let timers: Vec<Timer> = world.timers.keys().copied().collect();
        let measuring = timers.into_iter().filter(|timer| matches!(timer, Timer::DirtyRate(_)));
        measuring.for_each(|timer| world.run_out(timer));
        world.settle();
        prop_assert_eq!(world.asked.len(), world.answers.len(), "each command is answered");
        let phase = match ticket.map(|ticket| &world.answers[&ticket]) {
            Some(Ok(Success::In(phase))) => phase.clone(),
            _ => Phase::Running,
        };
        assert_whole(&world, &phase);
    }
}
