// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single stories: what is ordered, in which order, and what users are told.

use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;

use super::world::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, World};
use crate::coordinator::vm::action::{Ending, LoadSource, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Timer};
use crate::coordinator::vm::state_machine::way_in::outcome_deadline;
use crate::lifecycle::{Phase, Why};

pub fn running(required: bool) -> World {
    let mut world = World::new(required);
    world.settle();
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
    world.requests.clear();
    world
}

/// Who was asked for this, in order.
pub fn asked(world: &World, request: RequestKind) -> Vec<ipc::instance::InstanceId> {
    world.requests.iter().filter(|(_, given)| *given == request).map(|(life, _)| life.instance).collect()
}

/// Everyone takes what it was told to load, which they are at once.
fn load_all(world: &mut World) {
    assert_eq!(asked(world, RequestKind::Load(LoadSource::Reset)).len(), 5);
    for instance in [VCPU, VFIO0, VFIO1, NVME0, SMMU0] {
        world.fulfil(world.life(instance));
    }
}

#[test]
fn boot_begins_the_cpus_last_and_only_when_every_device_has_come_to_something() {
    let mut world = World::new(false);
    world.serve();
    // Each greets and is configured before the next is started.
    for count in 1..=5 {
        assert_eq!(world.processes.len(), count);
        let life =
            world.processes.keys().copied().find(|life| world.processes[life].state == State::Unconfigured);
        world.fulfil(life.unwrap());
        world.fulfil(life.unwrap());
    }
    load_all(&mut world);
    for instance in [SMMU0, NVME0, VFIO0, VFIO1] {
        world.fulfil(world.life(instance));
    }
    assert_eq!(asked(&world, RequestKind::Arm), [SMMU0, NVME0, VFIO0, VFIO1]);
    world.tell_of_device(world.life(VFIO0), false);
    assert!(!asked(&world, RequestKind::Arm).contains(&VCPU), "a device is being opened");
    let outcome = Timer::DeviceOutcome(world.life(VFIO1));
    assert_eq!(world.timers[&outcome], outcome_deadline(&LoadSource::Reset));
    world.run_out(outcome);
    let said = &world.processes[&world.life(VFIO1)].ending;
    assert_eq!(*said, Some(Ending::Failed("it does not say what became of its device".into())));
    world.depart(world.life(VFIO1), true);
    world.fulfil(world.life(VCPU));
    assert_eq!(asked(&world, RequestKind::Replay).len(), 4);
    assert!(asked(&world, RequestKind::Go).is_empty(), "nobody begins before everyone can");
    world.settle();
    assert_eq!(asked(&world, RequestKind::Go), [SMMU0, NVME0, VFIO0, VCPU]);
    assert_eq!(world.machine.phase(), &Phase::Running);
    assert!(world.notices.iter().any(|notice| matches!(notice, Notice::DeviceLost(VFIO1, _))));
}

#[test]
fn boot_without_a_required_device_begins_no_cpu() {
    let mut world = World::new(true);
    world.serve();
    for instance in [VCPU, VFIO0, VFIO1, NVME0, SMMU0] {
        world.fulfil(world.life(instance));
        world.fulfil(world.life(instance));
    }
    load_all(&mut world);
    for instance in [SMMU0, NVME0, VFIO0, VFIO1] {
        world.fulfil(world.life(instance));
    }
    world.tell_of_device(world.life(VFIO0), false);
    world.tell_of_device(world.life(VFIO1), true);
    world.settle();
    assert!(asked(&world, RequestKind::Go).is_empty());
    let Phase::Stopped { why: Why::Failed { problem, .. } } = world.machine.phase() else { panic!() };
    assert!(problem.what.starts_with("the device vfio1 is lost: "), "{problem}");
}

#[test]
fn pause_goes_tier_by_tier_and_resume_the_other_way() {
    let mut world = running(false);
    let paused = world.command(Command::Pause);
    world.settle();
    assert_eq!(asked(&world, RequestKind::Pause), [VCPU, VFIO0, VFIO1, NVME0, SMMU0]);
    assert_eq!(world.answers[&paused], Ok(Success::In(Phase::Paused)));
    world.command(Command::Resume);
    world.settle();
    assert_eq!(asked(&world, RequestKind::Resume), [SMMU0, NVME0, VFIO0, VFIO1, VCPU]);
}

