// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shipped machine in every order of events that there is, with processes that die at every step: exhaustively, of
//! a VM with the CPUs, the vSMMU and one disk, from the moment that its guest runs, up to so many failures.
//!
//! The rules of [`super::world`] hold at each step: one life of an instance at a time, no request to a life that is
//! gone, each command answered once, the life before reaped before the next one is started, the end of DMA told when
//! its process is reaped only. Beside them are those of a state, below. Every step uses something up, so each path has
//! an end: where nothing can happen any more, the VM is at rest.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};

use ipc::hello::Role;
use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;
use stateright::{Checker, Model, Property};

use super::shape::{NVME0, SMMU0, VCPU, VFIO0, VFIO1, plan};
use super::world::World;
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Timer};
use crate::coordinator::vm::plan::Plan;
use crate::coordinator::vm::state_machine::recovery::Recovery;
use crate::lifecycle::{Phase, Why};

/// How many deaths within a minute are followed by another life: a second one holds the guest.
const DEATHS_MAX: u32 = 1;

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A process greets, or does what it was asked.
    Obeys(LifeId),
    /// It says that its device is open.
    Opens(LifeId),
    /// One that was ended is gone.
    IsGone(LifeId),
    /// What the driver was to prepare is there.
    Served,
    /// A client asks for something; with a number of [`COMMANDS`].
    Asks(usize),
    /// A person orders the next lives.
    Orders,
    /// A process dies, as soon as it is reaped.
    Dies(LifeId),
    /// It refuses what it was asked.
    Refuses(LifeId),
    /// It says that its device has failed.
    Fails(LifeId),
    /// A death was a minute ago.
    Forgotten(Timer),
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    /// Deaths.
    deaths: u8,
    /// Refusals, and devices that fail.
    refusals: u8,
    commands: u8,
    orders: u8,
    forgotten: u8,
}

/// A state, by what decides about what follows.
#[derive(Clone)]
struct Supervised {
    world: World,
    left: Left,
    print: u64,
}

/// The VM.
struct Bound {
    left: Left,
}

const COMMANDS: [fn() -> Command; 3] =
    [|| Command::Pause, || Command::Restart("nvme0".to_owned()), || Command::SaveRestore];

/// Takes what is formatted into a hash.
struct Printed(DefaultHasher);

impl fmt::Write for Printed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Supervised {
    fn new(mut world: World, left: Left) -> Self {
        // What has been said decides nothing.
        world.notices.clear();
        world.requests.clear();
        world.dma_ended.clear();
        let mut printed = Printed(DefaultHasher::new());
        let machine = &world.machine;
        let operation = (&machine.phase, &machine.operation, &machine.recovery, &machine.answered_early);
        let lives = (&machine.lives, &machine.deaths, machine.generation, machine.last_generation);
        let devices = (&machine.lost_devices, &machine.dma_ended, &machine.failing_devices);
        let outside = (
            &world.processes,
            &world.timers,
            &world.begun,
            &world.unattached,
            world.prepares,
            &world.answers,
        );
        write!(printed, "{operation:?}{lives:?}{devices:?}{outside:?}{left:?}").unwrap();
        Self { print: printed.0.finish(), world, left }
    }

    /// What can happen now.
    fn steps(&self) -> Vec<Step> {
        let Self { world, left, .. } = self;
        let mut steps = Vec::new();
        if world.released {
            return steps;
        }
        for (life, process) in &world.processes {
            if process.ending.is_some() {
                steps.push(Step::IsGone(*life));
                continue;
            }
            if !process.greeted || process.open.is_some() {
                steps.push(Step::Obeys(*life));
            }
            if life.instance.role == Role::Vfio && process.state == State::Armed && !process.told_of_device {
                steps.push(Step::Opens(*life));
                steps.extend((left.refusals > 0).then_some(Step::Fails(*life)));
            }
            steps.extend((left.refusals > 0 && process.open.is_some()).then_some(Step::Refuses(*life)));
            steps.extend((left.deaths > 0 && life.instance != VCPU).then_some(Step::Dies(*life)));
        }
        steps.extend((world.prepares > 0).then_some(Step::Served));
        if left.commands > 0 && world.machine.is_idle() {
            steps.extend((0..COMMANDS.len()).map(Step::Asks));
        }
        steps.extend((left.orders > 0 && world.machine.missing().next().is_some()).then_some(Step::Orders));
        if left.forgotten > 0 {
            let deaths = world.timers.keys().filter(|timer| matches!(timer, Timer::DeathForgotten(..)));
            steps.extend(deaths.map(|timer| Step::Forgotten(*timer)));
        }
        steps
    }

    fn after(&self, step: Step) -> Self {
        let Self { mut world, mut left, .. } = self.clone();
        match step {
            Step::Obeys(life) => world.fulfil(life),
            Step::Opens(life) => world.tell_of_device(life, false),
            Step::IsGone(life) => world.depart(life, true),
            Step::Served => world.serve(),
            Step::Asks(command) => {
                left.commands -= 1;
                world.command(COMMANDS[command]());
            }
            Step::Orders => {
                left.orders -= 1;
                let missing = world.machine.missing().next().map(|missing| missing.to_string());
                missing.into_iter().for_each(|missing| _ = world.command(Command::Restart(missing)));
            }
            Step::Dies(life) => {
                left.deaths -= 1;
                world.depart(life, true);
            }
            Step::Refuses(life) => {
                left.refusals -= 1;
                world.refuse(life);
            }
            Step::Fails(life) => {
                left.refusals -= 1;
                world.processes.get_mut(&life).unwrap().told_of_device = true;
                let failed = Report::DeviceFailed("test".to_owned());
                world.process(life, ProcessEvent::Reported(failed));
                // Its server's end is seen, or the time for that is over.
                world.run_out(Timer::ServerEnd(life));
            }
            Step::Forgotten(timer) => {
                left.forgotten -= 1;
                world.run_out(timer);
            }
        }
        Self::new(world, left)
    }

