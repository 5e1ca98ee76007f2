// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a process that dies and comes back, while nothing else is under way or in the middle of an operation.

use std::time::Duration;

use ipc::protocol::control::{DirtyLogOp, Event as Report};
use ipc::protocol::lifecycle::State;

use super::stories::{asked, running};
use super::world::{NVME0, SMMU_DEATHS_MAX, SMMU0, VCPU, VFIO0, VFIO1, World};
use crate::coordinator::vm::action::{LoadSource, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Timer};
use crate::lifecycle::{Phase, Why};

fn next(generation: u32) -> LifeId {
    LifeId { generation, instance: SMMU0 }
}

/// The vSMMU's process dies.
fn dies(world: &mut World) {
    world.depart(world.life(SMMU0), true);
}

/// The guest runs, or is paused, with everyone, the vSMMU in this life.
fn assert_whole(world: &World, phase: &Phase, generation: u32) {
    let state = if *phase == Phase::Paused { State::Paused } else { State::Running };
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (phase, true));
    assert_eq!(world.life(SMMU0), next(generation));
    assert_eq!(world.processes.len(), 5, "{:?}", world.processes);
    assert!(world.processes.values().all(|process| process.state == state), "{:?}", world.processes);
    assert!(world.machine.lost_devices().is_empty());
}

/// This life was told to log its writes in this epoch before it was let go.
pub fn assert_logs_before_it_begins(world: &World, life: LifeId, epoch: u64) {
    let place = |wanted: RequestKind| {
        let mut asked = world.requests.iter();
        asked.position(|asked| *asked == (life, wanted)).unwrap_or_else(|| panic!("{wanted:?} of {life:?}"))
    };
    let enable = RequestKind::DirtyLog(DirtyLogOp::Enable { epoch });
    assert!(place(enable) < place(RequestKind::Go), "{:?}", world.requests);
}

fn why(world: &World) -> String {
    let Phase::Stopped { why } = world.machine.phase() else { panic!("{}", world.machine.phase()) };
    why.problem().unwrap().what.clone()
}

#[test]
fn process_that_dies_comes_back_from_its_checkpoint_and_no_other_is_paused_for_it() {
    let mut world = running(false);
    dies(&mut world);
    assert!(!world.machine.is_idle(), "commands wait");
    assert_eq!(world.machine.phase(), &Phase::Running);
    world.settle();
    assert_whole(&world, &Phase::Running, 2);
    let expected = [
        (next(2), RequestKind::Configure),
        (next(2), RequestKind::Load(LoadSource::Checkpoint)),
        (LifeId { generation: 1, instance: VFIO0 }, RequestKind::Rewire(next(2))),
        (LifeId { generation: 1, instance: VFIO1 }, RequestKind::Rewire(next(2))),
        (next(2), RequestKind::Arm),
        (next(2), RequestKind::Replay),
        (next(2), RequestKind::Go),
    ];
    assert_eq!(world.requests, expected);
    let told: Vec<_> = world.notices.iter().skip(1).collect();
    assert_eq!(told, [&Notice::ProcessDied(SMMU0, "it died".into()), &Notice::ProcessRevived(next(2))]);
    let deaths = &world.machine.deaths()[&SMMU0];
    assert_eq!((deaths.count, deaths.last.as_str()), (1, "it died"));
    // What follows is as what came before.
    for command in [Command::Restart("smmu0".to_owned()), Command::SaveRestore] {
        let ticket = world.command(command);
        world.settle();
        assert!(world.answers[&ticket].is_ok(), "{:?}", world.answers[&ticket]);
    }
}

#[test]
fn process_that_dies_while_the_guest_is_paused_comes_back_and_holds_still() {
    let mut world = running(false);
    world.command(Command::Pause);
    world.settle();
    dies(&mut world);
    world.settle();
    assert_whole(&world, &Phase::Paused, 2);
    let ticket = world.command(Command::Resume);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
    assert_whole(&world, &Phase::Running, 2);
}

