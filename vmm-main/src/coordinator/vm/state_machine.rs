// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine of a VM: events in, actions out, nothing else. No I/O, no clock, no runtime, no descriptor.
//!
//! Its state is that of each life ([`lives`]), the phase that users see, and the one operation that is under way. An
//! event changes the state of a life or the operation; then [`StateMachine::handle`] goes on as far as it can: each
//! operation looks at the lives there are and requests what is missing, until there is something to wait for. So the
//! death of a process needs no special path through an operation: a life that is gone is waited for no more, and its
//! failure policy decides ([`losses`]). Whatever the operation, `Stop` replaces it.

mod boot;
mod commands;
mod deaths;
mod dirty_rate;
mod ending;
mod given_up;
mod incoming;
mod interrupted;
mod lives;
mod losses;
mod mover;
mod outgoing;
mod recovery;
mod reports;
mod reset;
mod restart;
mod save_restore;
mod standstill;
#[cfg(test)]
mod tests;
mod transit;
mod unmapping;
mod way_in;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use ipc::instance::InstanceId;

use self::boot::BootStep;
pub use self::deaths::Deaths;
use self::dirty_rate::DirtyRate;
use self::incoming::Incoming;
use self::lives::{Life, Lives};
use self::outgoing::Outgoing;
use self::recovery::Recovery;
use self::reset::ResetStep;
pub(super) use self::reset::{cannot_be_killed, names};
use self::restart::Restart;
use self::save_restore::SaveRestore;
pub use self::standstill::Standstill;
use self::transit::Transit;
use super::action::{Action, Notice};
use super::event::{Event, LifeId, MigrationEvent, Ticket, Timer};
use super::plan::Plan;
use crate::lifecycle::{Phase, Why};
use crate::problem::{Class, Problem};

/// What the VM is doing. There is one operation at a time: no two ever move the same process.
#[derive(Debug, Clone)]
enum Operation {
    /// Nothing: a command may come.
    Idle,
    /// The guest is loaded and its processes are started.
    Boot(BootStep),
    /// The guest is paused, or goes on.
    Transit(Transit),
    /// The guest moves into new processes.
    SaveRestore(SaveRestore),
    /// One process is started anew under the guest.
    Restart(Restart),
    /// The guest moves to another host.
    Outgoing(Box<Outgoing>),
    /// It comes from another host.
    Incoming(Box<Incoming>),
    /// How fast the guest dirties its memory is measured.
    DirtyRate(DirtyRate),
    /// One process attempts something.
    Probe { ticket: Ticket, life: LifeId },
    /// The guest's last life ends, and the next begins.
    Reset(ResetStep),
    /// Every process is being ended.
    Ending(Why),
    /// Nothing runs any more.
    Over,
}

/// What an operation came to: it waits (`Break`), or goes over into another one (`Continue`).
type Step = ControlFlow<Operation, Operation>;

/// Whether everything that was requested has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    Waiting,
}

/// What the guest asked for, until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuestRequest {
    PowerOff,
    Reset,
}

/// The life of a VM as a pure function: events in, actions out.
#[derive(Debug, Clone)]
pub struct StateMachine {
    plan: Plan,
    phase: Phase,
    operation: Operation,
    /// What follows a process that died, beside the operation.
    recovery: Option<Recovery>,
    /// Who has the mover attempt what its sandbox refuses, beside the migration.
    mover_probe: Option<(Ticket, LifeId)>,
    /// Who was answered though what it asked for is still under way: the VM stands still.
    answered_early: Option<Ticket>,
    /// Deaths that the guest went on after, or waits behind.
    deaths: BTreeMap<InstanceId, Deaths>,
    lives: Lives,
    /// The set of processes that the guest lives in.
    generation: u32,
    /// The latest number that a set of processes, or a life beside them, was given. None is used again: not that of a
    /// set whose move was given up either.
    last_generation: u32,
    /// The guest has stayed, and another host may have its disks: it does not go on before they are locked.
    disks_are_released: bool,
    /// The epoch of the latest measurement.
    epoch: u64,
    boot_count: u32,
    /// The latest boot was long enough ago for another one.
    next_boot_due: bool,
    reset_count: u32,
    /// By which of its CPUs' lives the guest asked for something that is not done yet.
    guest_request: Option<(LifeId, GuestRequest)>,
    /// Devices that the guest has lost since it booted, or did not find, and why.
    lost_devices: BTreeMap<InstanceId, String>,
    /// Processes of devices that were reaped, and with them the device's DMA; by the set that they were of.
    dma_ended: BTreeSet<(u32, InstanceId)>,
    /// Physical devices that the CPUs' process holds nothing of any more; by the set that it is of.
    unmapped: BTreeSet<(u32, InstanceId)>,
    /// Devices that have failed, whose server may be ending: its own report would say more than theirs.
    failing_devices: BTreeMap<LifeId, String>,
    /// Devices whose servers were not reached at the last attempt, and why.
    unreachable: BTreeMap<InstanceId, String>,
    /// Processes that hang in the kernel after the end, with all that they hold.
    hanging: Vec<InstanceId>,
    /// The same of devices that the guest goes on without: no next boot can have what they hold.
    left_hanging: Vec<InstanceId>,
    actions: Vec<Action>,
}