    /// Nothing is missing, or what is missing waits for an order, or it is over.
    fn is_at_rest(&self) -> bool {
        let machine = &self.world.machine;
        match machine.phase() {
            Phase::Running | Phase::Paused => {
                machine.is_idle() && self.world.processes.values().all(|process| !process.is_held)
            }
            Phase::Held => machine.missing().next().is_some(),
            Phase::Stopped { .. } => self.world.released,
            Phase::Created | Phase::Stopping => false,
        }
    }

    /// Whoever has asked is answered, but for what is under way.
    fn all_are_answered(&self) -> bool {
        self.world.asked.len() == self.world.answers.len()
    }

    /// An order to stop is obeyed at once, and ends in the end of every process.
    fn stops(&self) -> bool {
        let mut world = self.world.clone();
        if world.released {
            return true;
        }
        world.happen(Event::Stop(Why::Asked));
        let is_begun = ["stopping", "stopped"].contains(&world.machine.phase().as_str());
        let is_answered = world.asked.len() == world.answers.len();
        for _ in 0..world.processes.len() {
            let ending = world.processes.iter().find(|(_, process)| process.ending.is_some());
            let ending = ending.map(|(life, _)| *life);
            ending.into_iter().for_each(|life| world.depart(life, true));
        }
        is_begun && is_answered && world.released && world.processes.is_empty()
    }
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.world.machine, self.world.processes, self.left)
    }
}

impl PartialEq for Supervised {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for Supervised {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

/// With one disk, both processes of which come back, and nothing else.
fn small_plan() -> Plan {
    let mut plan = plan(false, Some(DEATHS_MAX));
    plan.members.retain(|member| member.instance != VFIO1);
    for member in &mut plan.members {
        member.restarts = member.restarts.map(|_| DEATHS_MAX);
        if let Ok(group) = &mut member.restart {
            group.rewirings.retain(|rewiring| rewiring.peer != VFIO1);
        }
    }
    plan
}

impl Model for Bound {
    type State = Supervised;
    type Action = Step;

    fn init_states(&self) -> Vec<Supervised> {
        let mut world = World::with(small_plan(), Event::Boot);
        world.settle();
        vec![Supervised::new(world, self.left)]
    }

    fn actions(&self, state: &Supervised, steps: &mut Vec<Step>) {
        steps.extend(state.steps());
    }

    fn next_state(&self, state: &Supervised, step: Step) -> Option<Supervised> {
        Some(state.after(step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no state is a dead end", |_, state: &Supervised| {
                !state.steps().is_empty() || state.is_at_rest() && state.all_are_answered()
            }),
            Property::always("an order to stop ends in the end", |_, state: &Supervised| state.stops()),
            Property::always("the limit is kept", |_, state: &Supervised| {
                // A guest that is not held has all of its processes, or gets them, within the limit; or stands still
                // until those begin that a restart has brought.
                let machine = &state.world.machine;
                let over = machine.deaths().values().any(|deaths| deaths.recent_count() > DEATHS_MAX);
                !over
                    || machine.standstill().is_some()
                    || machine.restart_is_beginning()
                    || !["running", "paused"].contains(&machine.phase().as_str())
            }),
            Property::always(
                "a guest that is held executes nothing behind the hold",
                |_, state: &Supervised| {
                    let recovery = state.world.machine.recovery.as_ref();
                    let cpus = state.world.processes.get(&state.world.life(VCPU));
                    let runs = cpus.is_some_and(|cpus| cpus.state == State::Running && !cpus.is_held);
                    !(runs && recovery.is_some_and(Recovery::waits_for_order))
                },
            ),
        ];
        if self.left.orders > 0 {
            properties.extend([
                Property::sometimes("all processes are back", |_, state: &Supervised| {
                    let is_back = |instance| {
                        state.world.machine.life_of(instance).is_some_and(|life| life.generation > 1)
                    };
                    state.world.machine.is_idle() && [NVME0, VFIO0, SMMU0].into_iter().all(is_back)
                }),
                Property::sometimes("the guest is held, and goes on by order", |_, state: &Supervised| {
                    let is_ordered = |answer: &Result<_, _>| {
                        matches!(answer, Ok(crate::coordinator::vm::action::Success::Revived(_)))
                    };
                    state.world.machine.is_idle() && state.world.answers.values().any(is_ordered)
                }),
            ]);
        }
        properties
    }
}

/// Every order of the events of a VM with so many of these.
fn check(what: &str, left: Left) {
    let begun = std::time::Instant::now();
    let checker = Bound { left }.checker().threads(2).spawn_bfs().join();
    println!("{what}: {} states in {:.1?}", checker.unique_state_count(), begun.elapsed());
    checker.assert_properties();
}

#[test]
fn processes_that_die_at_every_step_are_followed_by_one_life_each_and_the_limit_is_kept() {
    check("3 deaths, an order", Left { deaths: 3, refusals: 0, commands: 0, orders: 1, forgotten: 0 });
}

#[test]
fn processes_that_die_and_refuse_at_every_step_of_a_command_leave_no_dead_end() {
    check("a death, a refusal", Left { deaths: 1, refusals: 1, commands: 1, orders: 0, forgotten: 0 });
}
