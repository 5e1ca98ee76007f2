// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single stories of a process that is started anew under the guest.

use ipc::protocol::control::{Event as Report, Quiescence};

use super::stories::{asked, running};
use super::world::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, World, problem};
use crate::coordinator::vm::action::{LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{Command, LifeId, Outcome, ProcessEvent};
use crate::lifecycle::Phase;
use crate::problem::Class;

const NEXT: LifeId = LifeId { generation: 2, instance: SMMU0 };

fn restart(world: &mut World) -> u64 {
    world.command(Command::Restart("smmu0".to_owned()))
}

#[test]
fn restart_looks_at_what_the_old_life_has_when_all_hold_still_and_ends_it_before_the_next_goes() {
    let mut world = running(false);
    let ticket = restart(&mut world);
    let old = world.life(SMMU0);
    assert_eq!(
        world.until_open(RequestKind::Pause),
        world.life(VCPU),
        "the next life is there before the pause"
    );
    assert_eq!(world.until_open(RequestKind::Configure), NEXT);
    let others =
        [VCPU, VFIO0, VFIO1, NVME0, SMMU0].map(|instance| world.processes[&world.life(instance)].may_run);
    assert_eq!(others, [false; 5]);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Restarted(NEXT, vec![(SMMU0, 7)])));
    assert_eq!((world.life(SMMU0), world.machine.generation()), (NEXT, 1));
    assert!(!world.processes.contains_key(&old));
    assert_eq!(asked(&world, RequestKind::Save), [SMMU0]);
    assert_eq!(asked(&world, RequestKind::Rewire(NEXT)), [VFIO0, VFIO1]);
    assert_eq!(asked(&world, RequestKind::Load(LoadSource::Saved)), [SMMU0]);
    assert_eq!(asked(&world, RequestKind::Go), [SMMU0]);
    assert_eq!(asked(&world, RequestKind::Resume), [NVME0, VFIO0, VFIO1, VCPU]);
    // It is paused, saved and restarted like any other from then on.
    let again = restart(&mut world);
    world.settle();
    assert_eq!(
        world.answers[&again],
        Ok(Success::Restarted(LifeId { generation: 3, ..NEXT }, vec![(SMMU0, 7)]))
    );
    let moved = world.command(Command::SaveRestore);
    world.settle();
    assert!(matches!(world.answers[&moved], Ok(Success::Moved(4, _))), "{:?}", world.answers[&moved]);
    assert_eq!(world.processes.keys().map(|life| life.generation).collect::<Vec<_>>(), [4; 5]);
}

#[test]
fn process_that_cannot_be_started_is_what_a_restart_failed_of_and_not_those_that_end_with_it() {
    let mut world = running(false);
    let ticket = world.command(Command::Restart("nvme0".to_owned()));
    let next = [NVME0, VFIO0].map(|instance| LifeId { generation: 2, instance });
    while !next.iter().all(|life| world.processes.contains_key(life)) {
        world.until_open(RequestKind::CheckSave);
        for instance in [NVME0, VFIO0] {
            world.fulfil(world.life(instance));
        }
        world.serve();
    }
    world.processes.remove(&next[0]);
    world.process(next[0], ProcessEvent::NotStarted(problem("no program")));
    // It is being ended, and sees its channel close before it is killed.
    world.depart_as(next[1], true, true);
    world.settle();
    let problem = world.answers[&ticket].as_ref().unwrap_err();
    assert_eq!(problem.what, "start of nvme0: no program");
    assert_eq!(world.life(NVME0).generation, 1);
}

#[test]
fn restart_of_a_process_that_has_what_no_next_life_can_be_given_is_refused_before_anything_is_asked() {
    let mut world = running(false);
    for (name, class) in [("vcpu", Class::Usage), ("smmu7", Class::Usage), ("x", Class::Usage)] {
        let ticket = world.command(Command::Restart(name.to_owned()));
        assert_eq!(world.answers[&ticket].as_ref().unwrap_err().class, class, "{name}");
        assert_eq!(
            &world.machine.check_restart(name).unwrap_err(),
            world.answers[&ticket].as_ref().unwrap_err()
        );
    }
    assert_eq!(world.machine.check_restart("smmu0"), Ok(()), "and nothing begins by that");
    world.command(Command::Pause);
    let transit = world.machine.check_restart("smmu0").unwrap_err();
    assert!(transit.what.contains("another command"), "{transit}");
    world.settle();
    world.requests.clear();
    let ticket = restart(&mut world);
    assert_eq!(world.answers[&ticket].as_ref().unwrap_err().class, Class::State);
    assert_eq!(
        &world.machine.check_restart("smmu0").unwrap_err(),
        world.answers[&ticket].as_ref().unwrap_err()
    );
    assert_eq!(world.requests, []);
}