#[test]
fn pause_that_a_cpu_cannot_answer_before_the_dead_process_is_back_goes_on_behind_it() {
    let mut world = running(false);
    let ticket = world.command(Command::Pause);
    dies(&mut world);
    // The CPUs' process waits for an answer in the ring of the one that died.
    while world.machine.recovery.is_some() {
        assert_eq!(world.processes[&world.life(VCPU)].open, Some(RequestKind::Pause));
        for life in [next(2), world.life(VFIO0), world.life(VFIO1)] {
            world.fulfil(life);
        }
    }
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Paused)));
    assert_whole(&world, &Phase::Paused, 2);
}

#[test]
fn move_that_counts_on_a_life_that_dies_is_given_up_and_its_set_ended_before_the_next_life() {
    for command in [Command::SaveRestore, Command::Restart("smmu0".to_owned())] {
        let mut world = running(false);
        let ticket = world.command(command);
        world.until_open(RequestKind::Save);
        dies(&mut world);
        let is_new = |life: &LifeId| life.generation == 2;
        assert!(world.processes.iter().filter(|(life, _)| is_new(life)).all(|(_, it)| it.ending.is_some()));
        world.settle();
        let problem = world.answers[&ticket].as_ref().unwrap_err();
        assert_eq!(problem.what, "save of smmu0: it died");
        assert_whole(&world, &Phase::Running, 3);
    }
}

#[test]
fn measurement_goes_on_with_the_next_life_which_logs_before_it_begins() {
    let mut world = running(false);
    let ticket = world.command(Command::DirtyRate(Duration::from_secs(1)));
    world.settle();
    dies(&mut world);
    world.settle();
    assert_logs_before_it_begins(&world, next(2), 1);
    world.run_out(Timer::DirtyRate(1));
    // Whoever has flipped its log and dies is followed by one that flips it too.
    world.until_open(RequestKind::DirtyLog(DirtyLogOp::Rearm));
    dies(&mut world);
    world.settle();
    assert_logs_before_it_begins(&world, next(3), 1);
    assert_eq!((world.harvests, &world.answers[&ticket]), (1, &Ok(Success::DirtyRateMeasured)));
    let disabled = asked(&world, RequestKind::DirtyLog(DirtyLogOp::Disable));
    assert_eq!((disabled.len(), disabled.contains(&SMMU0)), (4, true));
    assert_whole(&world, &Phase::Running, 3);
}

#[test]
fn next_life_that_cannot_log_ends_the_measurement_and_not_itself() {
    let mut world = running(false);
    let ticket = world.command(Command::DirtyRate(Duration::from_secs(1)));
    world.settle();
    dies(&mut world);
    let life = world.until_open(RequestKind::DirtyLog(DirtyLogOp::Enable { epoch: 1 }));
    assert_eq!(life, next(2));
    world.refuse(life);
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_whole(&world, &Phase::Running, 2);
}

#[test]
fn next_life_that_dies_on_its_way_is_followed_by_another_one() {
    for request in [
        RequestKind::Configure,
        RequestKind::Load(LoadSource::Checkpoint),
        RequestKind::Replay,
        RequestKind::Go,
    ] {
        let mut world = running(false);
        dies(&mut world);
        let life = world.until_open(request);
        assert_eq!(life, next(2), "{request:?}");
        world.depart(life, true);
        world.settle();
        assert_whole(&world, &Phase::Running, 3);
    }
    // A peer that was to be rewired to the one that died is rewired to the one that follows it.
    let mut world = running(false);
    dies(&mut world);
    world.until_open(RequestKind::Rewire(next(2)));
    world.depart(next(2), true);
    world.settle();
    assert_whole(&world, &Phase::Running, 3);
    assert_eq!(asked(&world, RequestKind::Rewire(next(3))), [VFIO0, VFIO1]);
}

