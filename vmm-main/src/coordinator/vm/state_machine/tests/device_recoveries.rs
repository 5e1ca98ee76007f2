// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a device whose processes die: both come back from what they left, or the device is lost.

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::world::{NVME0, SMMU0, VCPU, VFIO0, World};
use crate::coordinator::vm::action::{LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{Command, LifeId};
use crate::lifecycle::Phase;

/// The guest runs on a device whose processes come back.
fn running_with_restarts() -> World {
    let mut world = World::with_restarts();
    world.settle();
    world.requests.clear();
    world
}

pub fn at(generation: u32, instance: InstanceId) -> LifeId {
    LifeId { generation, instance }
}

/// The guest is in `phase` with everyone, the processes of the device in this life.
fn assert_device_is_back(world: &World, phase: &Phase, generation: u32) {
    let state = if *phase == Phase::Paused { State::Paused } else { State::Running };
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (phase, true));
    assert_eq!([VFIO0, NVME0].map(|it| world.life(it)), [at(generation, VFIO0), at(generation, NVME0)]);
    assert_eq!(world.processes.len(), 5, "{:?}", world.processes);
    assert!(world.processes.values().all(|process| process.state == state), "{:?}", world.processes);
    assert!(world.machine.lost_devices().is_empty());
}

#[test]
fn device_of_which_a_process_dies_comes_back_with_both_of_them_and_the_cpus_are_rewired_last() {
    for instance in [NVME0, VFIO0] {
        let mut world = running_with_restarts();
        world.depart(world.life(instance), true);
        let other = if instance == NVME0 { VFIO0 } else { NVME0 };
        assert!(world.processes[&at(1, other)].ending.is_some(), "they share a session");
        world.settle();
        assert_device_is_back(&world, &Phase::Running, 2);
        let orders = |order: RequestKind| {
            let all = world.requests.iter().enumerate();
            all.filter(move |(_, (_, asked))| *asked == order).map(|(place, (life, _))| (place, *life))
        };
        let place = |order, life| orders(order).find(|(_, asked)| *asked == life).unwrap().0;
        let smmu_knows = place(RequestKind::Replay, at(1, SMMU0));
        assert!(
            place(RequestKind::Rewire(at(2, VFIO0)), at(1, SMMU0)) < place(RequestKind::Arm, at(2, VFIO0))
        );
        assert!(
            place(RequestKind::Arm, at(2, VFIO0)) < smmu_knows,
            "its stream is attached when it is there"
        );
        assert!(smmu_knows < place(RequestKind::Go, at(2, NVME0)), "and before it does any DMA");
        assert!(place(RequestKind::Go, at(2, NVME0)) < place(RequestKind::Go, at(2, VFIO0)));
        assert!(place(RequestKind::Go, at(2, VFIO0)) < place(RequestKind::Rewire(at(2, VFIO0)), at(1, VCPU)));
        assert_eq!(world.dma_ended, [(at(1, SMMU0), VFIO0)], "what waited for the life before waits no more");
        let deaths = &world.machine.deaths()[&instance];
        assert_eq!((deaths.count, world.machine.deaths().len()), (1, 1), "one died, the other was ended");
    }
}

#[test]
fn device_that_dies_while_the_guest_is_paused_or_is_to_be_comes_back_and_holds_still() {
    let mut world = running_with_restarts();
    world.command(Command::Pause);
    world.settle();
    world.depart(world.life(NVME0), true);
    world.settle();
    assert_device_is_back(&world, &Phase::Paused, 2);
    // A CPU waits for the device, and its process cannot answer before that is back.
    let mut world = running_with_restarts();
    let ticket = world.command(Command::Pause);
    world.depart(world.life(VFIO0), true);
    for _ in 0..40 {
        assert_eq!(world.processes[&at(1, VCPU)].open, Some(RequestKind::Pause));
        let all: Vec<LifeId> = world.processes.keys().copied().filter(|life| life.instance != VCPU).collect();
        for life in all {
            if world.processes.get(&life).is_some_and(|it| it.ending.is_some()) {
                world.depart(life, true);
            }
            world.fulfil(life);
            world.tell_of_device(life, false);
        }
    }
    assert_eq!(world.processes[&at(2, VFIO0)].state, State::Running, "the CPU is answered");
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::In(Phase::Paused)));
    assert_device_is_back(&world, &Phase::Paused, 2);
}

