// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any order of events: the rules of [`super::world`] hold at each step, a request to stop always ends in `stopped`,
//! and every command is answered once.

use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;
use ipc::protocol::probe::Probe;
use proptest::prelude::*;
use std::time::Duration;

use super::migrations::migrate;
use super::world::{DEATHS_MAX, NVME0, SMMU0, VCPU, VFIO0, VFIO1, World, problem, restart_group};
use crate::coordinator::vm::action::{MigrationAction, RequestKind};
use crate::coordinator::vm::event::{Command, Event, LifeId, MigrationEvent, ProcessEvent, Timer};
use crate::coordinator::vm::state_machine::Operation;
use crate::lifecycle::{Phase, Why};
use crate::migration::message::Message;
use crate::system::MOVER;

/// What may happen next; the number chooses among what there is.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Fulfil(usize),
    Refuse(usize),
    Device(usize, bool),
    Depart(usize, bool),
    NotStarted(usize),
    Report(usize, u8),
    /// A life that is over, or never was, says something.
    Stale(u32, u8),
    Serve,
    ServeBadly,
    Timer(usize),
    Command(u8),
    /// The other host, the link, or a person does something.
    Migration(u8),
    Stop,
    Settle,
}

fn chance() -> impl Strategy<Value = Chance> {
    let any_process = 0usize..8;
    prop_oneof![
        30 => any_process.clone().prop_map(Chance::Fulfil),
        2 => any_process.clone().prop_map(Chance::Refuse),
        6 => (any_process.clone(), any::<bool>()).prop_map(|(process, failed)| Chance::Device(process, failed)),
        4 => (any_process.clone(), prop::bool::weighted(0.9)).prop_map(|(process, reaped)| Chance::Depart(process, reaped)),
        1 => any_process.clone().prop_map(Chance::NotStarted),
        2 => (any_process, any::<u8>()).prop_map(|(process, report)| Chance::Report(process, report)),
        1 => (0u32..4, any::<u8>()).prop_map(|(generation, report)| Chance::Stale(generation, report)),
        6 => Just(Chance::Serve),
        1 => Just(Chance::ServeBadly),
        2 => (0usize..8).prop_map(Chance::Timer),
        6 => any::<u8>().prop_map(Chance::Command),
        2 => any::<u8>().prop_map(Chance::Migration),
        1 => Just(Chance::Stop),
        8 => Just(Chance::Settle),
    ]
}

fn report(choice: u8) -> Report {
    let named = |name: &str| Report::PeerFailed { name: name.to_owned(), why: "test".to_owned() };
    match choice % 11 {
        0 => Report::GuestPoweredOff,
        1 | 2 => Report::GuestReset,
        3 => Report::Sealed(vec![]),
        4 => Report::Fatal("test".into()),
        5 => named("vfio0"),
        6 => named("nobody"),
        7 => Report::DeviceOpened,
        8 => Report::DeviceFailed("test".into()),
        9 => Report::Unmapped { name: "vfio1".to_owned() },
        _ => named("nvme0"),
    }
}

fn command(choice: u8) -> Command {
    match choice % 14 {
        0 | 1 => Command::Pause,
        2 | 3 => Command::Resume,
        4 => Command::SaveRestore,
        5 => Command::DirtyRate(Duration::from_secs(1)),
        6 | 7 => Command::Restart("smmu0".to_owned()),
        8 => Command::Restart("nvme0".to_owned()),
        9 => Command::Restart("vfio0".to_owned()),
        10 => Command::Restart("vfio1".to_owned()),
        11 | 12 => migrate(),
        _ => Command::Probe("smmu0".to_owned(), Probe::Open),
    }
}