#[test]
fn pause_that_the_cpus_refuse_is_undone() {
    let mut world = running(false);
    let ticket = world.command(Command::Pause);
    world.refuse(world.life(VCPU));
    // Its word that it is as it was is not relied on.
    assert_eq!(world.requests.last(), Some(&(world.life(VCPU), RequestKind::Resume)));
    assert!(!world.answers.contains_key(&ticket));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Running);
    assert_eq!(world.answers[&ticket].as_ref().unwrap_err().what, "refused");
    // One that refuses this as well runs no more that anybody knows of.
    let ticket = world.command(Command::Pause);
    world.refuse(world.life(VCPU));
    world.refuse(world.life(VCPU));
    assert!(
        matches!(&world.processes[&world.life(VCPU)].ending, Some(Ending::Failed(why)) if why.contains("neither"))
    );
    world.settle();
    assert_eq!(world.machine.phase().as_str(), "stopped");
    assert_eq!(world.answers[&ticket].as_ref().unwrap_err().what, "it died");
}

#[test]
fn resume_that_a_device_refuses_leaves_everyone_paused() {
    let mut world = running(false);
    world.command(Command::Pause);
    world.settle();
    let ticket = world.command(Command::Resume);
    world.fulfil(world.life(SMMU0));
    world.fulfil(world.life(NVME0));
    world.refuse(world.life(VFIO0));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Paused);
    assert!(
        world.answers[&ticket].is_err() && asked(&world, RequestKind::Resume).iter().all(|who| *who != VCPU)
    );
    assert!(world.processes.values().all(|process| process.state == State::Paused));
}

#[test]
fn device_process_that_dies_during_a_pause_is_told_at_once_and_the_pause_goes_on() {
    let mut world = running(false);
    let ticket = world.command(Command::Pause);
    for instance in [VCPU, VFIO0, VFIO1, NVME0] {
        world.fulfil(world.life(instance));
    }
    // The vSMMU does not answer yet.
    world.depart(world.life(VFIO1), true);
    assert!(world.machine.lost_devices().contains_key(&VFIO1) && !world.answers.contains_key(&ticket));
    world.fulfil(world.life(SMMU0));
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Paused)));
}

#[test]
fn vsmmu_is_told_of_the_end_of_a_devices_dma_once_its_process_is_reaped_and_not_before() {
    let mut world = running(false);
    let smmu = world.life(SMMU0);
    // Its device has failed, and its process lives.
    world.process(world.life(VFIO0), ProcessEvent::Reported(Report::DeviceFailed("test".into())));
    // The server of a device does no DMA by itself.
    world.depart(world.life(NVME0), true);
    assert_eq!(world.dma_ended, []);
    world.depart(world.life(VFIO1), true);
    assert_eq!(world.dma_ended, [(smmu, VFIO1)]);
    assert!(!matches!(world.machine.phase().as_str(), "stopping" | "stopped"));
}

#[test]
fn device_process_that_cannot_be_killed_ends_the_vm_for_its_dma_goes_on() {
    let mut world = running(false);
    world.depart(world.life(VFIO1), false);
    assert_eq!(world.dma_ended, []);
    world.settle();
    let Phase::Stopped { why } = world.machine.phase() else { panic!("{}", world.machine.phase()) };
    assert!(why.problem().unwrap().what.contains("its DMA has not ended"), "{why:?}");
}

#[test]
fn vsmmu_is_told_of_devices_that_died_before_it_could_hear_it() {
    let mut world = World::new(false);
    world.serve();
    // Each greets and is configured before the next is started.
    while world.processes.len() < 5 {
        let unconfigured = |life: &LifeId| world.processes[life].state == State::Unconfigured;
        let life = world.processes.keys().copied().find(unconfigured).unwrap();
        world.fulfil(life);
        if world.processes.keys().any(|life| life.instance == VFIO1) && life.instance == VFIO1 {
            break;
        }
    }
    world.depart(world.life(VFIO1), true);
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Running);
    let smmu = world.life(SMMU0);
    assert!(!world.dma_ended.is_empty() && world.dma_ended.iter().all(|told| *told == (smmu, VFIO1)));
}

#[test]
fn servers_own_end_is_told_instead_of_its_clients_word() {
    let mut world = running(false);
    let failed = |world: &mut World| {
        let report = Report::DeviceFailed("connection closed".into());
        world.process(world.life(VFIO0), ProcessEvent::Reported(report));
    };
    failed(&mut world);
    assert!(world.machine.lost_devices().is_empty(), "its server may be ending");
    world.depart(world.life(NVME0), true);
    assert_eq!(world.machine.lost_devices()[&VFIO0], "it died");
    assert_eq!(world.notices.iter().filter(|notice| matches!(notice, Notice::DeviceLost(..))).count(), 1);
    let mut world = running(false);
    failed(&mut world);
    world.run_out(Timer::ServerEnd(world.life(VFIO0)));
    assert_eq!(world.machine.lost_devices()[&VFIO0], "connection closed");
}