#[test]
fn next_life_that_refuses_is_the_end_with_both_reasons() {
    let mut world = running(false);
    dies(&mut world);
    world.until_open(RequestKind::Load(LoadSource::Checkpoint));
    world.refuse(next(2));
    world.settle();
    assert_eq!(why(&world), "it died; its next life cannot go on: load of smmu0: refused");
}

#[test]
fn device_that_cannot_be_rewired_is_lost_and_the_guest_goes_on() {
    let mut world = running(false);
    dies(&mut world);
    world.until_open(RequestKind::Rewire(next(2)));
    world.refuse(world.life(VFIO1));
    world.settle();
    assert_eq!((world.machine.phase(), world.life(SMMU0)), (&Phase::Running, next(2)));
    assert!(world.machine.lost_devices().contains_key(&VFIO1));
    assert!(world.dma_ended.contains(&(next(2), VFIO1)), "{:?}", world.dma_ended);
}

#[test]
fn device_that_dies_meanwhile_is_lost_and_the_next_life_hears_of_it() {
    for instance in [VFIO1, NVME0] {
        let mut world = running(false);
        dies(&mut world);
        world.until_open(RequestKind::Rewire(next(2)));
        world.depart(world.life(instance), true);
        world.settle();
        assert_eq!((world.machine.phase(), world.life(SMMU0)), (&Phase::Running, next(2)));
        assert_eq!(world.machine.lost_devices().len(), 1);
        assert_eq!(world.dma_ended.contains(&(next(2), VFIO1)), instance == VFIO1);
    }
}

#[test]
fn cpus_that_die_meanwhile_end_the_vm() {
    let mut world = running(false);
    dies(&mut world);
    world.until_open(RequestKind::Rewire(next(2)));
    world.depart(world.life(VCPU), true);
    world.settle();
    assert_eq!(world.machine.phase().as_str(), "stopped");
}

#[test]
fn process_that_dies_seldom_is_started_anew_again_and_again() {
    let mut world = running(false);
    for number in 1..=3 * SMMU_DEATHS_MAX {
        dies(&mut world);
        world.settle();
        world.run_out(Timer::DeathForgotten(SMMU0, number));
    }
    assert_whole(&world, &Phase::Running, 3 * SMMU_DEATHS_MAX + 1);
    assert_eq!(world.machine.deaths()[&SMMU0].count, 3 * SMMU_DEATHS_MAX);
}

#[test]
fn process_that_was_killed_and_is_not_gone_is_followed_by_none() {
    let mut world = running(false);
    world.depart(world.life(SMMU0), false);
    world.settle();
    assert!(why(&world).contains("smmu0 cannot be killed"), "{}", why(&world));
}

#[test]
fn process_that_does_not_answer_a_peer_is_ended_and_comes_back_and_one_that_breaks_the_contract_does_not() {
    let mut world = running(false);
    let report = Report::PeerFailed { name: "smmu0".to_owned(), why: "no answer".to_owned() };
    world.process(world.life(VCPU), ProcessEvent::Reported(report));
    world.settle();
    assert_whole(&world, &Phase::Running, 2);
    world.process(world.life(SMMU0), ProcessEvent::Reported(Report::GuestPoweredOff));
    world.settle();
    assert_eq!(world.machine.phase().as_str(), "stopped");
}

#[test]
fn process_that_dies_before_it_has_begun_ends_the_vm() {
    let mut world = World::new(false);
    world.until_open(RequestKind::Load(LoadSource::Reset));
    dies(&mut world);
    world.settle();
    assert_eq!(why(&world), "it died");
}

#[test]
fn guests_reset_waits_for_the_next_life_and_an_order_to_stop_does_not() {
    let mut world = running(false);
    dies(&mut world);
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestReset));
    world.settle();
    assert_eq!((world.machine.phase(), world.machine.reset_count()), (&Phase::Running, 1));
    dies(&mut world);
    world.happen(Event::Stop(Why::Asked));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Stopped { why: Why::Asked });
}