fn step(world: &mut World, chance: Chance) {
    let lives: Vec<LifeId> = world.processes.keys().copied().collect();
    let chosen = |index: usize| lives.get(index % lives.len().max(1)).copied();
    match chance {
        Chance::Fulfil(index) => chosen(index).into_iter().for_each(|life| world.fulfil(life)),
        Chance::Refuse(index) => chosen(index).into_iter().for_each(|life| world.refuse(life)),
        Chance::Device(index, failed) => {
            chosen(index).into_iter().for_each(|life| world.tell_of_device(life, failed));
        }
        Chance::Depart(index, reaped) => {
            // A process that nothing ends and nothing kills is there for ever; one that ends by itself is reaped.
            let life = chosen(index);
            let ordered =
                life.and_then(|life| world.processes.get(&life)).is_some_and(|it| it.ending.is_some());
            life.into_iter().for_each(|life| world.depart(life, reaped || !ordered));
        }
        Chance::NotStarted(index) => {
            let life = chosen(index).filter(|life| {
                let process = &world.processes[life];
                !process.greeted && process.ending.is_none()
            });
            if let Some(life) = life {
                world.processes.remove(&life);
                world.process(life, ProcessEvent::NotStarted(problem("not started")));
            }
        }
        Chance::Report(index, choice) => {
            if let Some(life) = chosen(index).filter(|life| world.processes[life].greeted) {
                world.process(life, ProcessEvent::Reported(report(choice)));
            }
        }
        Chance::Stale(generation, choice) => {
            let life = LifeId { generation, instance: VCPU };
            if !world.processes.contains_key(&life) {
                let before = (world.machine.phase().clone(), world.requests.len());
                world.process(life, ProcessEvent::Reported(report(choice)));
                assert_eq!(before, (world.machine.phase().clone(), world.requests.len()), "it is not heard");
            }
        }
        Chance::Serve => world.serve(),
        Chance::ServeBadly => {
            if world.prepares > 0 {
                world.prepares -= 1;
                world.happen(Event::Prepared(Err(problem("not prepared"))));
            } else if world.logs > 0 {
                world.logs -= 1;
                world.happen(Event::DirtyLogsOpened(Err(problem("not mapped"))));
            } else if matches!(world.migration.actions.front(), Some(MigrationAction::LockDisks)) {
                world.migration.actions.pop_front();
                world.happen(Event::Migration(MigrationEvent::DisksLocked(Err(problem("in use")))));
            }
        }
        Chance::Timer(index) => {
            let timers: Vec<Timer> = world.timers.keys().copied().collect();
            timers.get(index).into_iter().for_each(|timer| world.run_out(*timer));
        }
        Chance::Command(choice) => drop(world.command(command(choice))),
        Chance::Migration(choice) => migration(world, choice),
        Chance::Stop => world.happen(Event::Stop(Why::Asked)),
        Chance::Settle if !world.released => world.settle(),
        Chance::Settle => {}
    }
}

/// The other host may say anything, at any time; only `Commit` is a destination's to hear.
fn migration(world: &mut World, choice: u8) {
    match choice % 9 {
        0 => world.lose_link(),
        1 => world.hear(Message::Failed("no".to_owned())),
        2 => world.hear(Message::Running),
        3 => world.hear(Message::Ready),
        4 => world.hear(Message::Offer(vec![])),
        5 => world.hear(Message::Last { units: vec![], digest: [0; 32] }),
        6 => world.hear(Message::Known),
        7 => {
            world.cancel_migration();
        }
        _ => {
            world.resolve_migration(choice % 16 < 8, choice % 32 < 16);
        }
    }
}

