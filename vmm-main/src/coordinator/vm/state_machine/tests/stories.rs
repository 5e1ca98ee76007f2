// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Single stories: what is ordered, in which order, and what users are told.

use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;

use super::world::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, World};
use crate::coordinator::vm::action::{Ending, Notice, Order, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Timer};
use crate::lifecycle::{Phase, Why};

fn running(required: bool) -> World {
    let mut world = World::new(required);
    world.settle();
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
    world.orders.clear();
    world
}

/// Who was asked for this, in order.
fn asked(world: &World, order: Order) -> Vec<ipc::instance::InstanceId> {
    world.orders.iter().filter(|(_, given)| *given == order).map(|(life, _)| life.instance).collect()
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
    for instance in [SMMU0, NVME0, VFIO0, VFIO1] {
        world.fulfil(world.life(instance));
    }
    assert_eq!(asked(&world, Order::Start), [SMMU0, NVME0, VFIO0, VFIO1]);
    world.tell_of_device(world.life(VFIO0), false);
    assert!(!asked(&world, Order::Start).contains(&VCPU), "a device is being opened");
    world.run_out(Timer::DeviceOutcome(world.life(VFIO1)));
    let said = &world.processes[&world.life(VFIO1)].ending;
    assert_eq!(*said, Some(Ending::Failed("it does not say what became of its device".into())));
    world.depart(world.life(VFIO1), true);
    world.fulfil(world.life(VCPU));
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
    for instance in [SMMU0, NVME0, VFIO0, VFIO1] {
        world.fulfil(world.life(instance));
    }
    world.tell_of_device(world.life(VFIO0), false);
    world.tell_of_device(world.life(VFIO1), true);
    world.settle();
    assert!(asked(&world, Order::Start).iter().all(|instance| *instance != VCPU));
    let Phase::Stopped { why: Why::Failed { problem, .. } } = world.machine.phase() else { panic!() };
    assert!(problem.what.starts_with("the device vfio1 is lost: "), "{problem}");
}

#[test]
fn pause_goes_tier_by_tier_and_resume_the_other_way() {
    let mut world = running(false);
    let paused = world.command(Command::Pause);
    world.settle();
    assert_eq!(asked(&world, Order::Pause), [VCPU, VFIO0, VFIO1, NVME0, SMMU0]);
    assert_eq!(world.answers[&paused], Ok(Success::In(Phase::Paused)));
    world.command(Command::Resume);
    world.settle();
    assert_eq!(asked(&world, Order::Resume), [SMMU0, NVME0, VFIO0, VFIO1, VCPU]);
}

#[test]
fn pause_that_the_cpus_refuse_is_undone() {
    let mut world = running(false);
    let ticket = world.command(Command::Pause);
    world.refuse(world.life(VCPU));
    // Its word that it is as it was is not relied on.
    assert_eq!(world.orders.last(), Some(&(world.life(VCPU), Order::Resume)));
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
    assert!(world.answers[&ticket].is_err() && asked(&world, Order::Resume).iter().all(|who| *who != VCPU));
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
fn save_restore_begins_the_new_set_only_when_the_old_one_is_paused_and_ends_the_old_one_after() {
    let mut world = running(false);
    let ticket = world.command(Command::SaveRestore);
    world.settle();
    let Ok(Success::Moved(2, units)) = &world.answers[&ticket] else { panic!("{:?}", world.answers) };
    assert_eq!(units.len(), 5);
    let first = |order: Order, generation: u32| {
        world
            .orders
            .iter()
            .position(|(life, given)| *given == order && life.generation == generation)
            .unwrap()
    };
    assert!(first(Order::Configure, 2) < first(Order::Pause, 1));
    assert!(
        first(Order::Pause, 1) < first(Order::Save, 1) && first(Order::Save, 1) < first(Order::Restore, 2)
    );
    assert!(first(Order::Restore, 2) < first(Order::Start, 2));
    assert_eq!((world.machine.generation(), world.processes.len()), (2, 5));
}

#[test]
fn save_restore_whose_new_process_dies_leaves_the_guest_where_it_was() {
    for (deaths_after, phase) in [(3, Phase::Running), (30, Phase::Paused)] {
        let mut world = running(false);
        let ticket = world.command(Command::SaveRestore);
        world.serve();
        for _ in 0..deaths_after {
            let next = world.processes.iter().find(|(_, it)| !it.greeted || it.open.is_some());
            let Some(life) = next.map(|(life, _)| *life) else { break };
            if world.orders.last().is_some_and(|(_, order)| *order == Order::Restore) {
                break;
            }
            world.fulfil(life);
        }
        let new = world.processes.keys().copied().find(|life| life.generation == 2).unwrap();
        world.depart(new, true);
        world.settle();
        let problem = world.answers[&ticket].as_ref().unwrap_err();
        assert_eq!((world.machine.phase(), world.machine.generation()), (&phase, 1), "{problem}");
        assert!(problem.advice.ends_with(&format!("; the guest is {phase}")), "{problem}");
        assert!(world.processes.keys().all(|life| life.generation == 1) && world.processes.len() == 5);
    }
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
