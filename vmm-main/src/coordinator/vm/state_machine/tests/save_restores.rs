// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single save/restores: in which order each set is asked, and what becomes of one in which a process refuses, dies, or
//! is not quiescent.

use ipc::addr::StreamId;
use ipc::protocol::control::{Quiescence, ReplayOutcome, StreamReplay};
use ipc::protocol::stage1::Attachment;

use super::stories::{asked, running};
use super::world::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, World};
use crate::coordinator::vm::action::{LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{Command, LifeId, Outcome, Timer};
use crate::coordinator::vm::state_machine::way_in::outcome_deadline;
use crate::lifecycle::Phase;

#[test]
fn save_restore_ends_the_old_set_before_the_new_one_begins() {
    let mut world = running(false);
    let ticket = world.command(Command::SaveRestore);
    world.settle();
    let Ok(Success::Moved(2, units)) = &world.answers[&ticket] else { panic!("{:?}", world.answers) };
    assert_eq!(units.len(), 5);
    let at = |request: RequestKind, generation: u32| {
        let given = world.requests.iter().enumerate();
        let places = given.filter(|(_, (life, given))| *given == request && life.generation == generation);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        assert_eq!(places.len(), 5, "{request:?}");
        (places[0], places[4])
    };
    let steps = [
        at(RequestKind::CheckSave, 1),
        at(RequestKind::Configure, 2),
        at(RequestKind::Pause, 1),
        at(RequestKind::Save, 1),
        at(RequestKind::Load(LoadSource::Saved), 2),
        at(RequestKind::Arm, 2),
        at(RequestKind::Replay, 2),
        at(RequestKind::Go, 2),
    ];
    assert!(steps.windows(2).all(|pair| pair[0].1 < pair[1].0), "{steps:?}");
    assert_eq!(asked(&world, RequestKind::Go), [SMMU0, NVME0, VFIO0, VFIO1, VCPU]);
    assert_eq!((world.machine.generation(), world.processes.len()), (2, 5));
    let outcome = Timer::DeviceOutcome(world.life(VFIO1));
    assert_eq!(world.timers[&outcome], outcome_deadline(&LoadSource::Saved));
}

#[test]
fn save_restore_that_one_process_cannot_be_part_of_touches_nothing() {
    for refusing in [&[VFIO1][..], &[VFIO1, VFIO0, SMMU0]] {
        let mut world = running(false);
        let ticket = world.command(Command::SaveRestore);
        for instance in refusing {
            world.refuse(world.life(*instance));
        }
        world.settle();
        let problem = world.answers[&ticket].as_ref().unwrap_err();
        assert_eq!(
            (problem.what.as_str(), world.machine.phase()),
            ("check of vfio1: refused", &Phase::Running)
        );
        assert!(
            world.requests.iter().all(|(_, request)| *request == RequestKind::CheckSave),
            "{:?}",
            world.requests
        );
        assert!(world.lives().all(|life| life.generation == 1), "no process was started");
        assert_eq!(world.processes.len(), 5, "nobody is ended for it");
    }
}

/// A save/restore up to the moment in which the new set was asked for this, before it has answered.
fn moving_up_to(world: &mut World, request: RequestKind) {
    let was_asked = |world: &World| {
        let is_it = |(life, given): &(LifeId, RequestKind)| life.generation == 2 && *given == request;
        world.requests.iter().any(is_it).then_some(())
    };
    world.until(was_asked);
}

#[test]
fn save_restore_that_fails_before_its_commit_lets_the_old_set_go_on_and_says_who_and_where() {
    for (request, step) in [
        (RequestKind::Configure, "configure"),
        (RequestKind::Load(LoadSource::Saved), "load"),
        (RequestKind::Arm, "arm"),
        (RequestKind::Replay, "replay"),
    ] {
        for dies in [true, false] {
            let mut world = running(false);
            let ticket = world.command(Command::SaveRestore);
            moving_up_to(&mut world, request);
            let asked =
                world.processes.iter().find(|(life, it)| life.generation == 2 && it.open == Some(request));
            let life = *asked.unwrap().0;
            if dies {
                world.depart(life, true);
            } else {
                world.refuse(life);
            }
            world.settle();
            let problem = world.answers[&ticket].as_ref().unwrap_err();
            let why = if dies { "it died" } else { "refused" };
            assert_eq!(problem.what, format!("{step} of {}: {why}", life.instance));
            assert!(problem.advice.ends_with("; the guest is running"), "{problem}");
            assert_eq!((world.machine.phase(), world.machine.generation()), (&Phase::Running, 1));
            assert!(world.processes.keys().all(|life| life.generation == 1) && world.processes.len() == 5);
            // Nothing of the first attempt is relied on by the next one.
            world.requests.clear();
            let again = world.command(Command::SaveRestore);
            world.settle();
            assert!(matches!(world.answers[&again], Ok(Success::Moved(3, _))), "{:?}", world.answers[&again]);
            assert_eq!(
                (asked_all(&world, RequestKind::CheckSave), asked_all(&world, RequestKind::Save)),
                (5, 5)
            );
        }
    }
}

#[test]
fn save_restore_that_is_refused_for_a_death_names_the_process_that_died() {
    for (request, step) in [(RequestKind::Arm, "arm"), (RequestKind::Replay, "replay")] {
        let mut world = running(false);
        let ticket = world.command(Command::SaveRestore);
        moving_up_to(&mut world, request);
        let next = |instance| LifeId { generation: 2, instance };
        // The client of a server that is exiting sees its connection closed first.
        world.refuse(next(SMMU0));
        world.depart_as(next(NVME0), true, true);
        // What comes of being told to end is no cause.
        world.depart_as(next(VFIO1), true, true);
        world.settle();
        let problem = world.answers[&ticket].as_ref().unwrap_err();
        assert_eq!(problem.what, format!("{step} of nvme0: it died"));
        assert_eq!((world.machine.phase(), world.machine.generation()), (&Phase::Running, 1));
    }
}

fn asked_all(world: &World, request: RequestKind) -> usize {
    asked(world, request).len()
}

#[test]
fn save_restore_whose_process_is_not_quiet_or_whose_stream_aborts_is_given_up() {
    let mut world = running(false);
    let ticket = world.command(Command::SaveRestore);
    for _ in 0..200 {
        if world
            .processes
            .iter()
            .any(|(life, it)| life.instance == VFIO1 && it.open == Some(RequestKind::Pause))
        {
            break;
        }
        world.serve();
        let next = world.processes.iter().find(|(_, it)| !it.greeted || it.open.is_some());
        next.map(|(life, _)| *life).into_iter().for_each(|life| world.fulfil(life));
    }
    world.answer(world.life(VFIO1), Outcome::Paused(Quiescence { posts: 2, ..Quiescence::NONE }));
    world.settle();
    let problem = world.answers[&ticket].as_ref().unwrap_err();
    assert!(problem.what.starts_with("pause of vfio1: ") && problem.what.contains("2 of posts"), "{problem}");
    assert_eq!(world.machine.phase(), &Phase::Running);

    let ticket = world.command(Command::SaveRestore);
    for _ in 0..300 {
        if world
            .processes
            .iter()
            .any(|(life, it)| life.generation == 3 && it.open == Some(RequestKind::Replay))
        {
            break;
        }
        world.serve();
        for life in world.processes.keys().copied().collect::<Vec<_>>() {
            if world.processes.get(&life).is_some_and(|it| it.open != Some(RequestKind::Replay)) {
                world.fulfil(life);
                world.tell_of_device(life, false);
            }
        }
    }
    let outcome = ReplayOutcome::Aborted("no answer".into());
    let replay = StreamReplay { stream: StreamId(8), attachment: Attachment::Bypass, outcome };
    world.answer(LifeId { generation: 3, instance: SMMU0 }, Outcome::Replayed(vec![replay]));
    world.settle();
    let problem = world.answers[&ticket].as_ref().unwrap_err();
    assert!(problem.what.starts_with("replay of smmu0: ") && problem.what.contains("0x8"), "{problem}");
    assert_eq!((world.machine.phase(), world.machine.generation()), (&Phase::Running, 1));
}

#[test]
fn save_restore_with_an_old_process_that_cannot_be_killed_begins_no_second_life() {
    let mut world = running(false);
    let ticket = world.command(Command::SaveRestore);
    for _ in 0..400 {
        if world.processes.iter().any(|(life, it)| life.generation == 1 && it.ending.is_some()) {
            break;
        }
        world.serve();
        for life in world.processes.keys().copied().collect::<Vec<_>>() {
            world.fulfil(life);
            world.tell_of_device(life, false);
        }
    }
    let old: Vec<LifeId> = world.processes.keys().copied().filter(|life| life.generation == 1).collect();
    for life in old {
        world.depart(life, life.instance != NVME0);
    }
    world.settle();
    assert!(asked(&world, RequestKind::Go).is_empty());
    assert_eq!((world.machine.phase().as_str(), world.machine.hanging()), ("stopped", &[NVME0][..]));
    assert!(world.answers[&ticket].as_ref().unwrap_err().what.starts_with("nvme0 cannot be killed"));
}

#[test]
fn process_that_dies_at_go_is_a_loss_as_in_a_running_vm() {
    let mut world = running(false);
    let ticket = world.command(Command::SaveRestore);
    moving_up_to(&mut world, RequestKind::Go);
    world.fulfil(world.life(SMMU0));
    world.fulfil(world.life(NVME0));
    // One dies, the other one breaks the contract.
    world.depart(world.life(VFIO0), true);
    world.refuse(world.life(VFIO1));
    world.settle();
    assert!(matches!(world.answers[&ticket], Ok(Success::Moved(2, _))), "{:?}", world.answers[&ticket]);
    assert_eq!(world.machine.lost_devices().len(), 2);
    assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 3));
}