/// A loss has been decided about: the VM ends, the device is lost, or all are being ended for a reset.
fn decided(world: &World, life: LifeId) -> bool {
    if life.instance == MOVER {
        return true;
    }
    // Of a guest that has not come there is nothing to lose yet.
    if matches!(world.machine.operation, Operation::Incoming(_)) {
        return true;
    }
    if life.instance == SMMU0 && world.machine.recovery.is_some() {
        return true;
    }
    let ends = [VCPU, SMMU0].contains(&life.instance);
    let device = if life.instance == NVME0 { VFIO0 } else { life.instance };
    match world.machine.phase() {
        Phase::Created if matches!(world.machine.operation, Operation::Reset(_)) => true,
        Phase::Stopping | Phase::Stopped { .. } => true,
        _ => !ends && world.machine.lost_devices().contains_key(&device),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn machine_obeys_its_rules_in_any_order_of_events(
        required in any::<bool>(),
        kind in 0..4,
        chances in prop::collection::vec(chance(), 0..120),
    ) {
        let mut world = match kind {
            0 => World::new(required),
            1 => World::with_restarts(),
            2 => World::with_physical_device(None),
            _ => World::with_physical_device(Some(DEATHS_MAX)),
        };
        for chance in chances {
            step(&mut world, chance);
        }
        // A request to stop is obeyed at once, whatever is under way.
        world.happen(Event::Stop(Why::Asked));
        prop_assert!(["stopping", "stopped"].contains(&world.machine.phase().as_str()));
        prop_assert_eq!(world.asked.len(), world.answers.len(), "who waited is answered");
        if !world.released {
            world.settle();
        }
        let named = world.processes.keys().all(|life| world.machine.hanging().contains(&life.instance));
        prop_assert!(world.released && named, "who is left is named");
        let late = world.command(Command::Pause);
        prop_assert!(world.answers[&late].is_err());
    }

    /// The rules of [`super::migrating`] hold meanwhile: nothing works for the guest before `Commit`.
    #[test]
    fn machine_that_receives_obeys_its_rules_in_any_order_of_events(chances in prop::collection::vec(chance(), 0..120)) {
        let mut world = World::receiving();
        for chance in chances {
            step(&mut world, chance);
        }
        if !world.released {
            world.happen(Event::Stop(Why::Asked));
            world.settle();
        }
        prop_assert_eq!(world.asked.len(), world.answers.len(), "who waited is answered");
    }

    #[test]
    fn machine_ends_though_no_process_ever_does(chances in prop::collection::vec(chance(), 0..60)) {
        let mut world = World::new(false);
        for chance in chances {
            step(&mut world, chance);
        }
        world.happen(Event::Stop(Why::Asked));
        let left = world.processes.len();
        world.run_out(Timer::Stop);
        prop_assert!(world.released);
        prop_assert!(world.machine.hanging().len() >= left, "each that is left is named");
    }

    #[test]
    fn machine_decides_about_a_death_at_once_in_any_phase(
        chances in prop::collection::vec(chance(), 0..80),
        victim in 0usize..8,
    ) {
        let mut world = World::new(false);
        for chance in chances {
            step(&mut world, chance);
        }
        let lives: Vec<LifeId> = world.processes.keys().copied().collect();
        let chosen = lives.get(victim % lives.len().max(1)).copied();
        let current = chosen.filter(|life| world.machine.life_of(life.instance) == Some(*life));
        if let Some(life) = current.filter(|life| world.processes[life].ending.is_none()) {
            world.depart(life, true);
            prop_assert!(decided(&world, life), "{:?} of {:?}", life, world.machine);
        }
    }

    /// The rules of [`super::world`] hold meanwhile: no life of one set is let go while there is one of the other, and
    /// the commit comes when all of the old set is paused and all of the new one can begin.
    #[test]
    fn machine_whose_new_set_fails_before_the_commit_goes_on_as_it_was(
        chances in prop::collection::vec((0usize..16, 0u8..24), 0..160),
    ) {
        let mut world = World::new(false);
        world.settle();
        let ticket = world.command(Command::SaveRestore);
        for (index, choice) in chances {
            let is_moving = matches!(world.machine.operation, Operation::SaveRestore(_));
            if !is_moving || world.machine.generation() != 1 {
                break;
            }
            let lives: Vec<LifeId> = world.processes.keys().copied().collect();
            let life = lives[index % lives.len()];
            let is_new = life.generation == 2;
            match choice {
                0 if is_new => world.depart(life, true),
                1 if is_new => world.refuse(life),
                2 if is_new => world.tell_of_device(life, true),
                // One of the old set may refuse, and lives.
                3 if !is_new && world.processes[&life].open != Some(RequestKind::Resume) => world.refuse(life),
                4 if is_new && world.processes[&life].greeted => {
                    world.process(life, ProcessEvent::Reported(Report::Fatal("test".into())));
                }
                5..10 => world.serve(),
                10..14 => world.tell_of_device(life, false),
                _ if world.processes[&life].ending.is_some() => world.depart(life, true),
                _ => world.fulfil(life),
            }
        }
        world.settle();
        let generation = if world.answers[&ticket].is_ok() { 2 } else { 1 };
        prop_assert_eq!((world.machine.phase(), world.machine.generation()), (&Phase::Running, generation));
        prop_assert!(world.machine.lost_devices().is_empty(), "{:?}", world.machine.lost_devices());
        let all = world.processes.iter();
        let whole = all.filter(|(life, it)| life.generation == generation && it.state == State::Running);
        prop_assert_eq!((whole.count(), world.processes.len()), (5, 5), "all of the other set is reaped");
        if let Err(problem) = &world.answers[&ticket] {
            prop_assert!(problem.what.contains(" of "), "it names the step and the process: {}", problem);
        }
    }

    /// A death of any process at any stage of a restart is decided about at once, and what is left is one VM: with the
    /// next lives, with the old ones, or without the device.
    #[test]
    fn machine_decides_about_a_death_at_any_stage_of_a_restart(
        asked in prop::sample::select(vec![SMMU0, NVME0, VFIO0, VFIO1]),
        steps in 0usize..80,
        victim in 0usize..8,
        reaped in prop::bool::weighted(0.9),
    ) {
        let mut world = World::new(false);
        world.settle();
        let ticket = world.command(Command::Restart(asked.to_string()));
        for index in 0..steps {
            let lives: Vec<LifeId> = world.processes.keys().copied().collect();
            let life = lives[index % lives.len()];
            world.serve();
            world.tell_of_device(life, false);
            match world.processes.get(&life) {
                Some(it) if it.ending.is_some() => world.depart(life, true),
                _ => world.fulfil(life),
            }
        }
        let lives: Vec<LifeId> = world.processes.keys().copied().collect();
        let life = lives[victim % lives.len()];
        let was_ended = world.processes[&life].ending.is_some();
        let was_followed = world.machine.life_of(life.instance) == Some(life);
        world.depart(life, reaped || !was_ended);
        if was_followed && !was_ended {
            prop_assert!(decided(&world, life), "{:?} of {:?}", life, world.machine);
        }
        world.settle();
        prop_assert!(world.answers.contains_key(&ticket));
        if world.released {
            return Ok(());
        }
        prop_assert_eq!(world.machine.phase(), &Phase::Running);
        let members = restart_group(asked).unwrap().members;
        let generations = members.iter().filter_map(|member| world.machine.life_of(*member));
        let generations: std::collections::BTreeSet<u32> = generations.map(|life| life.generation).collect();
        prop_assert!(generations.len() <= 1, "old and next lives at once: {:?}", world.machine);
    }

    /// The same of single processes and what is started anew with them: whatever becomes of their next lives before the
    /// commit, and whoever refuses, the guest is with all of the next ones or all of the old ones at the end, and with
    /// everyone else as before.
    #[test]
    fn machine_whose_next_lives_fail_before_the_commit_goes_on_with_the_old_ones(
        asked in prop::sample::select(vec![SMMU0, NVME0, VFIO0, VFIO1]),
        chances in prop::collection::vec((0usize..16, 0u8..24), 0..120),
    ) {
        let mut world = World::new(false);
        world.settle();
        let old = world.life(asked);
        let ticket = world.command(Command::Restart(asked.to_string()));
        for (index, choice) in chances {
            let is_under_way = matches!(world.machine.operation, Operation::Restart(_));
            if !is_under_way || world.machine.life_of(asked) != Some(old) {
                break;
            }
            let lives: Vec<LifeId> = world.processes.keys().copied().collect();
            let life = lives[index % lives.len()];
            let is_new = life.generation == 2;
            match choice {
                0 if is_new => world.depart(life, true),
                1 if is_new => world.refuse(life),
                2 if !is_new && world.processes[&life].open != Some(RequestKind::Resume) => world.refuse(life),
                3 if is_new && world.processes[&life].greeted => {
                    world.process(life, ProcessEvent::Reported(Report::Fatal("test".into())));
                }
                4 if is_new => world.tell_of_device(life, true),
                5..10 => world.serve(),
                10..13 => world.tell_of_device(life, false),
                _ if world.processes[&life].ending.is_some() => world.depart(life, true),
                _ => world.fulfil(life),
            }
        }
        world.settle();
        let members = restart_group(asked).unwrap().members;
        for instance in [VCPU, VFIO0, VFIO1, NVME0, SMMU0] {
            let is_next = world.answers[&ticket].is_ok() && members.contains(&instance);
            prop_assert_eq!(world.life(instance).generation, if is_next { 2 } else { 1 });
        }
        prop_assert_eq!((world.machine.phase(), world.machine.generation()), (&Phase::Running, 1));
        prop_assert!(world.machine.lost_devices().is_empty(), "{:?}", world.machine.lost_devices());
        let running = world.processes.values().filter(|it| it.state == State::Running);
        prop_assert_eq!((running.count(), world.processes.len()), (5, 5), "the other lives are reaped");
        if let Err(problem) = &world.answers[&ticket] {
            prop_assert!(problem.what.contains(" of "), "it names the step and the process: {}", problem);
        }
    }
}