#[test]
fn vsmmu_and_device_that_die_together_or_one_in_the_gap_of_the_other_come_back_together() {
    for (first, then) in [(NVME0, SMMU0), (SMMU0, VFIO0), (VFIO0, SMMU0), (NVME0, NVME0)] {
        for order in [
            None,
            Some(RequestKind::Load(LoadSource::Checkpoint)),
            Some(RequestKind::Arm),
            Some(RequestKind::Go),
        ] {
            let mut world = running_with_restarts();
            world.depart(world.life(first), true);
            order.into_iter().for_each(|order| _ = world.until_open(order));
            let second = world.processes.keys().copied().filter(|life| life.instance == then).max();
            second.into_iter().for_each(|life| world.depart_as(life, true, true));
            world.settle();
            let generation = world.life(if first == SMMU0 { SMMU0 } else { VFIO0 }).generation;
            assert!((2..=3).contains(&generation), "{first} {then} {order:?}");
            let all = [VFIO0, NVME0].map(|it| world.life(it).generation);
            assert_eq!(all[0], all[1], "{first} {then} {order:?}");
            assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 5));
            assert!(
                world.machine.is_idle() && world.machine.lost_devices().is_empty(),
                "{first} {then} {order:?}"
            );
        }
    }
}

#[test]
fn process_that_dies_while_the_next_life_of_another_begins_comes_back_behind_that() {
    for (asked, dies) in [(SMMU0, NVME0), (SMMU0, VFIO0), (NVME0, SMMU0), (SMMU0, SMMU0), (NVME0, VFIO0)] {
        for is_retired in [false, true] {
            let mut world = running_with_restarts();
            let ticket = world.command(Command::Restart(asked.to_string()));
            world.until(|world| (world.life(asked).generation == 2).then_some(()));
            if is_retired {
                let old = world.processes.iter().filter(|(_, it)| it.ending.is_some()).map(|(life, _)| *life);
                old.collect::<Vec<_>>().into_iter().for_each(|life| world.depart(life, true));
                assert!(world.processes.values().any(|process| process.open == Some(RequestKind::Go)));
            }
            world.depart(world.life(dies), true);
            world.settle();
            let what = format!("{asked} {dies} {is_retired}");
            assert!(
                matches!(world.answers[&ticket], Ok(Success::Restarted(..))),
                "{what}: {:?}",
                world.answers
            );
            assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true), "{what}");
            assert!(world.machine.lost_devices().is_empty(), "{what}: {:?}", world.machine.lost_devices());
            let same = asked == dies || (asked, dies) == (NVME0, VFIO0);
            let generations = (world.life(asked).generation, world.life(dies).generation);
            assert_eq!(generations, (if same { 3 } else { 2 }, 3), "{what}");
        }
    }
}

/// Found when this life is asked to load from there.
fn loads(life: LifeId, from: LoadSource) -> impl Fn(&World) -> Option<()> {
    move |world| (world.processes.get(&life)?.open == Some(RequestKind::Load(from))).then_some(())
}

#[test]
fn controller_whose_next_lives_die_on_its_checkpoint_begins_as_one_that_failed() {
    let mut world = World::with_restarts_up_to(10);
    world.settle();
    world.depart(world.life(NVME0), true);
    for generation in 2..5 {
        let next = at(generation, NVME0);
        world.until(loads(next, LoadSource::Checkpoint));
        world.depart(next, true);
    }
    let next = at(5, NVME0);
    world.until(loads(next, LoadSource::Failed));
    let front = loads(at(5, VFIO0), LoadSource::Checkpoint);
    assert_eq!(front(&world), Some(()), "what it serves goes on as it was");
    world.settle();
    assert_device_is_back(&world, &Phase::Running, 5);
    // It has a checkpoint of its own now.
    world.depart(next, true);
    world.until(loads(at(6, NVME0), LoadSource::Checkpoint));
    // Of the process in front of it there is nothing that a guest could reset.
    for generation in 6..9 {
        world.until(loads(at(generation, VFIO0), LoadSource::Checkpoint));
        world.depart(at(generation, VFIO0), true);
    }
    world.until(loads(at(9, VFIO0), LoadSource::Checkpoint));
}