#[test]
fn restart_that_a_peer_refuses_leaves_the_old_life_and_names_step_and_process() {
    let mut world = running(false);
    let ticket = restart(&mut world);
    world.until_open(RequestKind::Rewire(NEXT));
    world.fulfil(world.life(VFIO0));
    world.refuse(world.life(VFIO1));
    world.settle();
    let problem = world.answers[&ticket].as_ref().unwrap_err();
    assert!(problem.what.starts_with("rewire of vfio1: "), "{problem}");
    assert!(!world.processes.contains_key(&NEXT));
    assert_eq!((world.life(SMMU0).generation, world.machine.phase()), (1, &Phase::Running));
}

#[test]
fn restart_goes_on_with_what_others_have_in_flight_and_not_with_what_the_old_life_has() {
    for (instance, goes_on) in [(VFIO0, true), (SMMU0, false)] {
        let mut world = running(false);
        let ticket = restart(&mut world);
        loop {
            let life = world.until_open(RequestKind::Pause);
            if life.instance == instance {
                break;
            }
            world.fulfil(life);
        }
        let in_flight = Quiescence { stage1_requests: 1, ..Quiescence::NONE };
        world.answer(world.life(instance), Outcome::Paused(in_flight));
        world.settle();
        assert_eq!(world.answers[&ticket].is_ok(), goes_on, "{:?}", world.answers[&ticket]);
    }
}

#[test]
fn next_life_of_a_vsmmu_is_told_of_devices_whose_dma_has_ended_before() {
    let mut world = running(false);
    world.depart(world.life(VFIO1), true);
    world.dma_ended.clear();
    let ticket = restart(&mut world);
    world.settle();
    assert!(world.answers[&ticket].is_ok());
    assert!(world.dma_ended.contains(&(NEXT, VFIO1)), "{:?}", world.dma_ended);
    assert_eq!(asked(&world, RequestKind::Rewire(NEXT)), [VFIO0], "nobody is there to be rewired");
}

#[test]
fn device_process_that_dies_during_a_restart_costs_the_restart_and_its_device() {
    let mut world = running(false);
    let ticket = restart(&mut world);
    world.until_open(RequestKind::Save);
    world.depart(world.life(VFIO1), true);
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_eq!((world.life(SMMU0).generation, world.machine.phase()), (1, &Phase::Running));
    assert!(world.machine.lost_devices().contains_key(&VFIO1));
}

#[test]
fn old_life_that_cannot_be_killed_ends_the_vm_for_it_holds_what_the_next_one_has() {
    let mut world = running(false);
    restart(&mut world);
    let old = world.life(SMMU0);
    world.until_open(RequestKind::Replay);
    [NEXT, world.life(VFIO0), world.life(VFIO1)].into_iter().for_each(|life| world.fulfil(life));
    assert_eq!(world.machine.life_of(SMMU0), Some(NEXT), "the commit");
    world.depart(old, false);
    world.settle();
    assert_eq!(world.machine.phase().as_str(), "stopped");
    assert_eq!(asked(&world, RequestKind::Go), []);
}

#[test]
fn word_about_a_process_that_was_restarted_is_about_its_next_life() {
    let mut world = running(false);
    restart(&mut world);
    world.settle();
    let report = Report::PeerFailed { name: "vfio0".to_owned(), why: "test".to_owned() };
    world.process(NEXT, ProcessEvent::Reported(report));
    assert!(world.processes[&world.life(VFIO0)].ending.is_some(), "of another generation, and beside it");
}

#[test]
fn device_and_its_server_are_restarted_together_and_cpus_and_vsmmu_are_rewired() {
    for asked in [NVME0, VFIO0] {
        let mut world = running(false);
        let next = |instance| LifeId { generation: 2, instance };
        let ticket = world.command(Command::Restart(asked.to_string()));
        world.settle();
        let other = if asked == NVME0 { VFIO0 } else { NVME0 };
        let units = vec![(asked, 7), (other, 7)];
        assert_eq!(world.answers[&ticket], Ok(Success::Restarted(next(asked), units)));
        assert_eq!([VFIO0, NVME0].map(|instance| world.life(instance)), [next(VFIO0), next(NVME0)]);
        let stay = [VCPU, VFIO1, SMMU0].map(|instance| world.life(instance).generation);
        assert_eq!((stay, world.processes.len(), world.machine.generation()), ([1; 3], 5, 1));
        assert_eq!(asked_of(&world, RequestKind::Rewire(next(VFIO0))), [VCPU, SMMU0].into());
        assert_eq!(asked_of(&world, RequestKind::Save), [VFIO0, NVME0].into());
        // The server is armed before its client, which greets it; both before the vSMMU attaches the stream.
        let place = |wanted| world.requests.iter().position(|request| *request == wanted).unwrap();
        let smmu_attaches = place((world.life(SMMU0), RequestKind::Replay));
        assert!(place((next(NVME0), RequestKind::Arm)) < place((next(VFIO0), RequestKind::Arm)));
        assert!(place((next(VFIO0), RequestKind::Arm)) < smmu_attaches);
        assert!(
            smmu_attaches < place((next(VFIO0), RequestKind::Go)),
            "no DMA before its stream is attached"
        );
        // It is lost and restarted like any other from then on.
        world.depart(next(NVME0), true);
        world.settle();
        assert!(world.machine.lost_devices().contains_key(&VFIO0));
        let again = world.command(Command::Restart("vfio0".to_owned()));
        world.settle();
        let problem = world.answers[&again].as_ref().unwrap_err();
        assert_eq!(problem.class, Class::State, "what nvme0 remembered is gone: {problem}");
    }
}