impl StateMachine {
    /// A VM without processes, which begins by [`Event::Boot`]. The servers of some devices were not reached.
    pub fn new(plan: Plan, unreachable: BTreeMap<InstanceId, String>) -> Self {
        Self {
            plan,
            phase: Phase::Created,
            operation: Operation::Idle,
            recovery: None,
            mover_probe: None,
            answered_early: None,
            deaths: BTreeMap::new(),
            lives: Lives::default(),
            generation: 0,
            last_generation: 0,
            disks_are_released: false,
            epoch: 0,
            boot_count: 0,
            next_boot_due: false,
            reset_count: 0,
            guest_request: None,
            lost_devices: BTreeMap::new(),
            dma_ended: BTreeSet::new(),
            unmapped: BTreeSet::new(),
            failing_devices: BTreeMap::new(),
            unreachable,
            hanging: Vec::new(),
            left_hanging: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Takes an event, and says what is to be done about it, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Boot => self.begin_boot(),
            Event::Receive => self.begin_receive(),
            Event::Migration(event) => self.migration(event),
            Event::Loaded(result) => self.loaded(result),
            Event::Prepared(result) => self.prepared(result),
            Event::Reconnected(result) => self.reconnected(result),
            Event::DirtyLogsOpened(result) => self.dirty_logs_opened(result),
            Event::Process(life, event) => self.process(life, event),
            Event::Command(ticket, command) => self.command(ticket, command),
            Event::Stop(why) => self.end(why),
            Event::Timeout(timer) => self.timeout(timer),
        }
        self.go_on();
        std::mem::take(&mut self.actions)
    }

    /// The phase that users see.
    pub fn phase(&self) -> &Phase {
        if self.standstill().is_some() { &Phase::Held } else { &self.phase }
    }

    /// Whether a command would be taken now.
    pub const fn is_idle(&self) -> bool {
        matches!(self.operation, Operation::Idle) && !self.is_recovering()
    }

    /// Whether a command would be answered now: it begins, or is refused for what may take long: a migration, a VM that
    /// stands still. A guest that has come is a moment from being idle.
    pub fn answers_commands(&self) -> bool {
        let migrates = match &self.operation {
            Operation::Outgoing(_) => true,
            Operation::Incoming(coming) => !coming.is_committed(),
            _ => false,
        };
        self.is_idle() || migrates && !self.is_recovering() || self.standstill().is_some()
    }