#[test]
fn processes_that_refuse_a_pause_together_are_not_ended_for_it() {
    let mut world = running(false);
    let ticket = world.command(Command::Pause);
    world.fulfil(world.life(VCPU));
    world.refuse(world.life(VFIO0));
    world.refuse(world.life(VFIO1));
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 5));
    assert!(world.machine.lost_devices().is_empty());
}

#[test]
fn guest_that_resets_while_it_is_paused_is_reset_when_it_goes_on() {
    let mut world = running(false);
    world.command(Command::Pause);
    world.settle();
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestReset));
    world.settle();
    assert_eq!((world.machine.phase(), world.machine.reset_count()), (&Phase::Paused, 0));
    let ticket = world.command(Command::Resume);
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Running)));
    assert_eq!(
        (world.machine.phase(), world.machine.reset_count(), world.machine.generation()),
        (&Phase::Running, 1, 2)
    );
}

#[test]
fn process_that_speaks_for_the_guest_and_does_not_run_it_is_ended() {
    let mut world = running(false);
    world.process(world.life(VFIO1), ProcessEvent::Reported(Report::GuestPoweredOff));
    assert!(world.processes[&world.life(VFIO1)].ending.is_some());
    assert_eq!(world.machine.phase(), &Phase::Running);
}

#[test]
fn reset_with_a_process_that_cannot_be_killed_begins_no_second_life() {
    let mut world = running(false);
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestReset));
    let lives: Vec<LifeId> = world.processes.keys().copied().collect();
    let hanging = world.life(SMMU0);
    for life in lives {
        world.depart(life, life != hanging);
    }
    assert_eq!(world.machine.phase().as_str(), "stopped");
    assert_eq!(world.machine.hanging(), [SMMU0]);
}

#[test]
fn end_keeps_its_first_reason_and_ends_the_cpus_first() {
    let mut world = running(false);
    world.happen(Event::Stop(Why::LauncherGone));
    let ending: Vec<_> =
        world.processes.iter().filter(|(_, it)| it.ending.is_some()).map(|(life, _)| *life).collect();
    assert_eq!(ending, [world.life(VCPU)]);
    world.happen(Event::Stop(Why::Asked));
    world.settle();
    assert_eq!(world.machine.phase(), &Phase::Stopped { why: Why::LauncherGone });
}

#[test]
fn reset_ends_the_vm_while_a_process_of_the_life_before_cannot_be_killed() {
    let mut world = running(false);
    let server = world.life(NVME0);
    world.process(server, ProcessEvent::Reported(Report::Fatal("test".to_owned())));
    world.depart(server, false);
    assert_eq!(world.machine.phase(), &Phase::Running, "the guest goes on without the device");
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestReset));
    world.settle();
    assert_eq!(world.machine.phase().as_str(), "stopped", "its image is still in use");
    assert_eq!(world.machine.hanging(), [NVME0]);
}

fn fails(world: &mut World, instance: ipc::instance::InstanceId) {
    let report = Report::DeviceFailed("test".to_owned());
    world.process(world.life(instance), ProcessEvent::Reported(report));
}

/// [`World`] refuses the end of a device's DMA while its process lives.
#[test]
fn dma_of_a_lost_device_does_not_end_with_its_process_of_a_set_that_is_given_up() {
    let mut world = running(false);
    fails(&mut world, VFIO1);
    assert!(world.machine.lost_devices().contains_key(&VFIO1));
    let ticket = world.command(Command::SaveRestore);
    world.settle();
    assert!(world.answers.contains_key(&ticket));
    assert_eq!(world.dma_ended, [], "its process is there, and its device with it");
}

#[test]
fn device_that_fails_while_the_vm_ends_is_no_loss_of_the_guest() {
    let mut world = running(false);
    world.happen(Event::Stop(Why::Asked));
    fails(&mut world, VFIO0);
    let timers: Vec<Timer> = world.timers.keys().copied().collect();
    timers.into_iter().for_each(|timer| world.run_out(timer));
    assert!(
        !world.notices.iter().any(|notice| matches!(notice, Notice::DeviceLost(..))),
        "{:?}",
        world.notices
    );
}