#[test]
fn guest_that_is_held_for_a_controller_that_dies_on_its_checkpoint_goes_on_by_orders() {
    let mut world = World::with_restarts_up_to(1);
    world.settle();
    world.depart(world.life(NVME0), true);
    let mut tickets = Vec::new();
    for generation in 2..5 {
        world.until(loads(at(generation, NVME0), LoadSource::Checkpoint));
        world.depart(at(generation, NVME0), true);
        world.settle();
        assert_eq!(world.machine.phase(), &Phase::Held);
        tickets.push(world.command(Command::Restart("nvme0".to_owned())));
    }
    world.until(loads(at(5, NVME0), LoadSource::Failed));
    world.settle();
    assert_device_is_back(&world, &Phase::Running, 5);
    let are_obeyed: Vec<bool> = tickets.iter().map(|ticket| world.answers[ticket].is_ok()).collect();
    assert_eq!(are_obeyed, [false, false, true]);
}

#[test]
fn process_that_is_ended_with_the_one_that_died_and_cannot_be_killed_ends_the_vm() {
    for (died, other) in [(NVME0, VFIO0), (VFIO0, NVME0)] {
        let mut world = running_with_restarts();
        world.depart(world.life(died), true);
        world.depart(world.life(other), false);
        world.settle();
        let Phase::Stopped { why } = world.machine.phase() else { panic!("{}", world.machine.phase()) };
        assert!(why.problem().unwrap().what.contains(&format!("{other} cannot be killed")), "{why:?}");
    }
}

#[test]
fn server_of_a_device_that_was_lost_at_the_start_is_followed_by_none() {
    let mut world = World::with_restarts();
    world.until(|world| world.processes.get(&at(1, VFIO0)).map(drop));
    world.depart(at(1, VFIO0), true);
    world.settle();
    assert!(world.machine.lost_devices().contains_key(&VFIO0));
    world.depart(at(1, NVME0), true);
    world.settle();
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
    assert_eq!(world.processes.keys().filter(|life| life.generation != 1).count(), 0);
}

#[test]
fn device_that_refuses_to_come_back_is_lost_and_the_guest_goes_on() {
    let is_lost = |world: &World, why: &str| {
        assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
        let reason = &world.machine.lost_devices()[&VFIO0];
        assert!(reason.contains(why), "{reason}");
        assert_eq!(world.processes.len(), 3, "both of its processes are ended: {:?}", world.processes);
        let smmu = world.life(SMMU0);
        assert!(world.dma_ended.contains(&(smmu, VFIO0)), "{:?}", world.dma_ended);
        assert_eq!(world.machine.lost_devices().len(), 1);
    };
    for (instance, order) in [(NVME0, RequestKind::Load(LoadSource::Checkpoint)), (VFIO0, RequestKind::Arm)] {
        let mut world = running_with_restarts();
        world.depart(world.life(NVME0), true);
        world.until(|world| (world.processes.get(&at(2, instance))?.open == Some(order)).then_some(()));
        world.refuse(at(2, instance));
        world.settle();
        is_lost(&world, "its next life cannot go on");
    }
    // Its peers cannot reach it, or its device cannot be opened.
    for peer in [SMMU0, VCPU] {
        let mut world = running_with_restarts();
        world.depart(world.life(VFIO0), true);
        let order = RequestKind::Rewire(at(2, VFIO0));
        world.until(|world| (world.processes.get(&at(1, peer))?.open == Some(order)).then_some(()));
        world.refuse(at(1, peer));
        world.settle();
        is_lost(&world, "cannot be reached");
    }
}