/// Who was asked this since the restart began.
fn asked_of(world: &World, request: RequestKind) -> std::collections::BTreeSet<ipc::instance::InstanceId> {
    asked(world, request).into_iter().collect()
}

#[test]
fn restart_of_a_device_whose_stream_cannot_be_attached_is_given_up() {
    let mut world = running(false);
    let ticket = world.command(Command::Restart("nvme0".to_owned()));
    world.until_open(RequestKind::Replay);
    let stream = ipc::protocol::control::StreamReplay {
        stream: ipc::addr::StreamId(8),
        attachment: ipc::protocol::stage1::Attachment::Bypass,
        outcome: ipc::protocol::control::ReplayOutcome::Aborted("test".to_owned()),
    };
    world.answer(world.life(SMMU0), Outcome::Replayed(vec![stream]));
    world.settle();
    let problem = world.answers[&ticket].as_ref().unwrap_err();
    assert!(problem.what.starts_with("replay of smmu0: "), "{problem}");
    assert_eq!([VFIO0, NVME0, VCPU].map(|instance| world.life(instance).generation), [1; 3]);
    assert!(world.machine.lost_devices().is_empty() && world.machine.phase() == &Phase::Running);
}

#[test]
fn dma_of_a_device_has_ended_only_when_its_old_life_is_gone_as_well() {
    let mut world = running(false);
    world.command(Command::Restart("vfio1".to_owned()));
    let old = world.life(VFIO1);
    let next = LifeId { generation: 2, instance: VFIO1 };
    while world.machine.life_of(VFIO1) != Some(next) {
        world.serve();
        let due = world.processes.iter().find(|(_, it)| !it.greeted || it.open.is_some());
        let due = due.map_or(next, |(life, _)| *life);
        world.fulfil(due);
        world.tell_of_device(due, false);
    }
    world.depart(next, true);
    assert_eq!(world.dma_ended, [], "the old life was killed, and perhaps goes on");
    world.depart(old, true);
    assert_eq!(world.dma_ended, [(world.life(SMMU0), VFIO1)]);
}

#[test]
fn process_that_was_restarted_is_one_of_the_old_set_in_a_move() {
    let restarted = || {
        let mut world = running(false);
        restart(&mut world);
        world.settle();
        let ticket = world.command(Command::SaveRestore);
        (world, ticket)
    };
    let (mut world, ticket) = restarted();
    world.until_open(RequestKind::Pause);
    world.depart(NEXT, true);
    assert!(world.machine.deaths().contains_key(&SMMU0), "it is the guest's, and is followed");
    world.settle();
    assert!(world.answers[&ticket].is_err() && world.life(SMMU0).generation > NEXT.generation);
    // Its way back is a way back, too.
    let (mut world, ticket) = restarted();
    while !world.processes.keys().any(|life| life.generation == 3) {
        world.until_open(RequestKind::CheckSave);
        let lives: Vec<LifeId> = world.processes.keys().copied().collect();
        lives.into_iter().for_each(|life| world.fulfil(life));
        world.serve();
    }
    world.until_open(RequestKind::Save);
    world.refuse(world.life(VCPU));
    while world.processes[&NEXT].open != Some(RequestKind::Resume) {
        let ending = world.processes.iter().find(|(_, it)| it.ending.is_some()).map(|(life, _)| *life);
        match ending {
            Some(life) => world.depart(life, true),
            None => {
                let lives: Vec<LifeId> = world.processes.keys().copied().collect();
                lives.into_iter().filter(|life| *life != NEXT).for_each(|life| world.fulfil(life));
                if world.processes[&NEXT].open == Some(RequestKind::Save) {
                    world.fulfil(NEXT);
                }
            }
        }
    }
    world.refuse(NEXT);
    assert!(world.processes[&NEXT].ending.is_some(), "it is neither paused nor does it run");
    world.settle();
    assert!(world.answers[&ticket].is_err());
}
