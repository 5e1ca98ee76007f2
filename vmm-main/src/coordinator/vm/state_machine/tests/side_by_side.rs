// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several devices whose processes come back at once do each of their steps side by side: the guest waits for the
//! slowest, and never for their sum. Shown by the order of events: nobody is through a step before all have been asked.

use ipc::hello::Role;
use ipc::instance::InstanceId;

use super::shape::{disks, of_disks};
use super::world::World;
use crate::coordinator::vm::action::{LoadSource, RequestKind};
use crate::coordinator::vm::event::{Event, LifeId};
use crate::lifecycle::Phase;

const LOAD: RequestKind = RequestKind::Load(LoadSource::Checkpoint);

fn running(count: usize) -> World {
    let mut world = World::with(disks(count), Event::Boot);
    world.settle();
    assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 2 + 2 * count));
    world.requests.clear();
    world
}

/// The controllers of these disks die.
fn die(world: &mut World, numbers: std::ops::Range<u8>) {
    for number in numbers {
        let controller = InstanceId::new(Role::Nvme, number);
        let life = world.processes.keys().copied().filter(|life| life.instance == controller).max().unwrap();
        world.depart_as(life, true, true);
    }
}

/// Everybody does what was ordered, but for this request, until nothing else is left to be done. Returns who has it
/// open then.
fn all_but(world: &mut World, held_up: RequestKind) -> Vec<LifeId> {
    let is_open = |world: &World, life: LifeId| {
        world.processes.get(&life).is_some_and(|process| process.open == Some(held_up))
    };
    for _ in 0..100 {
        for life in world.processes.keys().copied().collect::<Vec<_>>() {
            if world.processes.get(&life).is_some_and(|process| process.ending.is_some()) {
                world.depart(life, true);
            } else if !is_open(world, life) {
                world.fulfil(life);
                world.tell_of_device(life, false);
            }
        }
    }
    world.processes.keys().copied().filter(|life| is_open(world, *life)).collect()
}

fn instances(lives: &[LifeId]) -> Vec<InstanceId> {
    let mut all: Vec<InstanceId> = lives.iter().map(|life| life.instance).collect();
    all.sort_unstable();
    all
}

fn sorted(mut all: Vec<InstanceId>) -> Vec<InstanceId> {
    all.sort_unstable();
    all
}

#[test]
fn each_step_of_devices_that_die_together_is_open_in_all_of_them_before_it_is_done_in_any() {
    for count in [1, 4] {
        let both = of_disks(count);
        let of = |role: Role| both.iter().copied().filter(|it| it.role == role).collect::<Vec<_>>();
        // Arm and Go go by tiers: a server is there before its client.
        for (step, expected) in [
            (RequestKind::Configure, both.clone()),
            (LOAD, both.clone()),
            (RequestKind::Arm, of(Role::Nvme)),
            (RequestKind::Replay, both.clone()),
            (RequestKind::Go, of(Role::Nvme)),
        ] {
            let mut world = running(count);
            die(&mut world, 0..u8::try_from(count).unwrap());
            let open = all_but(&mut world, step);
            let open: Vec<LifeId> = open.into_iter().filter(|life| life.generation > 1).collect();
            assert_eq!(instances(&open), sorted(expected), "{step:?} of {count}");
            world.settle();
            assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 2 + 2 * count));
            assert!(world.machine.is_idle() && world.machine.lost_devices().is_empty());
        }
    }
}

#[test]
fn device_that_dies_while_others_load_joins_them_and_all_load_side_by_side_once_more() {
    let mut world = running(4);
    die(&mut world, 0..2);
    let before = all_but(&mut world, LOAD);
    assert_eq!(instances(&before), sorted(of_disks(2)));
    die(&mut world, 2..4);
    // Who was held up in the life before is ended with it.
    let open: Vec<LifeId> =
        all_but(&mut world, LOAD).into_iter().filter(|life| !before.contains(life)).collect();
    assert_eq!(instances(&open), sorted(of_disks(4)));
    world.settle();
    assert_eq!((world.machine.phase(), world.processes.len()), (&Phase::Running, 10));
    assert!(world.machine.is_idle() && world.machine.lost_devices().is_empty());
}