    /// How far a migration is, in the words of its states.
    pub const fn migration_state(&self) -> Option<&'static str> {
        match &self.operation {
            Operation::Outgoing(leaving) => Some(leaving.as_str()),
            Operation::Incoming(coming) => Some(coming.as_str()),
            _ => None,
        }
    }

    /// Whether a guest has just come from another host: the connections to that are being closed.
    pub const fn guest_has_come(&self) -> bool {
        matches!(&self.operation, Operation::Incoming(coming) if coming.is_committed())
    }

    /// The set of processes that the guest lives in.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The life of an instance that the guest lives with.
    pub fn life_of(&self, instance: InstanceId) -> Option<LifeId> {
        self.lives.of_instance(self.generation, instance)
    }

    /// The process that has the guest's CPUs.
    pub fn cpus(&self) -> Option<LifeId> {
        let member = self.plan.members.iter().find(|member| member.runs_guest)?;
        self.life_of(member.instance)
    }

    /// Resets that the guest has asked for.
    pub const fn reset_count(&self) -> u32 {
        self.reset_count
    }

    /// Devices that the guest is without, and why.
    pub const fn lost_devices(&self) -> &BTreeMap<InstanceId, String> {
        &self.lost_devices
    }

    /// Processes that hang in the kernel after the end.
    pub fn hanging(&self) -> &[InstanceId] {
        &self.hanging
    }

    /// Where a life stands by the contract; `None` if it is over, or ending.
    pub fn state_of(&self, life: LifeId) -> Option<ipc::protocol::lifecycle::State> {
        self.lives.get(life).filter(|life| !life.is_ending()).map(|life| life.state)
    }

    /// Lets the operation go on until it has to wait; not while a process is being started anew after its death.
    fn go_on(&mut self) {
        self.recover();
        if self.is_recovering() {
            return;
        }
        loop {
            // No operation looks at this field: `Idle` stands in it only while one of them is looked at.
            let step = match std::mem::replace(&mut self.operation, Operation::Idle) {
                Operation::Idle => self.idle(),
                Operation::Boot(step) => self.boot(step),
                Operation::Transit(transit) => self.transit(transit),
                Operation::SaveRestore(moving) => self.save_restore(moving),
                Operation::Restart(restart) => self.restart(restart),
                Operation::Outgoing(leaving) => self.outgoing(leaving),
                Operation::Incoming(coming) => self.incoming(coming),
                Operation::DirtyRate(measuring) => self.dirty_rate(measuring),
                Operation::Reset(step) => self.reset(step),
                Operation::Ending(why) => self.ending(why),
                other @ (Operation::Probe { .. } | Operation::Over) => Step::Break(other),
            };
            match step {
                Step::Continue(next) => self.operation = next,
                Step::Break(waiting) => {
                    self.operation = waiting;
                    return;
                }
            }
        }
    }

    /// A running guest's own request is carried out when nothing else is under way.
    fn idle(&mut self) -> Step {
        if self.phase != Phase::Running {
            return Step::Break(Operation::Idle);
        }
        match self.guest_request.take() {
            None => Step::Break(Operation::Idle),
            Some((_, GuestRequest::PowerOff)) => self.power_off(),
            Some((_, GuestRequest::Reset)) => self.begin_reset(),
        }
    }

    fn timeout(&mut self, timer: Timer) {
        match timer {
            Timer::DeviceOutcome(life) if self.lives.get(life).is_some_and(Life::is_opening) => {
                self.fail(life, "it does not say what became of its device".to_owned());
            }
            Timer::ServerEnd(life) => {
                if let Some(reason) = self.failing_devices.remove(&life) {
                    self.lose_device(life.instance, &reason, Vec::new());
                }
            }
            Timer::NextBoot(boot) => self.next_boot_due |= boot == self.boot_count,
            Timer::DirtyRate(epoch) => self.dirty_rate_over(epoch),
            Timer::Migration(epoch, wait) => {
                self.outgoing_over_time(epoch, wait);
                self.incoming_over_time(epoch, wait);
            }
            Timer::DeathForgotten(instance, number) => self.forget_death(instance, number),
            Timer::Unmapping(device, boot) => self.unmapping_over(device, boot),
            Timer::Stop => self.give_up_on_processes(),
            // It has said so meanwhile, or is gone.
            Timer::DeviceOutcome(_) => {}
        }
    }

    /// Something of a migration.
    fn migration(&mut self, event: MigrationEvent) {
        match (event, &self.operation) {
            (MigrationEvent::Cancel(ticket), _) => self.cancel_migration(ticket),
            (MigrationEvent::Resolve(ticket, here), _) => self.resolve_migration(ticket, here),
            (event, Operation::Outgoing(_)) => self.outgoing_event(event),
            (event, Operation::Incoming(_)) => self.incoming_event(event),
            (MigrationEvent::DisksLocked(result), Operation::Transit(_)) => self.disks_locked(result),
            _ => {}
        }
    }

    /// Whether another host may have the disks: nothing that writes to them is let go.
    const fn lacks_disks(&self) -> bool {
        match &self.operation {
            Operation::Outgoing(leaving) => leaving.disks_are_released,
            _ => self.disks_are_released,
        }
    }

    /// Whether a next life is not begun yet: the disks may be another host's, or those of a planned restart are about
    /// to begin, and could not be rewired before.
    const fn defers_recovery(&self) -> bool {
        self.lacks_disks() || self.restart_is_beginning()
    }

    /// Whether a process is being started anew after its death.
    const fn is_recovering(&self) -> bool {
        self.recovery.is_some() && !self.defers_recovery()
    }

    /// A number for a new set of processes.
    fn next_generation(&mut self) -> u32 {
        self.last_generation = self.last_generation.saturating_add(1);
        self.last_generation
    }

    fn tell(&mut self, notice: Notice) {
        self.actions.push(Action::Notify(notice));
    }
}

/// Something that cannot happen has happened.
pub(super) fn bug(what: impl Into<String>) -> Problem {
    Problem::host(what, "coordinator", "report this as a bug")
}

/// What failed, at which step of which operation, and in which process.
fn at_step(step: &str, culprit: Option<InstanceId>, problem: Problem) -> Problem {
    let what = match culprit {
        Some(instance) => format!("{step} of {instance}: {}", problem.what),
        None => format!("{step}: {}", problem.what),
    };
    Problem { what, ..problem }
}

/// The answer to a command that the end of the VM came before.
fn has_ended() -> Problem {
    Problem::new(Class::State, "the VM has ended", "control API", "start it again with `bulkhead run`")
}
