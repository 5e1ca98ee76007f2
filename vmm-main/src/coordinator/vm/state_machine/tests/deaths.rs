// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whichever of the processes that come back die, and whenever: the guest is whole at the end.

use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;
use proptest::prelude::*;

use super::world::{NVME0, SMMU0, VFIO0, World};
use crate::coordinator::vm::action::Success;
use crate::coordinator::vm::event::{Command, LifeId, Timer};
use crate::lifecycle::Phase;

/// The guest is in `phase` with everyone, and with one life of the device's two processes.
pub fn assert_whole(world: &World, phase: &Phase) {
    let state = if *phase == Phase::Paused { State::Paused } else { State::Running };
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (phase, true), "{:?}", world.machine);
    assert_eq!(world.processes.len(), 5, "{:?}", world.processes);
    assert!(world.processes.values().all(|process| process.state == state), "{:?}", world.processes);
    assert!(world.processes.keys().all(|life| world.life(life.instance) == *life));
    assert_eq!(world.life(VFIO0).generation, world.life(NVME0).generation);
    assert!(world.machine.lost_devices().is_empty(), "{:?}", world.machine.lost_devices());
}

/// A command that a death may come into the middle of; none beyond the last.
pub fn any_command(choice: usize) -> Option<Command> {
    let commands = [
        Command::Pause,
        Command::SaveRestore,
        Command::Restart("smmu0".to_owned()),
        Command::Restart("nvme0".to_owned()),
        Command::DirtyRate(Duration::from_secs(1)),
    ];
    commands.into_iter().nth(choice)
}

/// One of those that have something to do does it: which one says the number.
pub fn turn_of(world: &mut World, pick: usize) {
    let lives: Vec<LifeId> = world.processes.keys().copied().collect();
    let life = lives[pick % lives.len()];
    match pick {
        0..3 => world.serve(),
        _ if world.processes[&life].ending.is_some() => world.depart(life, true),
        _ => {
            world.fulfil(life);
            world.tell_of_device(life, false);
        }
    }
}

/// The life of this process that the guest lives with dies, if it has begun: one that has not, behind the commit of a
/// move, ends the VM.
fn dies(world: &mut World, victim: InstanceId) {
    let life = world.life(victim);
    let has_begun = world
        .processes
        .get(&life)
        .is_some_and(|it| matches!(it.state, State::Running | State::Paused) && it.ending.is_none());
    if has_begun && !world.machine.is_past_commit() {
        world.depart(life, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// The rules of [`super::world`] hold at each step, and each command is answered.
    #[test]
    fn guest_is_whole_whichever_processes_die_and_whenever(
        device_comes_back in any::<bool>(),
        command in 0..6_usize,
        deaths in prop::collection::vec((0..50_usize, prop::sample::select(vec![NVME0, VFIO0, SMMU0])), 1..=3),
        picks in prop::collection::vec(0..16_usize, 200),
    ) {
        let mut world = if device_comes_back { World::with_restarts() } else { World::new(false) };
        world.settle();
        let ticket = any_command(command).map(|command| world.command(command));
        let mut picks = picks.into_iter().cycle();
        for (moments, victim) in deaths {
            picks.by_ref().take(moments).for_each(|pick| turn_of(&mut world, pick));
            dies(&mut world, if device_comes_back { victim } else { SMMU0 });
        }
        world.settle();
        let timers: Vec<Timer> = world.timers.keys().copied().collect();
        let measuring = timers.into_iter().filter(|timer| matches!(timer, Timer::DirtyRate(_)));
        measuring.for_each(|timer| world.run_out(timer));
        world.settle();
        let phase = match ticket.map(|ticket| &world.answers[&ticket]) {
            Some(Ok(Success::In(phase))) => phase.clone(),
            _ => Phase::Running,
        };
        assert_whole(&world, &phase);
    }
}
